"""Masks: what is masked never counts."""

import jax
import jax.numpy as jnp
import numpy as np

from dslstm_jax.ops.masking import centered_frames, length_mask, masked_mean, whole_frames, zero_padding


def test_length_mask():
    np.testing.assert_array_equal(length_mask(jnp.array([0, 2, 3]), 3), [[0, 0, 0], [1, 1, 0], [1, 1, 1]])


def test_masked_mean_and_its_gradient_ignore_nan_padding():
    values = jnp.array([[[1.0, 2.0], [3.0, 6.0], [jnp.nan, jnp.nan]]])
    mask = jnp.array([[True, True, False]])
    np.testing.assert_allclose(masked_mean(values, mask), [[2.0, 4.0]])
    gradient = jax.grad(lambda x: masked_mean(x, mask).sum())(values)
    np.testing.assert_allclose(gradient, [[[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]])


def test_mean_of_nothing_is_zero():
    np.testing.assert_array_equal(masked_mean(jnp.ones((1, 2, 3)), jnp.zeros((1, 2), bool)), np.zeros((1, 3)))


def test_zero_padding_keeps_what_is_valid():
    values = jnp.arange(6.0).reshape(1, 3, 2)
    np.testing.assert_array_equal(zero_padding(values, jnp.array([[True, False, True]])), [[[0, 1], [0, 0], [4, 5]]])


def test_frame_counts():
    samples = jnp.array([0, 1, 399, 400, 401, 560])
    assert whole_frames(samples, 400, 160).tolist() == [0, 1, 1, 1, 1, 2]
    assert centered_frames(samples, 160).tolist() == [0, 1, 3, 3, 3, 4]

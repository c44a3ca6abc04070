"""Batch norm: PyTorch's arithmetic, and no influence of what is masked."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dslstm_jax.ops.normalization import Statistics, batch_norm, masked_moments, update_running

X = np.random.default_rng(0).normal(3, 2, size=(6, 4, 5)).astype(np.float32)
RUNNING = Statistics(jnp.full(5, 0.5), jnp.full(5, 2.0))
EVERY_ROW = jnp.ones((6, 1, 1), bool)


def test_training_normalizes_by_the_batch_and_remembers_the_unbiased_variance():
    out, new = batch_norm(
        jnp.asarray(X), EVERY_ROW, jnp.full(5, 0.1), jnp.full(5, 7.0), RUNNING, axes=(0, 1), train=True
    )
    np.testing.assert_allclose(out, 0.1 * (X - X.mean((0, 1))) / np.sqrt(X.var((0, 1)) + 1e-5) + 7, rtol=1e-5)
    np.testing.assert_allclose(new.mean, 0.9 * 0.5 + 0.1 * X.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(new.variance, 0.9 * 2 + 0.1 * X.var((0, 1), ddof=1), rtol=1e-5)


def test_evaluation_uses_the_running_statistics():
    out, new = batch_norm(jnp.asarray(X), EVERY_ROW, jnp.ones(5), jnp.zeros(5), RUNNING, axes=(0, 1), train=False)
    np.testing.assert_allclose(out, (X - 0.5) / np.sqrt(2 + 1e-5), rtol=1e-5)
    assert new is RUNNING


def test_masked_rows_do_not_count_and_get_no_gradient():
    spoiled = np.concatenate([X, np.full((2, 4, 5), np.nan, np.float32)])
    valid = jnp.arange(8)[:, None, None] < 6
    found, expected = (
        masked_moments(jnp.asarray(spoiled), valid, (0, 1)),
        masked_moments(jnp.asarray(X), EVERY_ROW, (0, 1)),
    )
    jax.tree.map(np.testing.assert_array_equal, found.statistics, expected.statistics)
    assert found.size == expected.size == 24
    gradient = jax.grad(lambda x: masked_moments(x, valid, (0, 1)).statistics.variance.sum())(jnp.asarray(spoiled))
    assert bool(jnp.isfinite(gradient).all())
    assert not gradient[6:].any()


def test_an_empty_batch_changes_nothing_and_a_single_value_has_no_variance():
    nothing = masked_moments(jnp.asarray(X), jnp.zeros((6, 1, 1), bool), (0, 1))
    jax.tree.map(np.testing.assert_array_equal, update_running(RUNNING, nothing), RUNNING)
    single = masked_moments(jnp.asarray(X[0]), jnp.ones((4, 1), bool) & (jnp.arange(4) == 0)[:, None], (0,))
    np.testing.assert_allclose(update_running(RUNNING, single).variance, 0.9 * 2, rtol=1e-6)


@pytest.mark.parametrize("around", [None, 0.3])
def test_devices_take_their_statistics_together(around):
    generator = np.random.default_rng(0)
    x = generator.normal(0.5, 0.2, size=(6, 5, 3)).astype(np.float32)
    valid = generator.random((6, 5, 1)) < 0.6
    valid[:, 2] = False  # a step without any valid row
    guess = None if around is None else jnp.full(3, around)

    def loss(x, valid, axis_name=None):
        moments = masked_moments(x, valid, (0,), axis_name, guess)
        return jnp.sum(jnp.sin(moments.statistics.mean) + moments.statistics.variance**2), moments

    (_, expected), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(x), jnp.asarray(valid))

    def shard(x, valid):
        (_, moments), gradient = jax.value_and_grad(partial(loss, axis_name="data"), has_aux=True)(x, valid)
        return moments, gradient / 2  # each device's loss is the whole one: psum's transpose adds both

    moments, gradients = jax.pmap(shard, axis_name="data")(x.reshape(2, 3, 5, 3), valid.reshape(2, 3, 5, 1))
    jax.tree.map(lambda one, both: np.testing.assert_allclose(both[0], one, rtol=0, atol=1e-6), expected, moments)
    np.testing.assert_allclose(gradients.reshape(x.shape), gradient, rtol=0, atol=1e-6)
    assert np.asarray(moments.size[0])[2] == 0
    assert not np.asarray(moments.statistics.mean)[0, 2].any()

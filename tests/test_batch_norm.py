"""Batch norm: PyTorch's arithmetic, and no influence of what is masked."""

import jax
import jax.numpy as jnp
import numpy as np

from dslstm_jax.recurrence.batch_norm import Statistics, batch_norm, masked_moments, update_running

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

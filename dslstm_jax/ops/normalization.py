"""Batch normalization as plain functions, PyTorch's numbers: biased variance to normalize, unbiased to remember.

The same functions serve the convolutions (statistics over batch, time and frequency) and the DS-LSTM (over the batch,
step by step). Padded positions take no part in the statistics. Layer normalization, which has none, stands beside it.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from dslstm_jax.ops.promotion import to_rank

EPSILON = 1e-5
MOMENTUM = 0.1
"""Weight of the new batch in the running statistics (PyTorch's convention)."""


class Statistics(NamedTuple):
    """Mean and variance of each feature. [..., F]"""

    mean: Float[Array, "*S F"]
    variance: Float[Array, "*S F"]


class Moments(NamedTuple):
    """Statistics of a batch (biased variance), and how many values each was taken over."""

    statistics: Statistics
    size: Float[Array, "*S 1"]


def sum_over_devices(values: Any, axis_name: str | None) -> Any:
    """The sums of a tree of arrays over the devices of a mapped axis; the values themselves if there is none."""
    return values if axis_name is None else lax.psum(values, axis_name)


def masked_moments(
    x: Float[Array, "*N F"],
    valid: Bool[Array, "*N 1"],
    axes: tuple[int, ...],
    axis_name: str | None = None,
    around: Float[Array, " F"] | None = None,
) -> Moments:
    """Mean and biased variance over `axes`, of the valid positions only. Zeros where there are none.

    Args:
      x: values.
      valid: True where a position counts; broadcast against x.
      axes: the axes that are averaged away; the last one, F, stays.
      axis_name: the mapped axis of data parallelism; the moments are then those of all devices' values.
      around: a rough guess of the mean, the same on all devices. With it the devices exchange one array instead of
        two after one another, which matters at every step of a recurrence.
    """
    valid = jnp.broadcast_to(valid, (*x.shape[:-1], 1))
    count = jnp.sum(valid, axis=axes, dtype=x.dtype)
    if axis_name is not None and around is not None:
        return _moments_around(lax.stop_gradient(around), x, valid, count, axes, axis_name)
    count, total = sum_over_devices((count, jnp.sum(jnp.where(valid, x, 0), axis=axes)), axis_name)
    divisor = jnp.maximum(count, 1)
    mean = total / divisor
    centered = jnp.where(valid, x - jnp.expand_dims(mean, axes), 0)
    squares = sum_over_devices(jnp.sum(centered**2, axis=axes), axis_name)
    return Moments(Statistics(mean, squares / divisor), count)


def _moments_around(
    guess: Float[Array, " F"],
    x: Float[Array, "*N F"],
    valid: Bool[Array, "*N 1"],
    count: Float[Array, "*S 1"],
    axes: tuple[int, ...],
    axis_name: str,
) -> Moments:
    """Moments from count, sum and sum of squares of the differences from the guess, side by side in one array."""
    differences = jnp.where(valid, x - to_rank(guess, x.ndim), 0)
    sums = jnp.concatenate([jnp.sum(differences, axis=axes), jnp.sum(differences**2, axis=axes), count], axis=-1)
    sums = lax.psum(sums, axis_name)
    features = x.shape[-1]
    count = sums[..., -1:]
    mean, square = (sums[..., start : start + features] / jnp.maximum(count, 1) for start in (0, features))
    mean_or_zero = jnp.where(count > 0, to_rank(guess, mean.ndim) + mean, 0)
    return Moments(Statistics(mean_or_zero, jnp.maximum(square - mean**2, 0)), count)


def normalize(
    x: Float[Array, "*N F"], statistics: Statistics, scale: Float[Array, " F"], shift: Float[Array, " F"]
) -> Float[Array, "*N F"]:
    """scale (x - mean) / sqrt(variance + 1e-5) + shift."""
    inverse = lax.rsqrt(statistics.variance + EPSILON)
    factor = to_rank(scale, inverse.ndim) * inverse
    mean, factor, shift = (to_rank(values, x.ndim) for values in (statistics.mean, factor, shift))
    return (x - mean) * factor + shift


def layer_norm(
    x: Float[Array, "*N F"], scale: Float[Array, "*S F"], shift: Float[Array, "*S F"]
) -> Float[Array, "*N F"]:
    """Normalizes the last axis by its own mean and biased variance, each position by itself (Ba et al. 2016)."""
    mean = x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
    return normalize(x, Statistics(mean, variance), scale, shift)


def pool_moments(moments: Moments) -> Moments:
    """Moments of all values together, of those of the groups along the first axis."""
    (means, variances), sizes = moments
    size = sizes.sum(axis=0)
    shares = sizes / jnp.maximum(size, 1)[None]
    mean = jnp.sum(shares * means, axis=0)
    variance = jnp.sum(shares * (variances + jnp.square(means - mean[None])), axis=0)
    return Moments(Statistics(mean, variance), size)


def update_running(running: Statistics, batch: Moments) -> Statistics:
    """Moves the running statistics a tenth of the way to the batch's; an empty batch leaves them as they are.

    The variance is made unbiased, n / (n - 1), except for a single value, whose variance stays 0.
    """
    unbiased = batch.statistics.variance * batch.size / jnp.maximum(batch.size - 1, 1)
    momentum = jnp.where(batch.size > 0, MOMENTUM, 0.0).astype(unbiased.dtype)
    return Statistics(
        running.mean + momentum * (batch.statistics.mean - running.mean),
        running.variance + momentum * (unbiased - running.variance),
    )


def batch_norm(
    x: Float[Array, "*N F"],
    valid: Bool[Array, "*N 1"],
    scale: Float[Array, " F"],
    shift: Float[Array, " F"],
    running: Statistics,
    *,
    axes: tuple[int, ...],
    train: bool,
    axis_name: str | None = None,
) -> tuple[Float[Array, "*N F"], Statistics]:
    """Normalizes by the batch's statistics and updates the running ones (train), or by the running ones."""
    if not train:
        return normalize(x, running, scale, shift), running
    batch = masked_moments(x, valid, axes, axis_name, running.mean)
    return normalize(x, batch.statistics, scale, shift), update_running(running, batch)

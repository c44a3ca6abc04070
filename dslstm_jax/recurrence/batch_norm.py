"""Batch normalization as plain functions, PyTorch's numbers: biased variance to normalize, unbiased to remember.

The same functions serve the convolutions (statistics over batch, time and frequency) and the DS-LSTM (over the batch,
step by step). Padded positions take no part in the statistics.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

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


def masked_moments(x: Float[Array, "*N F"], valid: Bool[Array, "*N 1"], axes: tuple[int, ...]) -> Moments:
    """Mean and biased variance over `axes`, of the valid positions only. Zeros where there are none.

    Args:
      x: values.
      valid: True where a position counts; broadcast against x.
      axes: the axes that are averaged away; the last one, F, stays.
    """
    valid = jnp.broadcast_to(valid, (*x.shape[:-1], 1))
    count = jnp.sum(valid, axis=axes, dtype=x.dtype)
    divisor = jnp.maximum(count, 1)
    mean = jnp.sum(jnp.where(valid, x, 0), axis=axes) / divisor
    centered = jnp.where(valid, x - jnp.expand_dims(mean, axes), 0)
    return Moments(Statistics(mean, jnp.sum(centered**2, axis=axes) / divisor), count)


def normalize(
    x: Float[Array, "*N F"], statistics: Statistics, scale: Float[Array, " F"], shift: Float[Array, " F"]
) -> Float[Array, "*N F"]:
    """scale (x - mean) / sqrt(variance + 1e-5) + shift."""
    factor = scale * lax.rsqrt(statistics.variance + EPSILON)
    return (x - statistics.mean) * factor + shift


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
) -> tuple[Float[Array, "*N F"], Statistics]:
    """Normalizes by the batch's statistics and updates the running ones (train), or by the running ones."""
    if not train:
        return normalize(x, running, scale, shift), running
    batch = masked_moments(x, valid, axes)
    return normalize(x, batch.statistics, scale, shift), update_running(running, batch)

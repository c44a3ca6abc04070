"""Silence before and after the speech, left out: it would count in every mean and cost its time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from dslstm_jax.ops.masking import length_mask, zero_padding

BLOCK = 256
"""Samples whose peak is taken together: 16 ms at 16 kHz. Cuts are at multiples of it, so that what was trimmed once
loses nothing when it is trimmed again."""
MARGIN = 10
"""Blocks that are kept on each side, for what begins and ends softly."""


def trimming_rule(decibels: float) -> str:
    """All that decides what is cut off, for who remembers lengths: another version may cut otherwise."""
    return f"{decibels:g} dB, blocks of {BLOCK}, {MARGIN} kept" if decibels else ""


def _loud_span(samples: Any, length: Any, decibels: float) -> tuple[Any, Any]:
    """Where to cut one recording, NumPy's or JAX's; in peaks and not in sums, which no two of them round alike.

    Args:
      samples: [N], 0 behind `length`.
      length: number of samples.
      decibels: blocks whose peak is further below the recording's peak are silent.

    Returns:
      The first sample and the one behind the last.
    """
    xp = samples.__array_namespace__()
    blocks = -(-samples.shape[0] // BLOCK)
    padded = xp.pad(samples, (0, blocks * BLOCK - samples.shape[0]))
    peaks = xp.max(xp.abs(padded.reshape(blocks, BLOCK)), axis=1)
    loud = peaks >= xp.max(peaks) * np.float32(10 ** (-decibels / 20))
    first, behind = xp.argmax(loud), blocks - xp.argmax(xp.flip(loud))
    return xp.maximum(first - MARGIN, 0) * BLOCK, xp.minimum((behind + MARGIN) * BLOCK, length)


def trim_recording(samples: Float32[np.ndarray, " N"], decibels: float) -> Float32[np.ndarray, " M"]:
    """`trim` of one recording on the host, the same to the sample: a view of it."""
    if not decibels or not len(samples):
        return samples
    start, stop = _loud_span(samples, len(samples), decibels)
    return samples[start:stop]


def trim(
    waveforms: Float[Array, "B N"], lengths: Int[Array, " B"], decibels: float
) -> tuple[Float[Array, "B N"], Int[Array, " B"]]:
    """Cuts off the silence at both ends of each recording; pauses within it stay.

    Silent is a block of 16 ms (at 16 kHz) whose peak is more than `decibels` below the recording's. 160 ms of the
    silence stay on each side. Digital silence, which has no peak, is left whole, and so is a row of length 0.

    Args:
      waveforms: samples, valid up to `lengths`; what lies behind is ignored, NaN too.
      lengths: samples of each waveform.
      decibels: 0 cuts nothing and costs nothing.

    Returns:
      The waveforms, each moved to begin its row, 0 behind; and their lengths.
    """
    if not decibels:
        return waveforms, lengths
    samples = waveforms.shape[1]
    zeroed = zero_padding(waveforms, length_mask(lengths, samples))
    starts, stops = jax.vmap(functools.partial(_loud_span, decibels=decibels))(zeroed, lengths)
    moved = jax.vmap(jnp.roll)(zeroed, -starts)
    return zero_padding(moved, length_mask(stops - starts, samples)), (stops - starts).astype(lengths.dtype)

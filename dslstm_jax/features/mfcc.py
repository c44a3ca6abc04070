"""MFCC_E_D_A: HTK's 12 cepstra and log energy with deltas and accelerations, as openSMILE computes them."""

from functools import partial

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from dslstm_jax.config import MfccConfig
from dslstm_jax.features import signal
from dslstm_jax.ops.masking import length_mask, whole_frames, zero_padding

FRAME_LENGTH = 400
"""Samples in a frame (25 ms at 16 kHz)."""
N_FFT = 512
PREEMPHASIS = 0.97
LIFTER = 22
DELTA_WINDOW = 2
"""Frames on each side of the regression that makes the deltas."""


def _deltas(x: Float[Array, "B T F"]) -> Float[Array, "B U F"]:
    """Regression slope over +-window frames (HTK book, equation 5.16), for all frames that have both sides."""
    window = DELTA_WINDOW
    size = x.shape[1] - 2 * window
    total = jnp.zeros((), x.dtype)
    for k in range(1, window + 1):
        total = total + k * (x[:, window + k : window + k + size] - x[:, window - k : window - k + size])
    return total / (2 * sum(k * k for k in range(1, window + 1)))


def _repeat_first(x: Float[Array, "B T F"], times: int) -> Float[Array, "B U F"]:
    # A CPU would otherwise join them anew for every difference that is made of them.
    return lax.optimization_barrier(jnp.concatenate([jnp.repeat(x[:, :1], times, axis=1), x], axis=1))


def _static(raw: Float[Array, "B T L"], config: MfccConfig, sample_rate: int) -> Float[Array, "B T 13"]:
    """Liftered cepstra 1..n and the log energy of raw frames."""
    previous = jnp.concatenate([raw[..., :1], raw[..., :-1]], axis=-1)
    window = signal.hamming_window(FRAME_LENGTH).astype(raw.dtype)
    windowed = (raw - PREEMPHASIS * previous) * window[None, None]
    filters = signal.htk_mel_filters(sample_rate, N_FFT, config.mel_bands)
    mel = signal.project(signal.power_spectrum(windowed, N_FFT), filters)
    cepstra = signal.project(
        jnp.log(jnp.maximum(mel, 1)), signal.cepstral_matrix(config.mel_bands, config.cepstra, LIFTER)
    )
    energy = jnp.log(jnp.maximum(jnp.sum(raw * raw, axis=-1, keepdims=True), 1))
    return jnp.concatenate([cepstra, energy], axis=-1)


def frames_in(samples: int, config: MfccConfig) -> int:
    """Frames of a row of so many samples, at least one."""
    return 1 + max(samples - FRAME_LENGTH, 0) // config.hop_length


def mfcc(
    waveforms: Float[Array, "B N"],
    lengths: Int[Array, " B"],
    config: MfccConfig = MfccConfig(),  # noqa: B008 (frozen)
    sample_rate: int = 16_000,
) -> tuple[Float[Array, "B T F"], Int[Array, " B"]]:
    """Cepstra 1..12 and log energy, their 13 deltas and 13 accelerations (openSMILE's MFCC12_E_D_A).

    Args:
      waveforms: samples in [-1, 1], valid up to `lengths`; what lies behind is ignored, NaN too.
      lengths: samples of each waveform. N samples give 1 + (N - 400) // hop_length frames; fewer samples than
        one frame give one frame completed with zeros, and 0 samples give none.
      config: hop, filters, cepstra.
      sample_rate: hertz.

    Returns:
      The features (39 columns by default), 0 at padded frames, and the number of frames of each waveform.
    """
    frames = frames_in(waveforms.shape[1], config)
    counts = whole_frames(lengths, FRAME_LENGTH, config.hop_length)
    framing = signal.Framing(FRAME_LENGTH, config.hop_length, frames)
    static_of = partial(_static, config=config, sample_rate=sample_rate)
    static = signal.over_frames(static_of, framing, waveforms, lengths)
    return with_derivatives(static, counts), counts


def with_derivatives(static: Float[Array, "B T L"], counts: Int[Array, " B"]) -> Float[Array, "B T F"]:
    """Features, their deltas and their accelerations side by side, F = 3 L; 0 behind the `counts` valid frames.

    Args:
      static: valid in the first `counts` frames.
      counts: frames of each row.
    """
    # The last valid frame goes on past the end, far enough for real deltas there: openSMILE's accelerations
    # see deltas of the continued statics at the end, but copies of the first delta at the start.
    frames = static.shape[1]
    last = jnp.take_along_axis(static, jnp.maximum(counts - 1, 0)[:, None, None], axis=1)
    continued = jnp.where(length_mask(counts, frames)[..., None], static, last)
    continued = jnp.concatenate([continued, jnp.repeat(last, 2 * DELTA_WINDOW, axis=1)], axis=1)
    deltas = _deltas(_repeat_first(continued, DELTA_WINDOW))
    accelerations = _deltas(_repeat_first(deltas, DELTA_WINDOW))
    features = jnp.concatenate([static, deltas[:, :frames], accelerations], axis=-1)
    return zero_padding(features, length_mask(counts, frames))

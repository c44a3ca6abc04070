"""How periodic each frame is, and its pitch: the melody of speech, which MFCC leave out."""

import math
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dslstm_jax.config import MfccConfig
from dslstm_jax.features import signal
from dslstm_jax.features.mfcc import FRAME_LENGTH, frames_in, with_derivatives
from dslstm_jax.ops.masking import length_mask, whole_frames, zero_padding

COLUMNS = 2
"""Of a frame, before deltas and accelerations."""
HIGHEST = 600.0
"""Hertz."""
PERIODS = 3
"""Of the lowest pitch, in a window (Boersma 1993)."""
OCTAVE_COST = 0.02
"""What a period that is twice as long must be better by: a multiple of a period repeats as well as the period."""
MIDDLE = 180.0
"""Hertz, between low and high voices; the pitch is told in octaves above it."""
FLOOR = 1.0
"""Level of noise, in 16-bit sample values, that is taken to be everywhere: digital silence is not periodic."""
BESIDE = FRAME_LENGTH // 2
"""Samples that the window has more than the frame on each side: two frames in all, 50 ms at 16 kHz."""


def pitch(
    waveforms: Float[Array, "B N"],
    lengths: Int[Array, " B"],
    config: MfccConfig = MfccConfig(),  # noqa: B008 (frozen)
    sample_rate: int = 16_000,
) -> tuple[Float[Array, "B T 6"], Int[Array, " B"]]:
    """Periodicity and pitch of the frames of `mfcc`, their deltas and accelerations.

    The periodicity p in [0, 1] is the highest peak of the autocorrelation of the windowed frame over that of the
    window (Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
    sampled sound", 1993); its lag, refined by a parabola, is the period 1 / f. The second column is p^2 log2(f /
    180 Hz): where nothing is periodic there is no pitch, and it is near 0.

    Args:
      waveforms: samples in [-1, 1], valid up to `lengths`; what lies behind is ignored, NaN too.
      lengths: samples of each waveform.
      config: the hop. The window is two frames long, around the frame's middle, and the lowest pitch has three
        periods in it: 60 Hz at the defaults. The highest is 600 Hz.
      sample_rate: hertz.

    Returns:
      The features, 0 at padded frames, and the number of frames of each waveform.
    """
    size, frames = FRAME_LENGTH + 2 * BESIDE, frames_in(waveforms.shape[1], config)
    counts = whole_frames(lengths, FRAME_LENGTH, config.hop_length)
    framing = signal.Framing(size, config.hop_length, frames, before=BESIDE)
    static = signal.over_frames(partial(_of_windows, sample_rate=sample_rate), framing, waveforms, lengths)
    features = with_derivatives(zero_padding(static, length_mask(counts, frames)), counts)
    return features, counts


def _of_windows(windows: Float[Array, "B T L"], sample_rate: int) -> Float[Array, "B T 2"]:
    size = windows.shape[-1]
    shortest, longest = int(sample_rate / HIGHEST), size // PERIODS
    window = signal.hann_window(size)
    ours, of_window = _autocorrelation(windows, window, longest + 1), _of_the_window(window, longest + 1)
    ours = ours / (ours[..., :1] + FLOOR**2 * np.float32(np.sum(window**2))) / of_window[None, None]
    lags = np.arange(shortest, longest + 1)
    before, here, after = (ours[..., shortest + k : longest + 1 + k] for k in (-1, 0, 1))
    score = here - (OCTAVE_COST * np.log2(lags / shortest)).astype(np.float32)[None, None]
    score = jnp.where((here >= before) & (here >= after) & (here > 0), score, -1)
    best = jnp.argmax(score, axis=-1, keepdims=True)
    before, here, after = (jnp.take_along_axis(values, best, axis=-1)[..., 0] for values in (before, here, after))
    found = jnp.max(score, axis=-1) > -1
    curvature = before - 2 * here + after
    curved = found & (curvature < 0)
    offset = jnp.where(curved, 0.5 * (before - after) / jnp.where(curved, curvature, 1), 0)
    periodicity = jnp.where(found, jnp.clip(here, 0, 1), 0)
    lag = (best[..., 0] + shortest).astype(offset.dtype) + offset
    octaves = jnp.log2(sample_rate / MIDDLE / lag)
    return jnp.stack([periodicity, periodicity**2 * octaves], axis=-1)


def _autocorrelation(windows: Float[Array, "B T L"], window: np.ndarray, lags: int) -> Float[Array, "B T K"]:
    """At the lags 0 to `lags`, of the windowed samples without their mean."""
    size = windows.shape[-1]
    n_fft = 128 * math.ceil((size + lags) / 128)  # fast, and nothing comes round
    samples = (windows - windows.mean(axis=-1, keepdims=True)) * window.astype(windows.dtype)[None, None]
    return jnp.fft.irfft(signal.power_spectrum(samples, n_fft), n_fft)[..., : lags + 1]


def _of_the_window(window: np.ndarray, lags: int) -> np.ndarray:
    """Its own autocorrelation, 1 at the lag 0."""
    correlation = np.correlate(window, window, "full")[len(window) - 1 :][: lags + 1]
    return (correlation / correlation[0]).astype(np.float32)

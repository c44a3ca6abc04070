"""Mel-spectrograms in decibels with librosa's conventions, and the authors' stretch in time."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from dslstm_jax.config import SpectrogramConfig
from dslstm_jax.features import signal
from dslstm_jax.ops.masking import centered_frames, length_mask, zero_padding

POWER_FLOOR = 1e-10
"""Smallest power before the logarithm: -100 dB. The authors take the logarithm of 0 unguarded."""


def mel_power(
    waveforms: Float[Array, "B N"], lengths: Int[Array, " B"], config: SpectrogramConfig, sample_rate: int = 16_000
) -> tuple[Float[Array, "B T F"], Int[Array, " B"]]:
    """Mel power of the 16-bit sample values: librosa.feature.melspectrogram(center=True, pad_mode="constant").

    Args:
      waveforms: samples in [-1, 1], valid up to `lengths`; what lies behind is ignored, NaN too.
      lengths: samples of each waveform. N samples give 1 + N // hop_length frames, 0 samples none.
      config: window, hop and number of bands.
      sample_rate: hertz.

    Returns:
      The power, 0 at padded frames, and the number of frames of each waveform.
    """
    frames = 1 + waveforms.shape[1] // config.hop_length
    filters = signal.slaney_mel_filters(sample_rate, config.n_fft, config.mel_bands)

    def power_of(windows: Float[Array, "B T L"]) -> Float[Array, "B T F"]:
        windowed = windows * signal.hann_window(config.n_fft).astype(windows.dtype)[None, None]
        return signal.filter_bank(signal.power_spectrum(windowed, config.n_fft), filters)

    framing = signal.Framing(config.n_fft, config.hop_length, frames, before=config.n_fft // 2)
    power = signal.over_frames(power_of, framing, waveforms, lengths)
    counts = centered_frames(lengths, config.hop_length)
    return zero_padding(power, length_mask(counts, frames)), counts


def mel_spectrogram(
    waveforms: Float[Array, "B N"], lengths: Int[Array, " B"], config: SpectrogramConfig, sample_rate: int = 16_000
) -> tuple[Float[Array, "B T F"], Int[Array, " B"]]:
    """`mel_power` in decibels, 10 log10(power), never below -100 dB. Padded frames are -100 dB."""
    power, counts = mel_power(waveforms, lengths, config, sample_rate)
    return 10 * jnp.log10(jnp.maximum(power, POWER_FLOOR)), counts


def exact_quotient(counts: Int[Array, " B"], divisor: int) -> Float[Array, " B"]:
    """float32(counts) / float32(divisor), rounded as IEEE 754 says on every device, for counts below 2^24.

    Compilers multiply by a rounded 1 / divisor instead, and some devices divide no better. What that is wrong by is
    found in integers: modulo 2^32, for the difference itself is small.
    """
    rough = jnp.asarray(counts, jnp.float32) * np.float32(1 / divisor)
    bits = lax.bitcast_convert_type(rough, jnp.int32)
    exponent, mantissa = (bits >> 23) - 150, bits & 0x7FFFFF | 0x800000  # rough = mantissa * 2^exponent
    excess = mantissa * divisor - (jnp.asarray(counts, jnp.int32) << -exponent)
    nearest = bits - (2 * excess + divisor) // (2 * divisor)
    return jnp.where(counts > 0, lax.bitcast_convert_type(nearest, jnp.float32), 0)


def stretch_indices(counts: Int[Array, " B"], frames: int) -> Int[Array, "B frames"]:
    """Which of `counts` frames stands at each of `frames` positions: PyTorch's nearest rule.

    min(floor(float32(i) * (float32(T_in) / float32(T_out))), T_in - 1), in float32 exactly: integer
    arithmetic differs at some lengths.
    """
    scales = exact_quotient(counts, frames)
    nearest = jnp.floor(jnp.arange(frames, dtype=jnp.float32)[None] * scales[:, None]).astype(jnp.int32)
    return jnp.clip(nearest, 0, jnp.maximum(counts[:, None] - 1, 0))


def stretch(values: Float[Array, "B T F"], counts: Int[Array, " B"], frames: int) -> Float[Array, "B frames F"]:
    """Stretches the `counts` valid frames of each row to `frames` by nearest neighbor (the authors' resize)."""
    return jnp.take_along_axis(values, stretch_indices(counts, frames)[:, :, None], axis=1)

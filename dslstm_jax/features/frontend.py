"""The model's input from a waveform batch: the MFCC sequence and the mel-spectrograms, stretched or not."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dslstm_jax.config import FeaturesConfig, SpectrogramConfig
from dslstm_jax.features.mel import mel_spectrogram, stretch
from dslstm_jax.features.mfcc import frames_in, mfcc
from dslstm_jax.features.pitch import COLUMNS as PITCH_COLUMNS
from dslstm_jax.features.pitch import pitch
from dslstm_jax.ops.masking import length_mask, zero_padding
from dslstm_jax.ops.row_by_row import row_by_row


class Features(NamedTuple):
    """What the recognizer reads. What a model leaves unread is never computed: the compiler drops it."""

    mfcc: Float[Array, "B T D"]
    """39 columns, or 45 with features.pitch."""
    mfcc_lengths: Int[Array, " B"]
    spectrograms: tuple[Float[Array, "B frames F"], ...]
    """Decibels; one for each of features.spectrograms."""
    spectrogram_lengths: tuple[Int[Array, " B"], ...]
    """Valid frames of each; of a stretched one all, or none in padding rows."""


def extract_features(
    waveforms: Float[Array, "B N"], lengths: Int[Array, " B"], config: FeaturesConfig, shortest: int = 0
) -> Features:
    """All features of a padded batch.

    Args:
      waveforms: samples in [-1, 1] at config.sample_rate, valid up to `lengths`.
      lengths: samples of each waveform.
      config: which features.
      shortest: samples; shorter recordings (but not rows of length 0) go on with zeros to as many, for spectrograms
        that are not stretched.
    """

    def of_row(waveform: Float[Array, " N"], length: Int[Array, ""]) -> Features:
        rows = waveform[None], length[None]
        spectrograms = [
            _spectrogram(*rows, resolution, config.sample_rate, shortest) for resolution in config.spectrograms
        ]
        values, counts = (tuple(column) for column in zip(*spectrograms, strict=True))
        sequence, frames = mfcc(*rows, config.mfcc, config.sample_rate)
        if config.pitch:
            sequence = jnp.concatenate([sequence, pitch(*rows, config.mfcc, config.sample_rate)[0]], axis=-1)
        features = Features(sequence, frames, values, counts)
        return jax.tree.map(lambda leaf: leaf[0], features)

    features: Features = row_by_row(of_row, waveforms, lengths)
    return features


def blank_features(samples: int, config: FeaturesConfig) -> Features:
    """Zeros as `extract_features` shapes what it finds in one recording of so many samples."""
    mfcc_frames = frames_in(samples, config.mfcc)
    frames = [resolution.frames or 1 + samples // resolution.hop_length for resolution in config.spectrograms]
    return Features(
        jnp.zeros((1, mfcc_frames, 3 * (config.mfcc.cepstra + 1 + config.pitch * PITCH_COLUMNS))),
        jnp.array([mfcc_frames]),
        tuple(
            jnp.zeros((1, count, resolution.mel_bands))
            for count, resolution in zip(frames, config.spectrograms, strict=True)
        ),
        tuple(jnp.array([count]) for count in frames),
    )


def _spectrogram(
    waveforms: Float[Array, "B N"],
    lengths: Int[Array, " B"],
    config: SpectrogramConfig,
    sample_rate: int,
    shortest: int,
) -> tuple[Float[Array, "B T F"], Int[Array, " B"]]:
    """Decibels, and the number of valid frames."""
    if config.frames:
        decibels, counts = mel_spectrogram(waveforms, lengths, config, sample_rate)
        return stretch(decibels, counts, config.frames), jnp.where(counts > 0, config.frames, 0)
    if shortest:
        samples = waveforms.shape[1]
        waveforms = zero_padding(waveforms, length_mask(lengths, samples))
        if samples < shortest:  # so written, it is decided for any number of samples from `shortest` on
            waveforms = jnp.pad(waveforms, ((0, 0), (0, shortest - samples)))
        lengths = jnp.where(lengths > 0, jnp.maximum(lengths, shortest), 0)
    return mel_spectrogram(waveforms, lengths, config, sample_rate)

"""The model's input from a waveform batch: the MFCC sequence and the stretched mel-spectrograms."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

from dslstm_jax.config import FeaturesConfig
from dslstm_jax.features.mel import mel_spectrogram, stretch
from dslstm_jax.features.mfcc import mfcc


class Features(NamedTuple):
    """What the recognizer reads. What a model leaves unread is never computed: the compiler drops it."""

    mfcc: Float[Array, "B T 39"]
    mfcc_lengths: Int[Array, " B"]
    spectrograms: tuple[Float[Array, "B frames F"], ...]
    """Decibels; one for each of features.spectrograms."""


def extract_features(waveforms: Float[Array, "B N"], lengths: Int[Array, " B"], config: FeaturesConfig) -> Features:
    """All features of a padded batch.

    Args:
      waveforms: samples in [-1, 1] at config.sample_rate, valid up to `lengths`.
      lengths: samples of each waveform.
      config: which features.
    """
    spectrograms = tuple(
        stretch(*mel_spectrogram(waveforms, lengths, resolution, config.sample_rate), resolution.frames)
        for resolution in config.spectrograms
    )
    return Features(*mfcc(waveforms, lengths, config.mfcc, config.sample_rate), spectrograms)

"""The model's input from a waveform batch: the MFCC sequence and the stretched mel-spectrograms."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int

from dslstm_jax.batching import row_by_row
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

    def of_row(waveform: Float[Array, " N"], length: Int[Array, ""]) -> Features:
        rows = waveform[None], length[None]
        spectrograms = tuple(
            stretch(*mel_spectrogram(*rows, resolution, config.sample_rate), resolution.frames)
            for resolution in config.spectrograms
        )
        features = Features(*mfcc(*rows, config.mfcc, config.sample_rate), spectrograms)
        return jax.tree.map(lambda leaf: leaf[0], features)

    features: Features = row_by_row(of_row, waveforms, lengths, together=8)
    return features

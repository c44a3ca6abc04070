"""Waveforms to features: pure jax.numpy, safe under jit, vmap and grad."""

from dslstm_jax.features.frontend import Features, blank_features, extract_features
from dslstm_jax.features.mel import mel_power, mel_spectrogram, stretch
from dslstm_jax.features.mfcc import mfcc
from dslstm_jax.features.pitch import pitch

__all__ = [
    "Features",
    "blank_features",
    "extract_features",
    "mel_power",
    "mel_spectrogram",
    "mfcc",
    "pitch",
    "stretch",
]

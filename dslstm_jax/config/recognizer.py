"""What a recognizer is: the features it reads, and its layers."""

import math
from dataclasses import dataclass
from typing import Literal

from dslstm_jax.config.checks import AT_LEAST_0, SHARE, check
from dslstm_jax.errors import ConfigError


@dataclass(frozen=True)
class MfccConfig:
    """HTK's MFCC_E_D_A of frames of 25 ms: cepstra 1..n and log energy, their deltas and accelerations."""

    hop_length: int = 160
    """Samples between frames (10 ms at 16 kHz)."""
    mel_bands: int = 26
    cepstra: int = 12

    def __post_init__(self) -> None:
        check("features.mfcc", self)


@dataclass(frozen=True)
class SpectrogramConfig:
    """One mel-spectrogram in decibels, stretched to a fixed number of frames or as long as the recording."""

    n_fft: int
    """Samples in the analysis window."""
    hop_length: int
    """Samples between frames."""
    mel_bands: int
    frames: int
    """Frames after stretching in time by nearest neighbor. 0: not stretched, a frame every `hop_length` samples; a
    recording too short for the CNN and the recurrence to make one frame of it (0.3 s in the paper's model) goes on
    with zeros until they can."""

    def __post_init__(self) -> None:
        check("features.spectrograms", self, {"frames": (0, math.inf, "at least 0, which does not stretch")})


SPECTROGRAM_256 = SpectrogramConfig(n_fft=256, hop_length=128, mel_bands=64, frames=460)
SPECTROGRAM_512 = SpectrogramConfig(n_fft=512, hop_length=256, mel_bands=128, frames=230)
SPECTROGRAM_1024 = SpectrogramConfig(n_fft=1024, hop_length=512, mel_bands=256, frames=120)


@dataclass(frozen=True)
class FeaturesConfig:
    """What is computed from the waveform."""

    sample_rate: int = 16_000
    """Hertz; recordings at other rates are resampled to it."""
    trim: float = 0.0
    """Decibels below the peak, under which silence at the ends is cut off; 0: off. 35 suits studio recordings. 160 ms
    of the silence stay on each side."""
    mfcc: MfccConfig = MfccConfig()
    pitch: bool = False
    """How periodic each frame is, and its pitch, as six more columns beside the MFCC. The columns are both values,
    their deltas and their accelerations."""
    spectrograms: tuple[SpectrogramConfig, ...] = (SPECTROGRAM_512, SPECTROGRAM_1024)
    """The resolutions the CNNs read; the DS-LSTM takes two, the finer in time first."""

    def __post_init__(self) -> None:
        check("features", self, {"trim": (*AT_LEAST_0[:2], "at least 0, in decibels below the peak")})


@dataclass(frozen=True)
class ModelConfig:
    """The recognizer: a branch over the spectrograms, a branch over the MFCC, and their average."""

    spectrogram_branch: Literal["ds_lstm", "lstm", "none"] = "ds_lstm"
    """What reads the spectrograms: one DS-LSTM, an LSTM each, or nothing. ds_lstm: both spectrograms' CNNs into one
    DS-LSTM; lstm: one CNN and one LSTM per spectrogram."""
    mfcc_branch: bool = True
    """The plain LSTM over the MFCC."""
    channels: tuple[int, ...] = (64, 16)
    """Channels of the CNN's convolutions."""
    kernels: tuple[tuple[int, int], ...] = ((4, 2), (2, 4))
    """Kernel (frequency, time) of each spectrogram's CNN, in the order of features.spectrograms."""
    hidden: int = 200
    """Hidden size of the recurrence over the spectrograms."""
    mfcc_hidden: int = 200
    """Hidden size of the LSTM over the MFCC."""
    layers: int = 2
    """Layers of each recurrence."""
    lstm_backend: Literal["scan", "cudnn", "pallas_tpu"] = "scan"
    """What runs the plain LSTM. scan: XLA, anywhere; cudnn: NVIDIA GPUs, in float32; pallas_tpu: a kernel for TPUs
    (bfloat16 from v4 on)."""
    dropout: float = 0.0
    """Share of each recurrent layer's units that are dropped in training. They are the same ones in all frames (Gal
    and Ghahramani 2016)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of products and activations. Features, weights, batch statistics and what recurrences carry stay
    float32."""
    remat_every: int = 0
    """Frames between which a recurrence keeps its state in training; 0: keep all. The frames between are computed
    again for the gradient, which takes less memory and more time; for long sequences."""
    normalize: Literal["none", "corpus", "utterance"] = "none"
    """Brings each coefficient of the features to mean 0 and deviation 1. That is each of the MFCC and each band of
    the spectrograms. corpus: over the batch in training, by running statistics of those batches otherwise;
    utterance: over its own frames."""
    pooling: Literal["mean", "attention", "statistics"] = "mean"
    """How the frames of a branch become one vector. attention: their mean with learned weights; statistics: mean and
    standard deviation side by side."""
    recurrent_norm: Literal["step", "shared", "layer", "none"] = "step"
    """How the DS-LSTM's gates and outputs are normalized. step: by the batch at each step and running statistics of
    each step, which needs stretched spectrograms; shared: as step, but with running statistics of all steps
    together; layer: each row by itself; none: not at all."""
    bidirectional: bool = False
    """Each recurrent layer also runs from the last frame to the first. It has weights of its own for that; the next
    layer and the pooling read both outputs side by side."""

    def __post_init__(self) -> None:
        check("model", self, {"dropout": SHARE, "remat_every": (0, math.inf, "at least 0, in frames")})
        if self.spectrogram_branch == "none" and not self.mfcc_branch:
            raise ConfigError("model: both branches are off; turn model.mfcc_branch or model.spectrogram_branch on")


BEYOND_THE_PAPER = ("normalize", "pooling", "recurrent_norm", "bidirectional")
"""Fields of ModelConfig whose defaults say what the authors' networks do, and which no weight shows."""


@dataclass(frozen=True)
class RecognizerConfig:
    """What a recognizer is: the features it reads, and its layers. No corpus, no seed, nothing of its training."""

    features: FeaturesConfig = FeaturesConfig()
    model: ModelConfig = ModelConfig()

    def __post_init__(self) -> None:
        model, spectrograms = self.model, self.features.spectrograms
        if model.spectrogram_branch == "none":
            return
        if len(spectrograms) != len(model.kernels):
            raise ConfigError(
                f"model.kernels names {len(model.kernels)} kernels for {len(spectrograms)} features.spectrograms; "
                "give one for each"
            )
        if model.spectrogram_branch == "lstm":
            return
        if len(spectrograms) != 2:
            raise ConfigError(f"the DS-LSTM reads two spectrograms; features.spectrograms names {len(spectrograms)}")
        first, second = spectrograms
        if bool(first.frames) != bool(second.frames):
            raise ConfigError(
                f"features.spectrograms: frames are {first.frames} and {second.frames}; the DS-LSTM needs both "
                "stretched or both not (0)"
            )
        if not first.frames and second.hop_length != 2 * first.hop_length:
            raise ConfigError(
                f"features.spectrograms: hop_length is {first.hop_length} and {second.hop_length}; where they are "
                "not stretched (frames 0), the DS-LSTM needs the second to be twice the first"
            )
        if not first.frames and model.recurrent_norm == "step":
            raise ConfigError(
                "model.recurrent_norm is step, which has statistics of each time step, and features.spectrograms "
                "are not stretched (frames 0); set it to shared, layer or none"
            )

"""Everything that can be set, as frozen dataclasses: one per room, values only.

The defaults are the paper's system: the dual-level model of Wang et al. (ICASSP 2020) and its training.
"""

import dataclasses
import json
import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import cattrs
from cattrs import transform_error

from dslstm_jax.config_checks import check, check_recognizer, check_sweep
from dslstm_jax.errors import ConfigError


@dataclass(frozen=True)
class SyntheticConfig:
    """The synthetic corpus: source-filter voices made in numpy, the same on every machine."""

    speakers: int = 15
    """Number of voices."""
    utterances_per_emotion: int = 5
    """Utterances of each voice in each of the four emotions."""
    overlap: float = 0.3
    """0: the emotions are far apart; 1: the same distribution for all four, so that nothing can be learned."""
    seed: int = 0
    """Draws the voices and the utterances."""


@dataclass(frozen=True)
class CorpusConfig:
    """Which recordings to learn from."""

    name: str = "synthetic"
    """crema_d, emodb, iemocap, manifest, ravdess, records, savee or synthetic; `dslstm corpora` says more."""
    root: str | None = None
    """Folder of the corpus. For a manifest: where its relative paths start (default: the manifest's folder).
    For synthetic: where the recordings are kept (default: the user's cache folder)."""
    names: tuple[str, ...] = ()
    """Several corpora in one run, instead of `name`: emodb,ravdess. Their speakers are kept apart."""
    roots: tuple[str, ...] = ()
    """Their folders, in the order of `names`."""
    label_map: tuple[str, ...] = ()
    """Labels under another name, FROM=TO: calm=neutral excited=happy."""
    labels: tuple[str, ...] = ()
    """The classes in their order, after `label_map`; recordings of other labels are left out. Empty: all labels, in
    the corpus's order."""
    manifest: str | None = None
    """CSV or TSV file with a header row, for the corpus `manifest`."""
    path_column: str = "path"
    label_column: str = "label"
    speaker_column: str = "speaker"
    """Read if the manifest has it."""
    session_column: str = "session"
    """Read if the manifest has it."""
    synthetic: SyntheticConfig = SyntheticConfig()


@dataclass(frozen=True)
class SplitConfig:
    """Who is in training, validation and test."""

    protocol: str = "speaker5"
    """speakerK: K folds that share no speaker; speaker: leave one speaker out; session: leave one session out;
    corpus: leave one of several corpora out, validate on speakers of the others; randomK: K folds of utterances,
    speakers shared; FILE.json, or ravdess-actors5 of the package: a fold file, which names the test and validation
    speakers of each fold."""
    fold: int = 0
    """Which fold is the test set, from 0; the next one is the validation set, but a fold file names its own, and
    `corpus` takes it from the other corpora."""
    seed: int = 0
    """Deals speakers or utterances to the folds."""
    validation: bool = True
    """Holds a validation set back. Off: it trains too, so that nothing can choose the epoch (training.choose must be
    last) and no temperature is fitted."""


@dataclass(frozen=True)
class DataConfig:
    """How recordings become batches."""

    max_padding: float = 0.15
    """Largest share of padding among the samples of an epoch. Batches of like length need less of it, but each length
    is a program to compile, so there are as few lengths as this allows. 1: one length for all, and batches drawn from
    all recordings alike."""
    max_lengths: int = 8
    """Most lengths that batches may be padded to, where `max_padding` asks for more."""
    keep: Literal["files", "device"] = "files"
    """Where the recordings are between the steps. files: each is decoded again in every epoch; device: all are
    decoded once and stay in the memory of every device, 4 bytes a sample (RAVDESS: 0.34 GB), for GPUs that wait."""
    longest: float = 60.0
    """Seconds; a longer recording cannot be used: cut it into utterances."""
    on_error: Literal["stop", "skip"] = "stop"
    """When recordings cannot be used, all of them are named before the first step. stop: the run ends there; skip: it
    goes on without them."""


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes to the training recordings, drawn anew for each utterance and step; the paper has none."""

    noise: float = 0.0
    """Probability that an utterance gets white noise."""
    noise_snr: tuple[float, float] = (10.0, 30.0)
    """Decibels of signal over noise, lowest and highest."""
    gain: float = 0.0
    """Largest change of level, up or down, in decibels."""
    speed: float = 0.0
    """Largest change of speed by resampling: 0.1 plays at 0.9 to 1.1 of the speed, pitch included."""
    frequency_masks: int = 0
    """Bands of the mel-spectrograms that are blanked (SpecAugment)."""
    frequency_mask_width: float = 0.15
    """Widest such band, as a share of the mel bands."""
    time_masks: int = 0
    """Stretches of time that are blanked in the mel-spectrograms."""
    time_mask_width: float = 0.15
    """Longest such stretch, as a share of the frames."""
    mixup: float = 0.0
    """alpha of mixup's Beta(alpha, alpha); neighbors in a batch are mixed. 0: off."""


@dataclass(frozen=True)
class MfccConfig:
    """HTK's MFCC_E_D_A: cepstra 1..n and log energy, their deltas and accelerations."""

    frame_length: int = 400
    """Samples in a frame (25 ms at 16 kHz)."""
    hop_length: int = 160
    """Samples between frames (10 ms at 16 kHz)."""
    n_fft: int = 512
    mel_bands: int = 26
    cepstra: int = 12
    lifter: int = 22
    preemphasis: float = 0.97
    delta_window: int = 2
    """Frames on each side of the regression that makes the deltas."""


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


SPECTROGRAM_256 = SpectrogramConfig(n_fft=256, hop_length=128, mel_bands=64, frames=460)
SPECTROGRAM_512 = SpectrogramConfig(n_fft=512, hop_length=256, mel_bands=128, frames=230)
SPECTROGRAM_1024 = SpectrogramConfig(n_fft=1024, hop_length=512, mel_bands=256, frames=120)


@dataclass(frozen=True)
class FeaturesConfig:
    """What is computed from the waveform."""

    sample_rate: int = 16_000
    """Hertz; recordings at other rates are resampled to it."""
    trim: float = 0.0
    """Silence at the ends of a recording that is cut off, in decibels below its peak; 35 suits studio recordings. 160
    ms of it stay on each side. 0: nothing is cut off."""
    mfcc: MfccConfig = MfccConfig()
    pitch: bool = False
    """Six more columns beside the MFCC: how periodic a frame is and its pitch, with deltas and accelerations."""
    spectrograms: tuple[SpectrogramConfig, ...] = (SPECTROGRAM_512, SPECTROGRAM_1024)
    """The resolutions the CNNs read; the DS-LSTM takes two, the finer in time first."""


@dataclass(frozen=True)
class ModelConfig:
    """The recognizer: a branch over the spectrograms, a branch over the MFCC, and their average."""

    spectrogram_branch: Literal["ds_lstm", "lstm", "none"] = "ds_lstm"
    """ds_lstm: both spectrograms' CNNs into one DS-LSTM; lstm: one CNN and one LSTM per spectrogram."""
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
    unroll: int = 1
    """Frames in one round of a recurrence's loop, where scan runs it. On a CPU more than 1 does not pay."""
    dropout: float = 0.0
    """Share of the units of each recurrent layer's output that are dropped in training, the same ones in all frames
    (Gal and Ghahramani 2016)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of products and activations. Features, weights, batch statistics and what recurrences carry stay float32."""
    remat_every: int = 0
    """For long sequences: keep a recurrence's state only every so many frames, and compute the frames between again
    for the gradient, which takes less memory and more time. 0: keep all."""
    spectrogram_weight: float = 0.5
    """p in logits = p logits_spectrogram + (1 - p) logits_mfcc, where both branches exist."""
    normalize: Literal["none", "corpus", "utterance"] = "none"
    """Brings each coefficient of the MFCC and each band of the spectrograms to mean 0 and deviation 1. corpus: over
    the batch in training, by running statistics of those batches otherwise; utterance: over its own frames."""
    pooling: Literal["mean", "attention", "statistics"] = "mean"
    """How the frames of a branch become one vector. attention: their mean with learned weights; statistics: mean and
    standard deviation side by side."""
    recurrent_norm: Literal["step", "shared", "layer", "none"] = "step"
    """How the DS-LSTM's gates and outputs are normalized. step: by the batch at each step and running statistics of
    each step, which needs stretched spectrograms; shared: as step, but with running statistics of all steps
    together; layer: each row by itself; none: not at all."""
    bidirectional: bool = False
    """Each recurrent layer also runs, with weights of its own, from the last frame to the first; the next one and the
    pooling read both outputs side by side."""


BEYOND_THE_PAPER = ("normalize", "pooling", "recurrent_norm", "bidirectional")
"""Fields of ModelConfig whose defaults say what the authors' networks do, and which no weight shows."""


@dataclass(frozen=True)
class TrainingConfig:
    """Adam, and what it is to learn; by default with a learning rate that is halved at given epochs."""

    epochs: int = 50
    batch_size: int = 128
    """Utterances in a training step."""
    evaluation_batch_size: int = 32
    """Utterances at once when evaluating; changes speed and memory, never a figure."""
    accumulate: int = 1
    """Parts in which a step takes its batch, one after the other: memory for one part, the gradient of all. Batch
    statistics are those of each part."""
    learning_rate: float = 1e-3
    schedule: Literal["halve", "cosine"] = "halve"
    """halve: the learning rate is halved after the epochs in `halve_after`; cosine: it rises in `warmup` and falls by
    half a cosine, to reach 0 with the last epoch (Loshchilov and Hutter, ICLR 2017)."""
    halve_after: tuple[int, ...] = (10, 20, 30)
    """Epochs after which the schedule halve halves the learning rate; ignored by cosine."""
    warmup: float = 0.0
    """Epochs, or a part of one, in which the schedule cosine raises the learning rate step by step from near 0."""
    weight_decay: float = 0.0
    """At each step kernels shrink by this times the learning rate (AdamW; Loshchilov and Hutter, ICLR 2019); biases
    and what batch norm learns do not. 0: off."""
    label_smoothing: float = 0.0
    """Share of every training target that is spread evenly over the classes (Szegedy et al., CVPR 2016). Losses of
    validation and test stay plain."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: where n of N training utterances are of a class, the training loss of each weighs N / (C n), so that
    all C classes weigh the same, as in UA. A mixture of mixup weighs what the utterance weighs that it mostly is."""
    clip_norm: float = 0.0
    """Longer gradients are scaled down to this norm, taken over all weights. 0: off."""
    ema_decay: float = 0.0
    """Evaluate and keep the exponential moving average of weights and running statistics: at each step this share of
    the average stays (less in the first steps). 0: off."""
    checkpoint_every: int = 500
    """Steps between checkpoints in the middle of an epoch; there is one after each epoch besides."""
    batch_statistics: Literal["synchronized", "local"] = "synchronized"
    """Batch normalization on several devices: over all rows of the batch, or over each device's own (faster; the
    figures then depend on the number of devices)."""
    choose: Literal["validation-best", "refit", "last", "test-best"] = "validation-best"
    """Which epoch is evaluated and predicts: the one of the best validation UA, the last one, or the one of the best
    test UA. test-best is peeking, as many papers do, and is called so beside every figure. refit: the best validation
    UA only says how many epochs there are to be; then a new network learns for so long (warm-up and cosine shortened
    alike) from training and validation utterances together, and its last epoch is taken."""
    choose_over: int = 1
    """Epochs that the UA which chooses is a mean over: an epoch and those before it. The luck of one epoch with few
    validation speakers weighs less with more of them."""
    seed: int = 0
    """Draws the initial weights and the order of the utterances."""


@dataclass(frozen=True)
class ParallelConfig:
    """On which devices a run computes. It is no part of a run's config: a run may go on elsewhere."""

    mode: Literal["auto", "single", "pmap", "shard_map"] = "auto"
    """single: one device; pmap: all devices of a process; shard_map: those of all processes. auto: what fits."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where there are several processes; auto: ask the cluster (SLURM, TPU, Kubernetes)."""
    processes: int | None = None
    """Number of processes."""
    process: int | None = None
    """Which one this is, from 0."""
    timeout: int = 300
    """Seconds to wait for the other processes to start."""


@dataclass(frozen=True)
class SweepConfig:
    """What a benchmark varies; each takes several values, and all combinations are timed."""

    cell: tuple[Literal["lstm", "ds_lstm"], ...] = ("lstm", "ds_lstm")
    """Recurrence."""
    passes: tuple[Literal["forward", "train"], ...] = ("forward", "train")
    """train: forward and backward."""
    batch: tuple[int, ...] = (32,)
    """Sequences side by side; for features: utterances."""
    time: tuple[int, ...] = (27, 400)
    """Frames."""
    hidden: tuple[int, ...] = (200,)
    """Hidden size."""
    layers: tuple[int, ...] = (2,)
    dtype: tuple[Literal["float32", "bfloat16"], ...] = ("float32",)
    """Of products and activations, our peers' too where they know it."""
    backend: tuple[Literal["scan", "cudnn", "pallas_tpu"], ...] = ("scan",)
    """model.lstm_backend; those that do not run on this machine are left out and named."""
    unroll: tuple[int, ...] = (1,)
    """model.unroll."""

    def __post_init__(self) -> None:
        check_sweep(self)


@dataclass(frozen=True)
class RecognizerConfig:
    """What a recognizer is: the features it reads, and its layers. No corpus, no seed, nothing of its training."""

    features: FeaturesConfig = FeaturesConfig()
    model: ModelConfig = ModelConfig()

    def __post_init__(self) -> None:
        check_recognizer(self)


@dataclass(frozen=True)
class Config:
    """A whole run."""

    corpus: CorpusConfig = CorpusConfig()
    split: SplitConfig = SplitConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    features: FeaturesConfig = FeaturesConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()

    def __post_init__(self) -> None:
        check(self)

    @property
    def recognizer(self) -> RecognizerConfig:
        """The part of the config that a trained recognizer needs."""
        return RecognizerConfig(self.features, self.model)


AnyConfig = TypeVar("AnyConfig", Config, RecognizerConfig)


def load_config(location: str) -> Config:
    """Runs a config file and returns the Config it defines.

    Args:
      location: `FILE.py`, whose `config` is taken, or `FILE.py:NAME` for one of several.

    Raises:
      ConfigError: no such file, the file does not run, or the name is not a Config in it.
    """
    file, _, name = location.partition(":")
    if not Path(file).is_file():
        raise ConfigError(f"config {file}: no such file")
    try:
        values = runpy.run_path(file)
    except ConfigError as error:
        raise ConfigError(f"config {file}: {error}") from error
    except Exception as error:  # a user's file can fail in any way
        raise ConfigError(f"config {file} does not run: {type(error).__name__}: {error}") from error
    configs = {key: value for key, value in values.items() if isinstance(value, Config)}
    wanted = name or "config"
    if wanted not in configs:
        names = ", ".join(f"{file}:{key}" for key in configs) or "none"
        raise ConfigError(f"config {file} has no {wanted!r}; it defines: {names}")
    return configs[wanted]


def to_dict(config: Config | RecognizerConfig) -> dict[str, Any]:
    """The config as nested dictionaries and lists, ready for JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_dict(
    values: Mapping[str, Any],
    source: str = "config",
    kind: type[AnyConfig] = Config,  # type: ignore[assignment]
) -> AnyConfig:
    """The inverse of `to_dict`; fields left out take their defaults.

    Args:
      values: nested dictionaries and lists.
      source: what the errors name.
      kind: the dataclass to make of them, Config or RecognizerConfig.

    Raises:
      ConfigError: an unknown field, or a value of the wrong type; the message names it and `source`.
    """
    try:
        return cattrs.Converter(forbid_extra_keys=True).structure(values, kind)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    except Exception as error:  # cattrs raises groups of many kinds
        raise ConfigError(f"{source}: {'; '.join(transform_error(error, path='config'))}") from error

"""Values of a config that no code could make sense of, each refused by one error that names its flag."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from dslstm_jax.errors import ConfigError

if TYPE_CHECKING:
    from dslstm_jax.config import (
        AugmentationConfig,
        Config,
        RecognizerConfig,
        SpectrogramConfig,
        SweepConfig,
        TrainingConfig,
    )


def _integers(value: Any) -> list[int]:
    """All counts in a value, however deep, but for those of frames, which may be 0."""
    if isinstance(value, dict):
        value = tuple(count for name, count in value.items() if name != "frames")
    if isinstance(value, tuple):
        return [count for item in value for count in _integers(item)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []


def check_sweep(sweep: SweepConfig) -> None:
    """Refuses what nothing could be timed of."""
    for name, values in dataclasses.asdict(sweep).items():
        if not values:
            raise ConfigError(f"sweep.{name} is empty; give at least one value")
        if min(_integers(values), default=1) < 1:
            raise ConfigError(f"sweep.{name} is {values}; its counts must be at least 1")


def check(config: Config) -> None:
    """Refuses values that no code below could make sense of, naming the flag."""
    for room in ("data", "model", "training"):
        _check_choices(room, getattr(config, room))
    if config.data.max_lengths < 1:
        raise ConfigError(f"data.max_lengths is {config.data.max_lengths}; it must be at least 1")
    if not 0.0 <= config.model.dropout < 1.0:
        raise ConfigError(f"model.dropout is {config.model.dropout}; it must be at least 0 and below 1")
    for room in ("features", "model", "training"):
        part = getattr(config, room)
        fractions = {field.name for field in dataclasses.fields(part) if field.type is float}
        for name, value in dataclasses.asdict(part).items():
            if name not in fractions | {"seed", "remat_every"} and min(_integers(value), default=1) < 1:
                raise ConfigError(f"{room}.{name} is {value}; its counts must be at least 1")
    if config.model.remat_every < 0:
        raise ConfigError(f"model.remat_every is {config.model.remat_every}; it must be at least 0, in frames")
    _check_training(config.training)
    if not config.split.validation and config.training.choose in ("validation-best", "refit"):
        raise ConfigError(
            f"split.validation is off, and training.choose is {config.training.choose}: nothing would choose the "
            "epoch; set training.choose to last, or hold a validation set back (--split.validation)"
        )
    if not 0.0 <= config.model.spectrogram_weight <= 1.0:
        raise ConfigError(f"model.spectrogram_weight is {config.model.spectrogram_weight}; it must be in [0, 1]")
    if not 0.0 <= config.corpus.synthetic.overlap <= 1.0:
        raise ConfigError(f"corpus.synthetic.overlap is {config.corpus.synthetic.overlap}; it must be in [0, 1]")
    if not 0.0 < config.data.max_padding <= 1.0:
        raise ConfigError(f"data.max_padding is {config.data.max_padding}; it must be above 0 and at most 1")
    if not config.data.longest > 0:
        raise ConfigError(f"data.longest is {config.data.longest}; it must be positive, in seconds")
    _check_augmentation(config.augmentation)
    if not 0.0 <= config.features.trim < math.inf:
        raise ConfigError(
            f"features.trim is {config.features.trim}; it must be at least 0, in decibels below the peak"
        )
    check_recognizer(config.recognizer)


def check_recognizer(config: RecognizerConfig) -> None:
    """Refuses features and layers that do not fit each other."""
    mfcc = config.features.mfcc
    if mfcc.n_fft < mfcc.frame_length:
        raise ConfigError(
            f"features.mfcc.n_fft is {mfcc.n_fft}; a frame of {mfcc.frame_length} samples needs as many"
        )
    if config.model.spectrogram_branch == "none":
        if not config.model.mfcc_branch:
            raise ConfigError("model: both branches are off; turn model.mfcc_branch or model.spectrogram_branch on")
        return
    spectrograms, kernels = len(config.features.spectrograms), len(config.model.kernels)
    if spectrograms != kernels:
        raise ConfigError(
            f"model.kernels names {kernels} kernels for {spectrograms} features.spectrograms; give one for each"
        )
    frames = [spectrogram.frames for spectrogram in config.features.spectrograms]
    if min(frames, default=0) < 0:
        raise ConfigError(
            f"features.spectrograms: frames are {frames}; they must be at least 0, which does not stretch"
        )
    if config.model.spectrogram_branch == "ds_lstm":
        _check_pair(config.features.spectrograms)
        if config.model.recurrent_norm == "step" and not all(frames):
            raise ConfigError(
                "model.recurrent_norm is step, which has statistics of each time step, and features.spectrograms are "
                "not stretched (frames 0); set it to shared, layer or none"
            )


def _check_pair(spectrograms: tuple[SpectrogramConfig, ...]) -> None:
    """Refuses what the DS-LSTM cannot read side by side."""
    if len(spectrograms) != 2:
        raise ConfigError(f"the DS-LSTM reads two spectrograms; features.spectrograms names {len(spectrograms)}")
    first, second = spectrograms
    if bool(first.frames) != bool(second.frames):
        raise ConfigError(
            f"features.spectrograms: frames are {first.frames} and {second.frames}; the DS-LSTM needs both stretched "
            "or both not (0)"
        )
    if not first.frames and second.hop_length != 2 * first.hop_length:
        raise ConfigError(
            f"features.spectrograms: hop_length is {first.hop_length} and {second.hop_length}; where they are not "
            "stretched (frames 0), the DS-LSTM needs the second to be twice the first"
        )


def _check_choices(room: str, values: Any) -> None:
    """Refuses names that a Literal field does not offer; a config file's values meet no other check."""
    for field, kind in get_type_hints(type(values)).items():
        if get_origin(kind) is Literal and (value := getattr(values, field)) not in get_args(kind):
            raise ConfigError(f"{room}.{field} is {value}; it must be one of {', '.join(get_args(kind))}")


def _check_training(training: TrainingConfig) -> None:
    if training.batch_size % training.accumulate:
        raise ConfigError(
            f"training.accumulate: {training.batch_size} rows cannot be shared by "
            f"{training.accumulate} parts; make training.batch_size a multiple of it"
        )
    if not training.learning_rate > 0:
        raise ConfigError(f"training.learning_rate is {training.learning_rate}; it must be positive")
    for name in ("clip_norm", "weight_decay"):
        if not 0.0 <= getattr(training, name) < math.inf:
            raise ConfigError(f"training.{name} is {getattr(training, name)}; it must be at least 0")
    for name in ("ema_decay", "label_smoothing"):
        if not 0.0 <= getattr(training, name) < 1.0:
            raise ConfigError(f"training.{name} is {getattr(training, name)}; it must be at least 0 and below 1")
    if not 0.0 <= training.warmup < training.epochs:
        raise ConfigError(
            f"training.warmup is {training.warmup}; it must be at least 0 and below the {training.epochs} of "
            "training.epochs"
        )
    if training.warmup and training.schedule != "cosine":
        raise ConfigError("training.warmup is of the schedule cosine; give --training.schedule cosine, or no warmup")


def _check_augmentation(augmentation: AugmentationConfig) -> None:
    limits = {"noise": 1.0, "gain": 60.0, "speed": 0.5, "frequency_mask_width": 1.0, "time_mask_width": 1.0}
    for name in (*limits, "frequency_masks", "time_masks", "mixup"):
        value, most = getattr(augmentation, name), limits.get(name, math.inf)
        if not 0 <= value <= most:
            allowed = f"in [0, {most:g}]" if name in limits else "at least 0"
            raise ConfigError(f"augmentation.{name} is {value}; it must be {allowed}")
    lowest, highest = augmentation.noise_snr
    if not lowest <= highest:
        raise ConfigError(f"augmentation.noise_snr is {augmentation.noise_snr}; give the lowest first")

"""How a recognizer learns: random changes to its recordings, the optimizer, the epoch that is kept; a whole run."""

from dataclasses import dataclass
from typing import Literal

from dslstm_jax.config.checks import AT_LEAST_0, POSITIVE, SHARE, check
from dslstm_jax.config.corpus import CorpusConfig, DataConfig, SplitConfig
from dslstm_jax.config.recognizer import FeaturesConfig, ModelConfig, RecognizerConfig
from dslstm_jax.errors import ConfigError


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes to the training recordings, drawn again for each utterance and step; the paper has none."""

    noise: float = 0.0
    """Probability that an utterance gets white noise, 10 to 30 dB below it."""
    gain: float = 0.0
    """Largest change of level, up or down, in decibels."""
    speed: float = 0.0
    """Largest change of speed by resampling, pitch included. 0.1 plays at 0.9 to 1.1 of the speed."""
    frequency_masks: int = 0
    """Bands of the mel-spectrograms that are blanked (SpecAugment)."""
    time_masks: int = 0
    """Stretches of time that are blanked in the mel-spectrograms."""
    mixup: float = 0.0
    """alpha of mixup's Beta(alpha, alpha); 0: off. Neighbors in a batch are mixed."""

    def __post_init__(self) -> None:
        limits = {"noise": 1, "gain": 60, "speed": 0.5}
        ranges = {name: (0.0, most, f"in [0, {most}]") for name, most in limits.items()}
        check("augmentation", self, dict.fromkeys(("frequency_masks", "time_masks", "mixup"), AT_LEAST_0) | ranges)


@dataclass(frozen=True)
class TrainingConfig:
    """Adam, and what it is to learn; by default with a learning rate that is halved at given epochs."""

    epochs: int = 50
    """Times that all training utterances are seen."""
    batch_size: int = 128
    """Utterances in a training step."""
    accumulate: int = 1
    """Parts in which a step takes its batch, to save memory. The gradient is the one of all; batch statistics are
    those of each part."""
    learning_rate: float = 1e-3
    """Step size of Adam."""
    schedule: Literal["halve", "cosine"] = "halve"
    """How the learning rate falls: halved after some epochs, or as a cosine. halve: after the epochs in
    `halve_after`; cosine: it rises in `warmup` and falls by half a cosine, to reach 0 with the last epoch (Loshchilov
    and Hutter, ICLR 2017)."""
    halve_after: tuple[int, ...] = (10, 20, 30)
    """Epochs after which the schedule halve halves the learning rate."""
    warmup: float = 0.0
    """Epochs in which the schedule cosine raises the learning rate. It does so step by step from near 0; a part of an
    epoch is allowed."""
    weight_decay: float = 0.0
    """AdamW's weight decay; 0: off. At each step kernels shrink by this times the learning rate (Loshchilov and
    Hutter, ICLR 2019); biases and what batch norm learns do not."""
    label_smoothing: float = 0.0
    """Share of each training target that is spread evenly over the classes. See Szegedy et al., CVPR 2016. Losses of
    validation and test stay plain."""
    class_weights: Literal["none", "balanced"] = "none"
    """Whether all classes weigh the same in the training loss, as in UA. balanced: where n of N training utterances
    are of a class, each weighs N / (C n). A mixture of mixup weighs what the utterance weighs that it mostly is."""
    clip_norm: float = 0.0
    """Longer gradients are scaled down to this norm, taken over all weights; 0: off."""
    ema_decay: float = 0.0
    """Evaluate and keep the exponential moving average of the weights; 0: off. At each step this share of the average
    stays (less in the first steps); running statistics are averaged alike."""
    checkpoint_every: int = 500
    """Steps between checkpoints within an epoch. After each epoch there is one, too."""
    batch_statistics: Literal["synchronized", "local"] = "synchronized"
    """Whether batch normalization is over all rows or over each device's own. local is faster; the figures then
    depend on the number of devices."""
    choose: Literal["validation-best", "refit", "last", "test-best"] = "validation-best"
    """Which epoch is evaluated and predicts. It is the one of the best validation UA, the last one, or the one of the
    best test UA. test-best is peeking, as many papers do, and is called so beside every figure. refit: the best
    validation UA only says how many epochs there are to be; then a new network learns for so long (warm-up and cosine
    shortened alike) from training and validation utterances together, and its last epoch is taken."""
    choose_over: int = 1
    """Epochs that the UA which chooses is a mean over: an epoch and those before it. The luck of one epoch with few
    validation speakers weighs less with more of them."""
    seed: int = 0
    """Draws the initial weights and the order of the utterances."""

    def __post_init__(self) -> None:
        ranges = {"learning_rate": POSITIVE, "clip_norm": AT_LEAST_0, "weight_decay": AT_LEAST_0, "seed": AT_LEAST_0}
        check("training", self, ranges | {"ema_decay": SHARE, "label_smoothing": SHARE})
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"training.accumulate: {self.batch_size} rows cannot be shared by {self.accumulate} parts; make "
                "training.batch_size a multiple of it"
            )
        if not 0.0 <= self.warmup < self.epochs:
            raise ConfigError(
                f"training.warmup is {self.warmup}; it must be at least 0 and below the {self.epochs} of "
                "training.epochs"
            )
        if self.warmup and self.schedule != "cosine":
            raise ConfigError(
                "training.warmup is of the schedule cosine; give --training.schedule cosine, or no warmup"
            )


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
        if not self.split.validation and self.training.choose in ("validation-best", "refit"):
            raise ConfigError(
                f"split.validation is off, and training.choose is {self.training.choose}: nothing would choose the "
                "epoch; set training.choose to last, or hold a validation set back (--split.validation)"
            )
        RecognizerConfig(self.features, self.model)  # do they fit each other?

    @property
    def recognizer(self) -> RecognizerConfig:
        """The part of the config that a trained recognizer needs."""
        return RecognizerConfig(self.features, self.model)

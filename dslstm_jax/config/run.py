"""A whole run: every part of its config, and what crosses from one part to another."""

from dataclasses import dataclass

from dslstm_jax.config.corpus import CorpusConfig, DataConfig, SplitConfig
from dslstm_jax.config.recognizer import FeaturesConfig, ModelConfig, RecognizerConfig
from dslstm_jax.config.training import AugmentationConfig, TrainingConfig
from dslstm_jax.errors import ConfigError


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

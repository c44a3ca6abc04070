"""Everything that can be set, as frozen dataclasses: one per room, values only, each of which checks itself.

The defaults are the paper's system: the dual-level model of Wang et al. (ICASSP 2020) and its training.
"""

from dslstm_jax.config.corpus import CorpusConfig, DataConfig, SplitConfig, SyntheticConfig
from dslstm_jax.config.files import from_dict, load_config, to_dict
from dslstm_jax.config.recognizer import (
    BEYOND_THE_PAPER,
    SPECTROGRAM_256,
    SPECTROGRAM_512,
    SPECTROGRAM_1024,
    FeaturesConfig,
    MfccConfig,
    ModelConfig,
    RecognizerConfig,
    SpectrogramConfig,
)
from dslstm_jax.config.training import AugmentationConfig, Config, TrainingConfig

__all__ = [
    "BEYOND_THE_PAPER",
    "SPECTROGRAM_256",
    "SPECTROGRAM_512",
    "SPECTROGRAM_1024",
    "AugmentationConfig",
    "Config",
    "CorpusConfig",
    "DataConfig",
    "FeaturesConfig",
    "MfccConfig",
    "ModelConfig",
    "RecognizerConfig",
    "SpectrogramConfig",
    "SplitConfig",
    "SyntheticConfig",
    "TrainingConfig",
    "from_dict",
    "load_config",
    "to_dict",
]

"""Speech emotion recognition with the Dual-Sequence LSTM (Wang et al., ICASSP 2020), in JAX and Flax."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dslstm_jax.errors import AudioError, ConfigError, CorpusError, DslstmError, RunError

if TYPE_CHECKING:
    from dslstm_jax.api import Run, compare, crossval, evaluate, train
    from dslstm_jax.config import Config
    from dslstm_jax.serving.predictor import Prediction, Predictor, load, predict

__version__ = "0.1.0"
__all__ = [
    "AudioError",
    "Config",
    "ConfigError",
    "CorpusError",
    "DslstmError",
    "Prediction",
    "Predictor",
    "Run",
    "RunError",
    "compare",
    "crossval",
    "evaluate",
    "load",
    "predict",
    "train",
]

_HOMES = {
    "dslstm_jax.api": ("Run", "compare", "crossval", "evaluate", "train"),
    "dslstm_jax.config": ("Config",),
    "dslstm_jax.serving.predictor": ("Prediction", "Predictor", "load", "predict"),
}


def __getattr__(name: str) -> Any:
    """Loads what is used on first use, so that `import dslstm_jax` stays light."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

"""Speech emotion recognition with the Dual-Sequence LSTM (Wang et al., ICASSP 2020), in JAX and Flax."""

from typing import TYPE_CHECKING, Any

from dslstm_jax.errors import AudioError, ConfigError, CorpusError, DslstmError, RunError

if TYPE_CHECKING:
    from dslstm_jax.serving.predictor import Prediction, Predictor, load, predict

__version__ = "0.1.0"
__all__ = [
    "AudioError",
    "ConfigError",
    "CorpusError",
    "DslstmError",
    "Prediction",
    "Predictor",
    "RunError",
    "load",
    "predict",
]


def __getattr__(name: str) -> Any:
    """Loads what serves predictions on first use, so that `import dslstm_jax` stays light."""
    if name in ("Prediction", "Predictor", "load", "predict"):
        from dslstm_jax.serving import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What a benchmark varies; no arrays here, so that the command line can offer it at once."""

from dataclasses import dataclass, fields
from typing import Literal

from dslstm_jax.errors import ConfigError


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
    """Layers of the recurrence."""
    dtype: tuple[Literal["float32", "bfloat16"], ...] = ("float32",)
    """Of products and activations, our peers' too where they know it."""
    backend: tuple[Literal["scan", "cudnn", "pallas_tpu"], ...] = ("scan",)
    """model.lstm_backend; those that do not run on this machine are left out and named."""

    def __post_init__(self) -> None:
        for name, values in ((field.name, getattr(self, field.name)) for field in fields(self)):
            if not values:
                raise ConfigError(f"sweep.{name} is empty; give at least one value")
            if any(isinstance(value, int) and value < 1 for value in values):
                raise ConfigError(f"sweep.{name} is {values}; its counts must be at least 1")

"""What a run has learned and how far it is: with both it goes on as if it had not stopped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import flax.struct
import numpy as np
from jaxtyping import Array, Int

from dslstm_jax.models.recognizer import Variables
from dslstm_jax.ops.metrics import Totals
from dslstm_jax.runs.folder import EpochRecord


class TrainState(flax.struct.PyTreeNode):
    """All that a step changes."""

    step: Int[Array, ""]
    variables: Variables
    optimizer_state: Any
    """What Optax keeps."""
    average: Variables | None = None
    """The moving average of the variables, where training.ema_decay asks for it."""

    @property
    def evaluated(self) -> Variables:
        """The variables that evaluate and predict."""
        return self.variables if self.average is None else self.average


@dataclass(frozen=True, eq=False)
class Progress:
    """How far the training is: with the state, all that is needed to go on as if it had not stopped."""

    epoch: int = 1
    """The epoch being trained, from 1."""
    batches: int = 0
    """Batches of that epoch already learned from."""
    totals: Totals | None = None
    """The sum over them, in float64 on the host; None before the first."""
    records: Sequence[EpochRecord] = ()
    """One for each finished epoch."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON. Nothing is rounded: Python writes a float64 in as many digits as give it back exactly."""
        totals = self.totals and {name: np.asarray(value).tolist() for name, value in self.totals._asdict().items()}
        records = [dict(record) for record in self.records]
        return {"epoch": self.epoch, "batches": self.batches, "totals": totals, "records": records}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        totals: Any = values["totals"]
        if totals is not None:
            totals = Totals._make(np.asarray(totals[name], np.float64) for name in Totals._fields)
        return cls(values["epoch"], values["batches"], totals, values["records"])

"""Checkpoints by Orbax: the variables, the optimizer's state and the records of each epoch, as separate items."""

import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from dslstm_jax.errors import RunError
from dslstm_jax.models.recognizer import Variables, variable_shapes
from dslstm_jax.training.run import Record, Run
from dslstm_jax.training.step import TrainState

SCORE = "validation_ua"
"""The figure that chooses the epoch; of equal ones the latest."""

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns there about things that are as we want them


def _score(metrics: dict[str, Any]) -> float:
    return float(metrics[SCORE])


def _abstract(tree: Any) -> Any:
    """Shapes and types of a tree, to be restored onto the first device."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


class Checkpoints:
    """The checkpoints of one run, a step an epoch (from 1). Use it in a `with` block: saving goes on behind."""

    def __init__(self, folder: Path) -> None:
        # Both are needed: without best_fn the metrics are not written, without the policy the latest may go.
        keep = checkpoint_managers.AnyPreservationPolicy(
            [checkpoint_managers.LatestN(1), checkpoint_managers.BestN(get_metric_fn=_score, n=1)]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=_score, best_mode="max", preservation_policy=keep, cleanup_tmp_directories=True
        )
        self.folder = folder
        self.manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.manager.close()

    def save(self, epoch: int, state: TrainState, records: Sequence[Record]) -> None:
        """Saves in the background; the last record holds the score."""
        items = {
            "variables": ocp.args.StandardSave(state.variables),
            "optimizer": ocp.args.StandardSave({"step": state.step, "state": state.optimizer_state}),
            "records": ocp.args.JsonSave({"records": list(records)}),
        }
        self.manager.save(epoch, args=ocp.args.Composite(**items), metrics={SCORE: records[-1][SCORE]})

    def save_variables(self, variables: Variables) -> None:
        """Saves variables that came from elsewhere: there is nothing to train on from, and no score."""
        items = ocp.args.Composite(variables=ocp.args.StandardSave(variables))
        self.manager.save(0, args=items, metrics={SCORE: 0.0})

    def restore_latest(self, state: TrainState) -> tuple[TrainState, list[Record]] | None:
        """The newest state and its records; None if nothing was saved yet.

        Args:
          state: a state of the same shapes.

        Raises:
          RunError: the checkpoint is damaged or of another model.
        """
        epoch = self.manager.latest_step()
        if epoch is None:
            return None
        items = {
            "variables": ocp.args.StandardRestore(_abstract(state.variables)),
            "optimizer": ocp.args.StandardRestore(_abstract({"step": state.step, "state": state.optimizer_state})),
            "records": ocp.args.JsonRestore(),
        }
        restored = self._restore(epoch, items)
        optimizer = restored["optimizer"]
        return TrainState(optimizer["step"], restored["variables"], optimizer["state"]), restored["records"][
            "records"
        ]

    def restore_best(self, variables: Any) -> tuple[Variables, int]:
        """The variables of the epoch with the best validation UA, and that epoch.

        Args:
          variables: shapes and types, such as `variable_shapes` gives.

        Raises:
          RunError: there is no checkpoint, or it is damaged or of another model.
        """
        epoch = self.manager.best_step()
        if epoch is None:
            raise RunError(f"{self.folder} holds no checkpoint: the run was stopped in its first epoch; --resume it")
        restored = self._restore(epoch, {"variables": ocp.args.StandardRestore(_abstract(variables))})
        return restored["variables"], epoch

    def _restore(self, epoch: int, items: dict[str, Any]) -> Any:
        try:
            return self.manager.restore(epoch, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax and TensorStore raise many kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise RunError(f"checkpoint {self.folder / str(epoch)} cannot be restored: {reason}") from error


def load_best(run: Run) -> tuple[Variables, int]:
    """The variables of the epoch that validation chose, and that epoch.

    Raises:
      RunError: there is no checkpoint, or it is damaged or of another model.
    """
    with Checkpoints(run.checkpoints) as checkpoints:
        return checkpoints.restore_best(variable_shapes(run.config, len(run.labels)))

"""Checkpoints by Orbax that lose nothing: written behind the training, looked through byte for byte before use.

`checkpoints/STEP` holds the items `variables`, `optimizer` and `progress` after that many steps of the optimizer, and
`SHA256SUMS`: the digests of all its files, in the form that `sha256sum --check` reads. It is written last; a folder
without it is a save that was cut short.
"""

import errno
import json
import math
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Sharding, SingleDeviceSharding
from orbax.checkpoint import checkpoint_managers

from dslstm_jax.errors import RunError, first_line
from dslstm_jax.models.recognizer import Variables, variable_shapes
from dslstm_jax.runs.checksums import DIGESTS, UNFINISHED, digest_line, find_fault, read_digests, write_digests
from dslstm_jax.runs.folder import RunFolder
from dslstm_jax.runs.selection import SCORED_BY
from dslstm_jax.runs.state import Progress, TrainState
from dslstm_jax.util.quiet import quiet_event_loops, quiet_orbax

quiet_orbax()

SCORE = "score"
"""What the figure that chooses the epoch is called in a checkpoint; of equal ones the latest is chosen."""


_METRICS = "metrics/metrics"  # where Orbax puts the score
_DELETED = ".deleted"  # Orbax moves old steps there, each at once: a folder half deleted would look damaged


class Checkpoints:
    """The checkpoints of one run, numbered by step. Use it in a `with` block: saving goes on behind.

    Where several processes train together, each makes the same calls, on a file system that all of them see.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._manager: ocp.CheckpointManager | None = None
        self._opened = ExitStack()
        self._saving: tuple[int, Future[None]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def save(self, state: TrainState, progress: Progress, score: float | None = None) -> None:
        """Saves in the background, under the number `state.step`, once the save before is finished.

        On return the state is copied and may be donated. The two newest checkpoints are kept, and of those with a
        score the two best: one more than needed of each, in case that one is damaged. One of the same step is
        replaced.

        Args:
          score: the figure that chooses, at the end of an epoch; None in the middle of one, which is never the best.

        Raises:
          RunError: this save or the one before failed, for want of space for example.
        """
        items = {
            "variables": ocp.args.StandardSave(state.evaluated),
            "optimizer": ocp.args.StandardSave(_training_only(state)),
            "progress": ocp.args.JsonSave(progress.to_dict()),
        }
        self._save(int(state.step), items, score)

    def save_variables(self, variables: Variables) -> None:
        """Saves variables that came from elsewhere: there is nothing to train on from, and no score.

        Raises:
          RunError: they cannot be saved.
        """
        items = {"variables": ocp.args.StandardSave(variables), "progress": ocp.args.JsonSave(Progress().to_dict())}
        self._save(0, items, score=0.0)

    def wait(self) -> None:
        """Waits until all that was saved is on the disk, with its digests.

        Raises:
          RunError: it could not be written.
        """
        if self._saving is None:
            return
        step, saving = self._saving
        error = saving.exception()
        self._saving = None
        if error is not None:
            raise self._failure(step, error) from error

    def close(self) -> None:
        """Waits, and frees what Orbax holds.

        Raises:
          RunError: the last save could not be written.
        """
        try:
            self.wait()
        finally:
            self._close_manager()
            self._behind.shutdown()

    def restore_latest(
        self, state: TrainState, *, warn: Callable[[str], None], sharding: Sharding | None = None
    ) -> tuple[TrainState, Progress] | None:
        """The newest state whose files are all as they were written, and its progress; None if there is none yet.

        Damaged and unfinished checkpoints are renamed to `STEP.damaged`, which makes way for saving them anew.

        Args:
          state: a state of the same shapes.
          warn: told in one line what was passed over, why, and what is used instead.
          sharding: where the arrays shall lie; by default on this process's first device.

        Raises:
          RunError: all checkpoints are damaged, or the newest is of another model.
        """
        step = self._agree(lambda: self._newest_whole(warn))
        if step is None:
            return None
        items = {
            "variables": ocp.args.StandardRestore(_abstract(state.evaluated, sharding)),
            "optimizer": ocp.args.StandardRestore(_abstract(_training_only(state), sharding)),
            "progress": ocp.args.JsonRestore(),
        }
        restored = self._restore(step, items)
        optimizer = restored["optimizer"]
        evaluated, averaged = restored["variables"], "variables" in optimizer
        latest = TrainState(
            optimizer["step"],
            optimizer["variables"] if averaged else evaluated,
            optimizer["state"],
            evaluated if averaged else None,
        )
        return latest, Progress.from_dict(restored["progress"])

    def restore_best(
        self, variables: Any, *, last: bool = False, sharding: Sharding | None = None
    ) -> tuple[Variables, int]:
        """The variables of the epoch with the best score, and that epoch. It only reads.

        Args:
          variables: shapes and types, such as `variable_shapes` gives.
          last: take the newest epoch instead.
          sharding: where the arrays shall lie; by default on this process's first device.

        Raises:
          RunError: no epoch was finished, or the best one's checkpoint is damaged or of another model.
        """
        step = self._agree(partial(self._best, last))
        if step is None:
            raise RunError(f"{self.folder} holds no checkpoint: the run was stopped in its first epoch; --resume it")
        items = {
            "variables": ocp.args.StandardRestore(_abstract(variables, sharding)),
            "progress": ocp.args.JsonRestore(),
        }
        restored = self._restore(step, items)
        records = restored["progress"]["records"]
        return restored["variables"], records[-1]["epoch"] if records else 0

    def _save(self, step: int, items: dict[str, Any], score: float | None) -> None:
        self.wait()
        try:
            self._manager = self._manager or self._open_manager()
            if step in self._manager.all_steps():
                self._manager.delete(step)
            metrics = None if score is None else {SCORE: float(score)}
            # By force, lest Orbax leave it out without a word.
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)
        except Exception as error:
            raise self._failure(step, error) from error
        self._saving = step, self._behind.submit(self._finish_saving, self._manager, step)

    def _finish_saving(self, manager: ocp.CheckpointManager, step: int) -> None:
        """When all processes have written all, the first one adds the digests."""
        manager.wait_until_finished()
        if jax.process_index() == 0:
            folder = self.folder / str(step)
            write_digests(folder)
            shutil.rmtree(self.folder / _DELETED, ignore_errors=True)

    def _open_manager(self) -> ocp.CheckpointManager:
        """It reads the scores of what is there and deletes what is left of saves that were cut short."""
        self._opened.enter_context(quiet_event_loops())
        if jax.process_index() == 0:
            shutil.rmtree(self.folder / _DELETED, ignore_errors=True)
            for step in self._steps():
                if not (self.folder / str(step) / DIGESTS).exists():
                    self._set_aside(step)
        # Two of each: Orbax deletes the old before the new has its digests. It needs both, policy and best_fn:
        # without best_fn it does not write the scores, without the policy it may delete the latest.
        newest = checkpoint_managers.LatestN(2)
        best = checkpoint_managers.BestN(get_metric_fn=_score, n=2, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=_score,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy([newest, best]),
            cleanup_tmp_directories=True,
            todelete_subdir=_DELETED,
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def _close_manager(self) -> None:
        manager, self._manager = self._manager, None
        with self._opened, suppress(Exception):  # of a failed save `wait` has told
            if manager is not None:
                manager.close()

    def _failure(self, step: int, error: BaseException) -> RunError:
        """What to raise when a save failed. What Orbax knows is no longer what is there: the next save opens anew."""
        self._close_manager()
        whole = [other for other in self._steps() if (self.folder / str(other) / DIGESTS).exists()]
        before = f"checkpoint {whole[0]} is intact" if whole else "there is none before it"
        full = _is_disk_full(error)
        reason, mend = ("no space left", "make room") if full else (first_line(error), "mend this")
        return RunError(f"{self.folder}: checkpoint {step} cannot be saved: {reason}; {before}; {mend} and --resume")

    def _agree(self, choose: Callable[[], int | None]) -> int | None:
        """What the first process chooses, on all of them."""
        self.wait()
        chosen: int | None = None
        failure: RunError | None = None
        if jax.process_index() == 0:
            try:
                chosen = choose()
            except OSError as error:
                failure = RunError(f"cannot use {error.filename or self.folder}: {error.strerror or error}")
            except RunError as error:
                failure = error
        code = -2 if failure else -1 if chosen is None else chosen
        agreed = int(multihost_utils.broadcast_one_to_all(np.int32(code)))
        if agreed == -2:
            raise failure or RunError(f"{self.folder}: no checkpoint can be used; the first process says why")
        return None if agreed == -1 else agreed

    def _steps(self) -> list[int]:
        """All there are, newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()), reverse=True)

    def _newest_whole(self, warn: Callable[[str], None]) -> int | None:
        steps = self._steps()
        faults = {step: fault for step in steps if (fault := find_fault(self.folder / str(step)))}
        newest = next((step for step in steps if step not in faults), None)
        described = "; ".join(f"checkpoint {step} {fault}" for step, fault in faults.items())
        if newest is None and any(fault != UNFINISHED for fault in faults.values()):
            raise RunError(f"{self.folder}: {described}; put a copy back or give another --workdir")
        for step in faults:
            self._set_aside(step)
        if faults:
            warn(f"{described}; " + ("starting anew" if newest is None else f"going on from checkpoint {newest}"))
        return newest

    def _set_aside(self, step: int) -> None:
        """It is not deleted: what cannot be read today may be readable tomorrow."""
        aside = self.folder / f"{step}.damaged"
        shutil.rmtree(aside, ignore_errors=True)
        (self.folder / str(step)).rename(aside)

    def _best(self, last: bool) -> int | None:
        scores = {step: score for step in self._steps() if (score := self._read_score(step)) is not None}
        if not scores:
            return None
        step = max(scores, key=lambda step: (0.0 if last else scores[step], step))
        if fault := find_fault(self.folder / str(step)):
            raise self._damage(step, fault)
        return step

    def _read_score(self, step: int) -> float | None:
        """None in the middle of an epoch, and if the save was cut short."""
        folder = self.folder / str(step)
        path = folder / _METRICS
        if not (folder / DIGESTS).exists():
            return None
        digests = read_digests(folder)
        if not path.exists() and _METRICS not in digests:
            return None
        if not path.exists() or digest_line(path, folder) not in digests:
            raise self._damage(step, f"is damaged: {_METRICS} is not what {DIGESTS} says")
        return _score(json.loads(path.read_text()))

    def _damage(self, step: int, fault: str) -> RunError:
        return RunError(
            f"{self.folder}: checkpoint {step} {fault}; put a copy back, or --resume the run to go on without it"
        )

    def _restore(self, step: int, items: dict[str, Any]) -> Any:
        path = self.folder / str(step)
        try:
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
                return checkpointer.restore(path, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax and TensorStore raise many kinds
            raise RunError(f"checkpoint {path} cannot be restored: {first_line(error)}") from error


def load_best(run: RunFolder) -> tuple[Variables, int]:
    """The variables of the epoch that training.choose names, and that epoch. It only reads.

    Raises:
      RunError: there is no checkpoint, or it is damaged or of another model.
    """
    with Checkpoints(run.checkpoints) as checkpoints:
        last = SCORED_BY[run.config.training.choose] == "epoch"
        return checkpoints.restore_best(variable_shapes(run.config.recognizer, len(run.labels)), last=last)


def _training_only(state: TrainState) -> dict[str, Any]:
    """What training needs and prediction does not."""
    values = {"step": state.step, "state": state.optimizer_state}
    return values if state.average is None else {**values, "variables": state.variables}


def _score(metrics: Mapping[str, Any]) -> float:
    (score,) = map(float, metrics.values())
    return -math.inf if math.isnan(score) else score


def _abstract(tree: Any, sharding: Sharding | None) -> Any:
    """Shapes and types of a tree, and where it shall lie."""
    place = sharding or SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)


def _is_disk_full(error: BaseException | None) -> bool:
    """Python says so by number, TensorStore in words."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return error is not None and (
        (isinstance(error, OSError) and error.errno in full)
        or any(words in str(error) for words in ("No space left on device", "Disk quota exceeded"))
        or _is_disk_full(error.__cause__ or error.__context__)
    )

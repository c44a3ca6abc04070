"""Many runs in one program: each step is that of all runs, their states side by side under vmap.

Runs differ in seed and split, so in the number of their steps and in the length of their batches. A run that has no
batch at a step keeps its state; batches of one step are padded to the longest of them, which changes nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int

from dslstm_jax.data.batches import Batch
from dslstm_jax.data.dataset import Dataset
from dslstm_jax.data.resident import Recordings, gather_waveforms, without_waveforms
from dslstm_jax.errors import ConfigError, RunError
from dslstm_jax.ops.metrics import Totals
from dslstm_jax.runs.folder import RunFolder
from dslstm_jax.runs.state import TrainState
from dslstm_jax.training.parallel import Parallel
from dslstm_jax.training.placement import resident
from dslstm_jax.training.step import AnyOptimizer, StepConfig, eval_step, train_step
from dslstm_jax.training.totals import RunningTotals
from dslstm_jax.training.trainer import Display, Epoch, Trainer

T = TypeVar("T")


class Lanes(NamedTuple):
    """What makes each run its own, all [R]."""

    seeds: Any
    optimizers: Any
    """Which of the optimizers is a run's: their schedules count in epochs, whose steps differ."""


def stack(trees: Sequence[T]) -> T:
    """Leaves side by side along a new first axis, R."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def longest(batches: Iterable[Batch]) -> int:
    """Samples of the longest rows."""
    return max(batch.waveforms.shape[1] for batch in batches)


def stack_batches(batches: Sequence[Batch | None], rows: int) -> tuple[Batch, Bool[np.ndarray, " R"]]:
    """Batches side by side, [R, B, N], padded to `rows` rows and the longest waveforms; and which there are.

    Args:
      batches: each run's at this step; None where it has none, which becomes padding. They may lack waveforms.
      rows: at least those of any batch.
    """
    there = [batch for batch in batches if batch is not None]
    length = longest(there) if there[0].waveforms is not None else 0
    blank = jax.tree.map(lambda leaf: leaf[:0], there[0])

    def column(*leaves: np.ndarray) -> np.ndarray:
        shape = (length,) if leaves[0].ndim == 2 else ()
        padded = np.zeros((len(leaves), rows, *shape), leaves[0].dtype)
        for run, leaf in enumerate(leaves):
            padded[run][tuple(map(slice, leaf.shape))] = leaf
        return padded

    active = np.array([batch is not None for batch in batches])
    return jax.tree.map(column, *(batch or blank for batch in batches)), active


def train_step_of_all(
    states: TrainState,
    batches: Batch,
    lanes: Lanes,
    active: Bool[Array, " R"],
    *,
    config: StepConfig,
    optimizers: Sequence[AnyOptimizer],
) -> tuple[TrainState, Totals]:
    """`train_step` of every run that is active; the states of the others stay as they are.

    Args:
      states: of all runs, leaves [R, ...].
      batches: of all runs, leaves [R, B, ...].
      lanes: see there.
      active: which runs have a batch.
      config: what all runs share.
      optimizers: all there are among the runs.
    """

    def one(state: TrainState, batch: Batch, lane: Lanes, active: Bool[Array, ""]) -> tuple[TrainState, Totals]:
        def update(*arguments: Any) -> Any:
            return jax.lax.switch(lane.optimizers, [optimizer.update for optimizer in optimizers], *arguments)

        optimizer = optax.GradientTransformation(optimizers[0].init, update)
        after, totals = train_step(state, batch, lane.seeds, config=config, optimizer=optimizer)
        return jax.tree.map(partial(jnp.where, active), after, state), totals

    return jax.vmap(one)(states, batches, lanes, active)


def _split(tree: T, runs: int) -> list[T]:
    """A tree for each run. Inside a program: one by one, outside, they would cost as much as a step."""
    return [jax.tree.map(lambda leaf, run=run: leaf[run], tree) for run in range(runs)]


@jax.jit
def _take(tree: Any, run: Int[Array, ""]) -> Any:
    return jax.tree.map(lambda leaf: leaf[run], tree)


class _Lockstep:
    """The states of all runs side by side, and the programs that step them."""

    def __init__(self, trainers: Sequence[Trainer], device: jax.Device, recordings: Recordings | None) -> None:
        config, count = trainers[0].run.config, len(trainers)
        optimizers = list(dict.fromkeys(trainer.optimizer for trainer in trainers))
        which = [optimizers.index(trainer.optimizer) for trainer in trainers]
        lanes = Lanes(np.array([trainer.seed for trainer in trainers]), np.array(which, np.int32))
        self._states = jax.device_put(stack([trainer.state for trainer in trainers]), device)
        self._device, self._recordings = device, recordings
        self._train_rows = max(trainer.train.batch_size for trainer in trainers)
        self._eval_rows = max((side.batch_size for trainer in trainers for side in trainer.sides.values()), default=0)
        own = StepConfig.of(config)

        @partial(jax.jit, donate_argnums=0)
        def learn(states: TrainState, batches: Batch, active: Bool[Array, " R"]) -> tuple[TrainState, list[Totals]]:
            states, totals = train_step_of_all(states, batches, lanes, active, config=own, optimizers=optimizers)
            return states, _split(totals, count)

        @jax.jit
        def examine(variables: Any, batches: Batch) -> list[Totals]:
            evaluate = partial(eval_step, config=own.recognizer)
            return _split(jax.vmap(evaluate)(variables, batches), count)

        self._learn, self._examine = learn, examine

    def learn(self, batches: Sequence[Batch | None]) -> list[Totals]:
        """A training step of each run that has a batch."""
        self._states, totals = self._learn(self._states, *self._side_by_side(batches, self._train_rows))
        return totals

    def examine(self, batches: Sequence[Batch | None]) -> list[Totals]:
        """The totals of each run that has a batch."""
        return self._examine(self._states.evaluated, self._side_by_side(batches, self._eval_rows)[0])

    def state(self, run: int) -> TrainState:
        """That of one run."""
        taken: TrainState = _take(self._states, run)
        return taken

    def _side_by_side(self, batches: Sequence[Batch | None], rows: int) -> tuple[Batch, Bool[Array, " R"]]:
        length = longest(batch for batch in batches if batch is not None)
        if self._recordings is not None:
            batches = [batch and without_waveforms(batch) for batch in batches]
        stacked, active = jax.device_put(stack_batches(batches, rows), self._device)
        if self._recordings is not None:
            stacked = gather_waveforms(self._recordings, stacked, length)
        return stacked, active


def fit_in_lockstep(
    runs: Sequence[RunFolder],
    datasets: Sequence[Dataset],
    *,
    parallel: Parallel,
    displays: Sequence[Display],
    preempted: Callable[[], bool],
) -> bool:
    """`fit` of all runs at once on one device: each with its own seed, batches and checkpoints.

    Each run ends as it would alone, but for rounding; one that was begun alone is gone on with here, and the other
    way round. The runs begin their epochs together.

    Args:
      runs: folders whose configs differ in seed, split and epochs only.
      datasets: each run's own.
      parallel: one device.
      displays: where each run's progress goes.
      preempted: asked after each run's step whether this process is to stop.

    Returns:
      Whether all runs reached their last epoch. If not, all is saved.

    Raises:
      ConfigError: several devices.
      RunError: as in `fit`, naming the run.
    """
    if parallel.mode != "single":
        raise ConfigError("crossval.vmap puts all runs on one device; give --parallel.mode single")
    recordings = resident(datasets[0], runs[0].config, parallel)
    with ExitStack() as opened:
        trainers = []
        for run, dataset, display in zip(runs, datasets, displays, strict=True):
            with _naming(run):
                trainer = Trainer(run, dataset, parallel, display, place=lambda batch: batch)
                trainers.append(opened.enter_context(trainer))
        lockstep = _Lockstep(trainers, parallel.devices[0], recordings)
        while not all(trainer.finished for trainer in trainers):
            epochs, stop = _learn_one_epoch(trainers, lockstep, preempted)
            ended = {number: epoch for number, epoch in epochs.items() if not epoch.left}
            _end_epochs(trainers, ended, lockstep)
            if stop and not all(trainer.finished for trainer in trainers):
                return False
    return True


def _learn_one_epoch(
    trainers: Sequence[Trainer], lockstep: _Lockstep, preempted: Callable[[], bool]
) -> tuple[dict[int, Epoch], bool]:
    """One epoch of each run that is not finished, by the run's number; and whether this process is preempted: then an
    epoch may have batches left."""
    stop = False
    with ExitStack() as bars:
        epochs = {
            number: bars.enter_context(trainer.epoch())
            for number, trainer in enumerate(trainers)
            if not trainer.finished
        }
        own = [epochs[number].batches() if number in epochs else () for number in range(len(trainers))]
        for batches in zip_longest(*own):
            totals = lockstep.learn(batches)
            there = [number for number, batch in enumerate(batches) if batch is not None]
            for number in there:
                with _naming(trainers[number].run):
                    epochs[number].learned(totals[number])
                stop = preempted()
            for number in there:
                epoch = epochs[number]
                if epoch.left and (stop or epoch.checkpoint_due):
                    with _naming(trainers[number].run):
                        trainers[number].save(epoch, lockstep.state(number))
            if stop:
                break
    return epochs, stop


def _end_epochs(trainers: Sequence[Trainer], epochs: dict[int, Epoch], lockstep: _Lockstep) -> None:
    """Examines the sides of the runs whose epoch has ended, and saves and reports what came of it."""
    totals: dict[int, dict[str, Totals]] = {}
    for number, epoch in epochs.items():
        with _naming(trainers[number].run):
            totals[number] = {"train": epoch.total()}
    for side in dict.fromkeys(side for number in epochs for side in trainers[number].sides):
        examined = [number in epochs and side in trainer.sides for number, trainer in enumerate(trainers)]
        own = [trainer.batches(side) if there else () for trainer, there in zip(trainers, examined, strict=True)]
        sums = [RunningTotals() for _ in trainers]
        for batches in zip_longest(*own):
            for batch, total, found in zip(batches, sums, lockstep.examine(batches), strict=True):
                if batch is not None:
                    total.push(found)
        for number in epochs:
            if (sum_of_side := sums[number].read()) is not None:
                totals[number][side] = sum_of_side
    for number, epoch in epochs.items():
        with _naming(trainers[number].run):
            trainers[number].end(epoch, totals[number], lockstep.state(number))


@contextmanager
def _naming(run: RunFolder) -> Iterator[None]:
    """Names the run in its errors."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{run.path.name}: {error}") from error

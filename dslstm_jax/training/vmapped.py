"""Many runs in one program: each step is that of all runs, their states side by side under vmap.

Runs differ in seed and split, so in the number of their steps and in the length of their batches. A run that has no
batch at a step keeps its state; batches of one step are padded to the longest of them, which changes nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int

from dslstm_jax.config import Config
from dslstm_jax.data.dataset import Dataset
from dslstm_jax.data.pipeline import Batch
from dslstm_jax.data.resident import Recordings, cut, without_waveforms
from dslstm_jax.errors import ConfigError, RunError
from dslstm_jax.runs.folder import Run
from dslstm_jax.training.loop import (
    Begin,
    Course,
    Display,
    Examine,
    Fetch,
    Learn,
    Request,
    course,
    program_config,
    seed_of,
)
from dslstm_jax.training.parallel import Parallel
from dslstm_jax.training.placement import resident
from dslstm_jax.training.refit import stages
from dslstm_jax.training.step import Totals, TrainState, eval_step, train_step

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
    config: Config,
    optimizers: Sequence[optax.GradientTransformation],
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


def fit_together(
    runs: Sequence[Run],
    datasets: Sequence[Dataset],
    *,
    parallel: Parallel,
    displays: Sequence[Display],
    told_to_stop: Callable[[], bool],
) -> bool:
    """`fit` of all runs at once on one device: each with its own seed, batches and checkpoints.

    Each run ends as it would alone, but for rounding; one that was begun alone is gone on with here, and the other
    way round.

    Args:
      runs: folders whose configs differ in seed and split only.
      datasets: each run's own.
      parallel: one device.
      displays: where each run's progress goes.
      told_to_stop: asked after each run's step.

    Returns:
      Whether all runs reached their last epoch. If not, all is saved.

    Raises:
      ConfigError: several devices.
      RunError: as in `fit`, naming the run.
    """
    if parallel.mode != "single":
        raise ConfigError("crossval.vmap puts all runs on one device; give --parallel.mode single")

    def fit_stage(stage: Sequence[tuple[Run, Dataset]]) -> bool:
        runs = [run for run, _ in stage]
        courses = [
            course(run, dataset, parallel, display, told_to_stop, place=lambda batch: batch)
            for (run, dataset), display in zip(stage, displays, strict=True)
        ]
        try:
            recordings = resident(datasets[0], runs[0].config, parallel)
            return _follow_all(courses, runs, parallel.devices[0], recordings)
        finally:
            for one in courses:
                one.close()

    staged = [
        stages(run, dataset, parallel, display.tell)
        for run, dataset, display in zip(runs, datasets, displays, strict=True)
    ]
    return all(fit_stage(stage) for stage in zip(*staged, strict=True))


def _follow_all(
    courses: Sequence[Course], runs: Sequence[Run], device: jax.Device, recordings: Recordings | None
) -> bool:
    """Computes what the courses ask for: training steps as long as any wants one, then evaluation."""
    config, count = program_config(runs[0].config), len(runs)
    begun = [_advance(one, run, None) for one, run in zip(courses, runs, strict=True)]
    beginnings = [request for request in begun if isinstance(request, Begin)]
    states = jax.device_put(stack([beginning.state for beginning in beginnings]), device)
    optimizers = list({id(beginning.optimizer): beginning.optimizer for beginning in beginnings}.values())
    lanes = jax.device_put(
        Lanes(
            np.array([seed_of(run) for run in runs]),
            np.array([optimizers.index(beginning.optimizer) for beginning in beginnings], np.int32),
        ),
        device,
    )
    del begun, beginnings

    @partial(jax.jit, donate_argnums=0)
    def learn(states: TrainState, batches: Batch, active: Bool[Array, " R"]) -> tuple[TrainState, list[Totals]]:
        states, totals = train_step_of_all(states, batches, lanes, active, config=config, optimizers=optimizers)
        return states, _split(totals, count)

    @jax.jit
    def examine(variables: Any, batches: Batch) -> list[Totals]:
        return _split(jax.vmap(partial(eval_step, config=config))(variables, batches), count)

    answers: dict[int, Any] = dict.fromkeys(range(count))
    waiting: dict[int, Request] = {}
    finished = [False] * count
    rows = {Learn: 0, Examine: 0}
    while True:
        for run, answer in answers.items():
            request = _advance(courses[run], runs[run], answer)
            while isinstance(request, Fetch):
                request = _advance(courses[run], runs[run], _take(states, run))
            if isinstance(request, bool):
                finished[run] = request
                del waiting[run]
            else:
                waiting[run] = request
        if not waiting:
            return all(finished)
        kind = Learn if any(isinstance(request, Learn) for request in waiting.values()) else Examine
        batches = {run: request.batch for run, request in waiting.items() if isinstance(request, kind)}
        rows[kind] = max(rows[kind], *(len(batch.lengths) for batch in batches.values()))
        length = longest(batches.values())
        if recordings is not None:
            batches = {run: without_waveforms(batch) for run, batch in batches.items()}
        together = stack_batches([batches.get(run) for run in range(count)], rows[kind])
        stacked, active = jax.device_put(together, device)
        if recordings is not None:
            stacked = cut(recordings, stacked, length)
        if kind is Learn:
            states, totals = learn(states, stacked, active)
        else:
            totals = examine(states.evaluated, stacked)
        answers = {run: totals[run] for run in batches}


def _advance(one: Course, run: Run, answer: Any) -> Request | bool:
    """What the run asks for next, or its value at its end."""
    try:
        return one.send(answer)
    except StopIteration as end:
        return bool(end.value)
    except RunError as error:
        raise RunError(f"{run.path.name}: {error}") from error

"""fit: epochs of training, validation after each, a checkpoint of each; the best validation UA chooses.

What a run does is written as a `Course`, which asks for one step after the other. Whoever follows it decides how the
steps are computed: `fit` those of one run, `together.py` those of many runs at once.
"""

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console

from dslstm_jax.config import Config, CorpusConfig, SplitConfig, TrainingConfig
from dslstm_jax.data.corpora.base import first_three
from dslstm_jax.data.dataset import Dataset
from dslstm_jax.data.pipeline import Batch, Loader, PlannedBatch, make_loader, padding
from dslstm_jax.errors import RunError
from dslstm_jax.ops.metrics import unweighted_accuracy, weighted_accuracy
from dslstm_jax.runs.checkpoint import Checkpoints, Progress
from dslstm_jax.runs.folder import Record, Run
from dslstm_jax.runs.selection import score
from dslstm_jax.training.parallel import Parallel
from dslstm_jax.training.placement import placing
from dslstm_jax.training.refit import stages
from dslstm_jax.training.step import Totals, TrainState, create_state, make_optimizer
from dslstm_jax.util.progress import progress_bar


class Begin(NamedTuple):
    """Take this state, at the run's first step or where it was stopped."""

    state: TrainState
    optimizer: optax.GradientTransformation


class Learn(NamedTuple):
    """Take a training step; the answer is its Totals."""

    batch: Batch


class Examine(NamedTuple):
    """Evaluate a batch; the answer is its Totals."""

    batch: Batch


class Fetch(NamedTuple):
    """The answer is the state, to be saved."""


Request = Begin | Learn | Examine | Fetch
Course = Generator[Request, Any, bool]
"""One run's training, as what it asks for; its value is what `fit` returns."""


class Display(NamedTuple):
    """Where the progress goes."""

    tell: Callable[[str], None]
    """Takes a line."""
    bar: Callable[[str, int, int], AbstractContextManager[Callable[..., None]]]
    """As `progress_bar`, of utterances."""


def display_on(console: Console) -> Display:
    """Lines and a bar on the console."""
    return Display(partial(console.print, highlight=False, soft_wrap=True), partial(progress_bar, console))


def program_config(config: Config) -> Config:
    """The config without what no program depends on: runs that differ in it share what is compiled."""
    return replace(config, corpus=CorpusConfig(), split=SplitConfig(), training=replace(config.training, seed=0))


@lru_cache(maxsize=64)
def _optimizer(config: TrainingConfig, steps: int) -> optax.GradientTransformation:
    """The same object for the same settings, so that `_steps` knows it."""
    return make_optimizer(config, steps)


@lru_cache(maxsize=8)
def _steps(parallel: Parallel, config: Config, optimizer: optax.GradientTransformation) -> tuple[Any, Any]:
    return parallel.train_step(config, optimizer), parallel.eval_step(config)


def seed_of(run: Run) -> np.uint32:
    """training.seed as the train step takes it."""
    return np.uint32(run.config.training.seed & 0xFFFFFFFF)


def add(totals: Iterable[Totals]) -> Totals:
    """The sum over batches, in float64 on the host.

    A batch is read back only after the next one was started, so that the device never waits for us.
    """
    result: Totals | None = None
    waiting: Totals | None = None
    for following in totals:
        if waiting is not None:
            result = _sum(result, waiting)
        waiting = following
    if waiting is None:
        raise ValueError("there is no batch to add up")
    return _sum(result, waiting)


def _sum(result: Totals | None, batch: Totals) -> Totals:
    batch = jax.tree.map(lambda value: np.asarray(value, np.float64), batch)
    return batch if result is None else jax.tree.map(np.add, result, batch)


def figures(totals: Totals, part: str) -> dict[str, float]:
    """Mean loss, WA and UA under the names of metrics.jsonl."""
    return {
        f"{part}_loss": float(totals.loss / totals.utterances),
        f"{part}_wa": float(weighted_accuracy(totals.confusion)),
        f"{part}_ua": float(unweighted_accuracy(totals.confusion)),
    }


def _describe(record: Record, epochs: int) -> str:
    sides = [
        f"{side} loss {record[f'{side}_loss']:.3f} WA {record[f'{side}_wa']:.3f} UA {record[f'{side}_ua']:.3f}"
        for side in ("train", "validation")
        if f"{side}_loss" in record
    ]
    return "  ".join(
        [f"epoch {record['epoch']}/{epochs}", *sides, f"{record['utterances_per_second']:.1f} utterances/s"]
    )


class _Sum:
    """Totals added up one batch behind, so that the device never waits for us."""

    def __init__(self, start: Totals | None) -> None:
        self.totals = start
        self._waiting: tuple[Totals, Callable[[], str] | None] | None = None

    def push(self, totals: Totals, name: Callable[[], str] | None = None) -> None:
        """Takes a batch's totals, and in training what to call the batch; adds those of the one before."""
        waiting, self._waiting = self._waiting, (totals, name)
        self._add(waiting)

    def flush(self) -> Totals | None:
        """The sum over all batches so far; None if there was none."""
        waiting, self._waiting = self._waiting, None
        self._add(waiting)
        return self.totals

    def _add(self, waiting: tuple[Totals, Callable[[], str] | None] | None) -> None:
        if waiting is None:
            return
        totals, name = waiting
        self.totals = _sum(self.totals, totals)
        if name is not None and not math.isfinite(self.totals.loss):
            raise RunError(f"the training loss is not finite in {name()}; lower --training.learning-rate")


def _describe_batches(loader: Loader) -> str:
    """Such as "7 batches of 32, padded to 2.70, 4.10 or 9.00 s (31 % of the samples are padding)"."""
    seconds = ", ".join(f"{length / loader.sample_rate:.2f}" for length in loader.padded_lengths)
    share = padding(loader.plan(), loader.dataset.lengths, loader.batch_size)
    size = f"{loader.steps} batches of {loader.batch_size} utterances an epoch"
    return f"{size}, padded to {seconds} s ({share:.0%} of the samples are padding)"


def fit(run: Run, dataset: Dataset, *, parallel: Parallel, console: Console) -> bool:
    """Trains to the last epoch, from the newest checkpoint if there is one.

    Each epoch's order depends on the seed and the epoch alone, and all draws on the seed and the step, so that a run
    that was stopped and resumed ends as one that never was.

    Args:
      run: the folder that takes metrics.jsonl, TensorBoard events and checkpoints.
      dataset: its split's `train` is learned from, `validation` chooses the epoch, `test` is not touched;
        training.choose may say otherwise.
      parallel: the devices; where a run was stopped on others, it goes on with the same figures but for rounding.
      console: where the progress goes.

    Returns:
      Whether the last epoch was reached. If not, this process was told to end (SIGTERM), and all is saved.

    Raises:
      RunError: the loss is no longer finite, or a checkpoint cannot be restored or written.
    """
    with parallel.told_to_stop() as told_to_stop:
        return fit_stages(run, dataset, parallel, display_on(console), told_to_stop)


def fit_stages(
    run: Run, dataset: Dataset, parallel: Parallel, display: Display, told_to_stop: Callable[[], bool]
) -> bool:
    """`fit`, for a caller that catches the signal and shows the progress."""
    return all(
        follow(course(stage, part, parallel, display, told_to_stop), stage, parallel)
        for stage, part in stages(run, dataset, parallel, display.tell)
    )


def follow(course: Course, run: Run, parallel: Parallel) -> bool:
    """Computes what a course asks for on the devices; returns its value."""
    config, seed, reply = program_config(run.config), seed_of(run), None
    with closing(course):
        while True:
            try:
                request = course.send(reply)
            except StopIteration as end:
                return bool(end.value)
            match request:
                case Begin(state, optimizer):
                    learn, examine = _steps(parallel, config, optimizer)
                    state, reply = parallel.spread(state), None
                case Learn(batch):
                    state, totals = learn(state, batch, seed)
                    reply = parallel.gather(totals)
                case Examine(batch):
                    reply = parallel.gather(examine(state.evaluated, batch))
                case Fetch():
                    reply = parallel.gather(state)


def course(
    run: Run,
    dataset: Dataset,
    parallel: Parallel,
    display: Display,
    told_to_stop: Callable[[], bool],
    place: Callable[[Batch], Batch] | None = None,
) -> Course:
    """All that `fit` does for a run but the steps, which it asks for.

    Args:
      run: as in `fit`.
      dataset: as in `fit`; `test` is examined only where training.choose is test-best.
      parallel: the devices that the batches are read for.
      display: where the progress goes.
      told_to_stop: asked after each step.
      place: what is done to a batch once it is read; by default it is brought to the devices (see `placing`).
    """
    config, training, devices = run.config, run.config.training, len(parallel.devices)
    train = make_loader(
        dataset,
        dataset.split.train,
        config,
        training.batch_size,
        devices * training.accumulate,
        balanced=training.class_weights == "balanced",
    )
    examined_sides = ("validation", "test") if training.choose == "test-best" else ("validation",)
    sides = {
        side: make_loader(dataset, getattr(dataset.split, side), config, training.evaluation_batch_size, devices)
        for side in examined_sides
        if getattr(dataset.split, side)
    }
    display.tell(_describe_batches(train))

    optimizer = _optimizer(replace(training, seed=0), train.steps)
    read = partial(Loader.batches, share=parallel.share, place=place or placing(dataset, config, parallel))
    state, progress = create_state(config, len(run.labels), optimizer), Progress()

    with Checkpoints(run.checkpoints) as checkpoints:
        restored = checkpoints.restore_latest(
            state, warn=lambda line: display.tell(f"warning: {line}"), sharding=parallel.everywhere
        )
        if restored is not None:
            state, progress = restored
            middle = f" and {progress.batches} batches" if progress.batches else ""
            display.tell(f"resumed after epoch {progress.epoch - 1}{middle}")
        yield Begin(state, optimizer)
        del state  # the steps use it up
        records = list(progress.records)
        with _log(run, records, parallel) as log:
            for epoch in range(progress.epoch, training.epochs + 1):
                started, before = time.perf_counter(), progress.batches
                learned, shuffle = _Sum(progress.totals), (training.seed, epoch)
                plan, stop = train.plan(shuffle), False
                seen = sum(len(batch.members) for batch in plan[:before])
                with display.bar(f"epoch {epoch}/{training.epochs}", len(train.members), seen) as done:
                    for number, batch in enumerate(read(train, shuffle, start=before), start=before + 1):
                        totals = yield Learn(batch)
                        learned.push(totals, partial(_name_batch, dataset, plan[number - 1], epoch, number))
                        done(len(plan[number - 1].members))
                        stop = told_to_stop()
                        if number < train.steps and (stop or number % training.checkpoint_every == 0):
                            progress = Progress(epoch, number, learned.flush(), records)
                            checkpoints.save((yield Fetch()), progress)
                        if stop and number < train.steps:
                            return False
                # Only now is the last step done: it was started when it was asked for.
                totals = _not_none(learned.flush())
                seconds = time.perf_counter() - started
                record = {"epoch": epoch, **figures(totals, "train")}
                for side, loader in sides.items():
                    record |= figures((yield from _examine(read(loader))), side)
                record["utterances_per_second"] = (len(train.members) - seen) / seconds
                records = [*records, record]
                progress = Progress(epoch + 1, records=records)
                checkpoints.save((yield Fetch()), progress, score(records, training))
                log(records)
                display.tell(_describe(record, training.epochs))
                if stop and epoch < training.epochs:
                    return False
    return True


def _examine(batches: Iterable[Batch]) -> Generator[Request, Any, Totals]:
    """The sum over the batches of one side."""
    examined = _Sum(None)
    for batch in batches:
        examined.push((yield Examine(batch)))
    return _not_none(examined.flush())


def _name_batch(dataset: Dataset, batch: PlannedBatch, epoch: int, number: int) -> str:
    """Such as "batch 3 of epoch 2 (a.wav, b.wav, c.wav and 29 more)"."""
    paths = [dataset.corpus.utterances[member].path for member in batch.members]
    return f"batch {number} of epoch {epoch} ({first_three(paths)})"


def _not_none(totals: Totals | None) -> Totals:
    assert totals is not None  # an epoch has at least one batch
    return totals


@contextmanager
def _log(run: Run, records: Sequence[Record], parallel: Parallel) -> Iterator[Callable[[Sequence[Record]], None]]:
    """Yields what is to be called with all records after each epoch; it writes metrics.jsonl and TensorBoard events,
    in the one process that may."""
    if not parallel.leads:
        yield lambda _: None
        return
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(run.tensorboard), purge_step=len(records) + 1) as events:

        def log(records: Sequence[Record]) -> None:
            run.write_records(records)
            for name, value in records[-1].items():
                if name != "epoch":
                    events.add_scalar(name, value, records[-1]["epoch"])

        run.write_records(records)
        yield log

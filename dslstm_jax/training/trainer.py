"""A run that is being trained: its state and steps, its batches, its checkpoints and its log."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from rich.console import Console

from dslstm_jax.data.batches import Batch, padding
from dslstm_jax.data.dataset import Dataset
from dslstm_jax.data.pipeline import Loader, make_loader
from dslstm_jax.errors import RunError, first_three
from dslstm_jax.ops.metrics import Totals
from dslstm_jax.runs.checkpoint import Checkpoints
from dslstm_jax.runs.folder import EpochRecord, RunFolder
from dslstm_jax.runs.selection import score
from dslstm_jax.runs.state import Progress, TrainState
from dslstm_jax.training.parallel import Parallel
from dslstm_jax.training.placement import placing
from dslstm_jax.training.step import create_state, make_optimizer
from dslstm_jax.training.totals import RunningTotals, name_figures
from dslstm_jax.util.progress import progress_bar

EVALUATION_ROWS = 32
"""Utterances at once when evaluating; their number changes speed and memory, never a figure."""


class Display(NamedTuple):
    """Where the progress goes."""

    tell: Callable[[str], None]
    """Takes a line."""
    bar: Callable[[str, int, int], AbstractContextManager[Callable[..., None]]]
    """As `progress_bar`, of utterances."""
    on_epoch: Callable[[EpochRecord], None] = lambda _: None
    """Takes each epoch's line of metrics.jsonl."""


def display_on(console: Console, on_epoch: Callable[[EpochRecord], None] | None = None) -> Display:
    """Lines and a bar on the console."""
    tell = partial(console.print, highlight=False, soft_wrap=True)
    return Display(tell, partial(progress_bar, console), on_epoch or (lambda _: None))


class Trainer:
    """One run in training; use it in a `with` block, which closes its checkpoints and its log.

    `fit` steps the state that is in here. `vmapped.py` keeps the states of many runs side by side, and takes from
    here what belongs to each of them.
    """

    def __init__(
        self,
        run: RunFolder,
        dataset: Dataset,
        parallel: Parallel,
        display: Display,
        place: Callable[[Batch], Batch] | None = None,
    ) -> None:
        """
        Args:
          run: the folder that takes metrics.jsonl, TensorBoard events and checkpoints.
          dataset: its own; `test` is examined only where training.choose is test-best.
          parallel: the devices that the batches are read for.
          display: where the progress goes.
          place: what is done to a batch once it is read; by default it is brought to the devices (see `placing`).
        """
        config, training, devices = run.config, run.config.training, len(parallel.devices)
        self.run, self.dataset, self.parallel, self.display = run, dataset, parallel, display
        self.train = make_loader(
            dataset,
            dataset.split.train,
            config,
            training.batch_size,
            devices * training.accumulate,
            balanced=training.class_weights == "balanced",
        )
        examined = ("validation", "test") if training.choose == "test-best" else ("validation",)
        self.sides = {
            side: make_loader(dataset, getattr(dataset.split, side), config, EVALUATION_ROWS, devices)
            for side in examined
            if getattr(dataset.split, side)
        }
        self.seed = np.uint32(training.seed & 0xFFFFFFFF)
        """training.seed as the train step takes it."""
        self.optimizer = make_optimizer(training, self.train.steps)
        self.read = partial(Loader.batches, share=parallel.share, place=place or placing(dataset, config, parallel))
        self._checkpoints = Checkpoints(run.checkpoints)
        self._opened = ExitStack()
        display.tell(_describe_batches(self.train))

    def __enter__(self) -> Self:
        self._opened.enter_context(self._checkpoints)
        try:
            self.state, self.progress = self._restore()
            self._log = self._opened.enter_context(_open_log(self.run, self.progress.records, self.parallel))
        except BaseException:
            self._opened.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)

    @property
    def finished(self) -> bool:
        """Whether the last epoch is behind."""
        return self.progress.epoch > self.run.config.training.epochs

    def start(self) -> None:
        """Brings the state to the devices, to be stepped by `learn` and `examine`."""
        config = self.run.config
        self._train_step = self.parallel.train_step(config, self.optimizer)
        self._eval_step = self.parallel.eval_step(config.recognizer)
        self.state = self.parallel.spread(self.state)

    def learn(self, batch: Batch) -> Totals:
        """Takes a training step."""
        self.state, totals = self._train_step(self.state, batch, self.seed)
        return self.parallel.gather(totals)

    def examine(self, batch: Batch) -> Totals:
        """Evaluates a batch."""
        return self.parallel.gather(self._eval_step(self.state.evaluated, batch))

    def batches(self, side: str) -> Iterable[Batch]:
        """Those of a side that is examined."""
        return self.read(self.sides[side])

    @contextmanager
    def epoch(self) -> Iterator["Epoch"]:
        """The epoch that is to be trained now, or the rest of it."""
        epoch = Epoch(self)
        name = f"epoch {epoch.number}/{self.run.config.training.epochs}"
        with self.display.bar(name, len(self.train.members), epoch.seen) as epoch.done:
            yield epoch

    def save(self, epoch: "Epoch", state: TrainState | None = None) -> None:
        """Saves the state in the middle of an epoch."""
        self.progress = Progress(epoch.number, epoch.batch, epoch.total(), self.progress.records)
        self._checkpoints.save(self.parallel.gather(self.state) if state is None else state, self.progress)

    def end(self, epoch: "Epoch", sides: Mapping[str, Totals], state: TrainState | None = None) -> None:
        """Saves and reports what came of an epoch: the totals of training and of the sides that were examined."""
        record: dict[str, Any] = {"epoch": epoch.number}
        for side, totals in sides.items():
            record |= name_figures(totals, side)
        record["utterances_per_second"] = (len(self.train.members) - epoch.seen) / epoch.seconds
        records = [*self.progress.records, record]
        self.progress = Progress(epoch.number + 1, records=records)
        chosen_by = score(records, self.run.config.training)
        self._checkpoints.save(self.parallel.gather(self.state) if state is None else state, self.progress, chosen_by)
        self._log(records)
        self.display.tell(_describe_epoch(record, self.run.config.training.epochs))
        self.display.on_epoch(record)

    def _restore(self) -> tuple[TrainState, Progress]:
        """The newest checkpoint, or a fresh state."""
        state = create_state(self.run.config, len(self.run.labels), self.optimizer)
        restored = self._checkpoints.restore_latest(
            state, warn=lambda line: self.display.tell(f"warning: {line}"), sharding=self.parallel.everywhere
        )
        if restored is None:
            return state, Progress()
        progress = restored[1]
        middle = f" and {progress.batches} batches" if progress.batches else ""
        self.display.tell(f"resumed after epoch {progress.epoch - 1}{middle}")
        return restored


class Epoch:
    """One epoch, or what was left of it when the run was stopped; `Trainer.epoch` makes it."""

    def __init__(self, trainer: Trainer) -> None:
        training, progress = trainer.run.config.training, trainer.progress
        self.number = progress.epoch
        """From 1."""
        self.batch = progress.batches
        """Batches that were learned from."""
        self._trainer, self._shuffle, self._every = trainer, (training.seed, self.number), training.checkpoint_every
        self._plan = trainer.train.plan(self._shuffle)
        self.seen = sum(len(batch.members) for batch in self._plan[: self.batch])
        """Utterances that were learned from before the run was stopped."""
        self._totals, self._started = RunningTotals(progress.totals), time.perf_counter()
        self.seconds = math.nan
        """That it took, once there is a total."""
        self.done: Callable[..., None] = lambda _: None

    def batches(self) -> Iterable[Batch]:
        """Those that are left."""
        return self._trainer.read(self._trainer.train, self._shuffle, start=self.batch)

    @property
    def left(self) -> int:
        """Batches still to come."""
        return len(self._plan) - self.batch

    @property
    def checkpoint_due(self) -> bool:
        """Whether training.checkpoint_every asks for one now."""
        return self.batch % self._every == 0

    def learned(self, totals: Totals) -> None:
        """Takes the totals of a batch that was learned from.

        Raises:
          RunError: the loss is not finite, of the batch before: this one is still being computed.
        """
        self._totals.push(totals)
        self._check_finite(self._totals.behind, self.batch)
        self.done(len(self._plan[self.batch].members))
        self.batch += 1

    def total(self) -> Totals:
        """The sum over all batches so far. Only now is the last step done: it was begun when it was asked for.

        Raises:
          RunError: the loss is not finite.
        """
        totals = self._totals.read()
        assert totals is not None  # an epoch has at least one batch
        self._check_finite(totals, self.batch)
        self.seconds = time.perf_counter() - self._started
        return totals

    def _check_finite(self, totals: Totals | None, batch: int) -> None:
        if totals is not None and not math.isfinite(totals.loss):
            utterances = self._trainer.dataset.corpus.utterances
            paths = first_three([utterances[member].path for member in self._plan[batch - 1].members])
            name = f"batch {batch} of epoch {self.number} ({paths})"
            raise RunError(f"the training loss is not finite in {name}; lower --training.learning-rate")


def _describe_batches(loader: Loader) -> str:
    """Such as "7 batches of 32, padded to 2.70, 4.10 or 9.00 s (31 % of the samples are padding)"."""
    seconds = ", ".join(f"{length / loader.sample_rate:.2f}" for length in loader.padded_lengths)
    share = padding(loader.plan(), loader.dataset.lengths, loader.batch_size)
    size = f"{loader.steps} batches of {loader.batch_size} utterances an epoch"
    return f"{size}, padded to {seconds} s ({share:.0%} of the samples are padding)"


def _describe_epoch(record: EpochRecord, epochs: int) -> str:
    sides = [
        f"{side} loss {record[f'{side}_loss']:.3f} WA {record[f'{side}_wa']:.3f} UA {record[f'{side}_ua']:.3f}"
        for side in ("train", "validation")
        if f"{side}_loss" in record
    ]
    return "  ".join(
        [f"epoch {record['epoch']}/{epochs}", *sides, f"{record['utterances_per_second']:.1f} utterances/s"]
    )


@contextmanager
def _open_log(
    run: RunFolder, records: Sequence[EpochRecord], parallel: Parallel
) -> Iterator[Callable[[Sequence[EpochRecord]], None]]:
    """Yields what is to be called with all records after each epoch; it writes metrics.jsonl and TensorBoard events,
    in the one process that may."""
    if not parallel.is_main:
        yield lambda _: None
        return
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(run.tensorboard), purge_step=len(records) + 1) as events:

        def log(records: Sequence[EpochRecord]) -> None:
            run.write_records(records)
            for name, value in records[-1].items():
                if name != "epoch":
                    events.add_scalar(name, value, records[-1]["epoch"])

        run.write_records(records)
        yield log

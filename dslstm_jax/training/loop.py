"""fit: epochs of training, validation after each, a checkpoint of each; the best validation UA chooses."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import jax
import numpy as np
from rich.console import Console

from dslstm_jax.data.dataset import Dataset
from dslstm_jax.data.pipeline import Batch, Loader, make_loader, padding
from dslstm_jax.errors import RunError
from dslstm_jax.progress import progress_bar
from dslstm_jax.training.checkpoint import Checkpoints
from dslstm_jax.training.metrics import unweighted_accuracy, weighted_accuracy
from dslstm_jax.training.parallel import Parallel
from dslstm_jax.training.run import Record, Run
from dslstm_jax.training.step import Totals, TrainState, create_state, make_optimizer


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
    return (
        f"epoch {record['epoch']}/{epochs}  "
        f"train loss {record['train_loss']:.3f} WA {record['train_wa']:.3f} UA {record['train_ua']:.3f}  "
        f"validation loss {record['validation_loss']:.3f} WA {record['validation_wa']:.3f} "
        f"UA {record['validation_ua']:.3f}  {record['utterances_per_second']:.1f} utterances/s"
    )


def train_epoch(
    state: TrainState,
    data: Iterable[Batch],
    step: Callable[[TrainState, Batch], tuple[TrainState, Totals]],
    done: Callable[[], None],
    gather: Callable[[Totals], Totals],
) -> tuple[TrainState, Totals]:
    """Steps through the batches, calling `done` after each; the new state and the sum of the totals, which `gather`
    fetches from the devices."""

    def steps() -> Iterator[Totals]:
        nonlocal state
        for batch in data:
            state, totals = step(state, batch)
            yield gather(totals)
            done()

    totals = add(steps())
    return state, totals


def _describe_batches(loader: Loader) -> str:
    """Such as "7 batches of 32, padded to 2.70, 4.10 or 9.00 s (31 % of the samples are padding)"."""
    seconds = ", ".join(f"{length / loader.sample_rate:.2f}" for length in loader.padded_lengths)
    share = padding(loader.plan(), loader.dataset.lengths, loader.batch_size)
    size = f"{loader.steps} batches of {loader.batch_size} utterances an epoch"
    return f"{size}, padded to {seconds} s ({share:.0%} of the samples are padding)"


def fit(run: Run, dataset: Dataset, *, parallel: Parallel, console: Console) -> None:
    """Trains to the last epoch, from the newest checkpoint if there is one.

    Each epoch's order depends on the seed and the epoch alone, so that a run that was stopped and resumed ends
    as one that never was.

    Args:
      run: the folder that takes metrics.jsonl, TensorBoard events and checkpoints.
      dataset: its split's `train` is learned from, `validation` chooses the epoch, `test` is not touched.
      parallel: the devices; where a run was stopped on others, it goes on with the same figures but for rounding.
      console: where the progress goes.

    Raises:
      RunError: the loss is no longer finite, or a checkpoint cannot be restored.
    """
    config, training = run.config, run.config.training
    devices = len(parallel.devices)
    train = make_loader(dataset, dataset.split.train, config, training.batch_size, devices)
    validation = make_loader(dataset, dataset.split.validation, config, training.evaluation_batch_size, devices)
    console.print(_describe_batches(train), highlight=False, soft_wrap=True)

    optimizer = make_optimizer(training, train.steps)
    learn, examine = parallel.train_step(config, optimizer), parallel.eval_step(config)
    state = create_state(config, len(run.labels), optimizer)
    records: list[Record] = []
    read = partial(Loader.batches, share=parallel.share, place=parallel.place)

    with Checkpoints(run.checkpoints) as checkpoints:
        restored = checkpoints.restore_latest(state)
        if restored is not None:
            state, records = restored
            console.print(f"resumed after epoch {len(records)}", highlight=False)
        state = parallel.spread(state)
        with _log(run, records, parallel) as log:
            for epoch in range(len(records) + 1, training.epochs + 1):
                started = time.perf_counter()
                with progress_bar(console, f"epoch {epoch}/{training.epochs}", train.steps) as done:
                    batches = read(train, (training.seed, epoch))
                    state, learned = train_epoch(state, batches, learn, done, parallel.gather)
                seconds = time.perf_counter() - started
                examined = add(parallel.gather(examine(state.variables, batch)) for batch in read(validation))
                record = {
                    "epoch": epoch,
                    **figures(learned, "train"),
                    **figures(examined, "validation"),
                    "utterances_per_second": len(train.members) / seconds,
                }
                if not math.isfinite(record["train_loss"]):
                    raise RunError(
                        f"the training loss is not finite in epoch {epoch}; lower --training.learning-rate. "
                        f"The checkpoints of {run.path} end before it"
                    )
                records = [*records, record]
                checkpoints.save(epoch, parallel.gather(state), records)
                log(records)
                console.print(_describe(record, training.epochs), highlight=False, soft_wrap=True)


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

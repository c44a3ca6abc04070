"""Utterances to padded batches on the device, read ahead by Grain.

An epoch is planned before anything is read: which utterances stand in each batch, and to how many samples they are
padded, follows from their lengths, the seed and the epoch alone. So any process can read its rows of any batch, and a
run goes on from a number of steps.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jaxtyping import Float, Int

from dslstm_jax.config import Config
from dslstm_jax.data.dataset import Dataset
from dslstm_jax.data.reading import READING_THREADS, read_utterance
from dslstm_jax.errors import ConfigError

GRID = 0.05
"""Seconds; padded lengths are whole multiples."""
PREFETCH = 2
"""Batches that lie ready on the device."""


class Batch(NamedTuple):
    """Utterances side by side: NumPy arrays on the host, JAX arrays inside a step.

    Rows that fill a batch up have length 0 and weight 0.
    """

    waveforms: Float[Any, "B N"]
    lengths: Int[Any, " B"]
    labels: Int[Any, " B"]
    weights: Float[Any, " B"]
    """How much each utterance's loss counts, and 0 for padding; figures count every utterance once."""
    examples: Int[Any, " B"]
    """Which utterance of the corpus each row is; random draws depend on it, not on the row or the device."""


class PlannedBatch(NamedTuple):
    """A batch before it is read."""

    members: tuple[int, ...]
    """Indices of utterances, at most as many as a batch has rows."""
    length: int
    """Samples that every row is padded to."""


def bucket_length(samples: int, sample_rate: int) -> int:
    """The padded length of a recording: 1, 2, 4, 8, ... seconds, so that few programs serve all lengths."""
    seconds = max(1, math.ceil(samples / sample_rate))
    return (1 << (seconds - 1).bit_length()) * sample_rate


def choose_lengths(
    lengths: Sequence[int], *, batch_size: int, sample_rate: int, max_padding: float, most: int
) -> tuple[int, ...]:
    """The padded lengths of an epoch's batches: the fewest that keep padding at `max_padding` or below.

    Args:
      lengths: samples of each utterance.
      batch_size: rows of every batch.
      sample_rate: hertz.
      max_padding: the largest share of padding among the samples.
      most: how many lengths there may be; where they do not suffice, as many as still help.

    Returns:
      Samples, shortest first; the last one holds every utterance.
    """
    members = range(len(lengths))
    candidates = [_best_lengths(lengths, count, round(GRID * sample_rate)) for count in range(1, most + 1)]
    paddings = [padding(plan_epoch(members, lengths, batch_size, found), lengths, batch_size) for found in candidates]
    enough = next((place for place, share in enumerate(paddings) if share <= max_padding), int(np.argmin(paddings)))
    return candidates[enough]


def _best_lengths(lengths: Sequence[int], count: int, grid: int) -> tuple[int, ...]:
    """At most `count` lengths that pad least, if every utterance is padded to the next of them.

    Dynamic programming: the cheapest way to serve the utterances up to each length with one length more.
    """
    heights, counts = np.unique(-(-np.maximum(lengths, 1) // grid) * grid, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    costs = np.full(len(below), np.inf)
    costs[0] = 0
    choices = []
    for _ in range(min(count, len(heights))):
        # [end, start]: utterances from `start` up to `end` padded to the height just below `end`
        ways = costs[None, :] + (below[1:, None] - below[None, :]) * heights[:, None]
        ways = np.where(np.arange(len(below))[None, :] <= np.arange(len(heights))[:, None], ways, np.inf)
        choices.append(ways.argmin(axis=1))
        costs = np.concatenate([[0], ways.min(axis=1)])
    found, end = [], len(heights)
    for choice in reversed(choices):
        if end:
            found.append(int(heights[end - 1]))
            end = int(choice[end - 1])
    return tuple(reversed(found))


def plan_epoch(
    members: Sequence[int],
    lengths: Sequence[int],
    batch_size: int,
    padded_lengths: Sequence[int],
    shuffle: tuple[int, int] | None = None,
) -> list[PlannedBatch]:
    """All `members` once, in batches of like length; only one batch can have rows to spare, the shortest.

    Args:
      members: indices of utterances.
      lengths: samples of each utterance of the corpus.
      batch_size: rows of every batch.
      padded_lengths: what rows may be padded to, shortest first; the last one holds every utterance.
      shuffle: (seed, epoch), which fix the order of the utterances and of the batches; None keeps the order given.
    """
    generator = None if shuffle is None else np.random.default_rng(shuffle)
    order = np.asarray(members, np.int64)
    if generator is not None:
        order = generator.permutation(order)
    bucket_of = np.searchsorted(padded_lengths, np.asarray(lengths)[order])
    buckets = [order[bucket_of == bucket].tolist() for bucket in range(len(padded_lengths))]
    plan: list[PlannedBatch] = []
    for bucket, length in reversed(list(enumerate(padded_lengths))):
        waiting = buckets[bucket]
        for shorter in reversed(buckets[:bucket]):  # full batches: shorter utterances take the rows to spare
            missing = -len(waiting) % batch_size
            waiting += shorter[:missing]
            del shorter[:missing]
        plan += [
            PlannedBatch(tuple(rows), length)
            for rows in (waiting[start : start + batch_size] for start in range(0, len(waiting), batch_size))
        ]
    if generator is not None:
        plan = [plan[place] for place in generator.permutation(len(plan))]
    return plan


def padding(plan: Sequence[PlannedBatch], lengths: Sequence[int], batch_size: int) -> float:
    """The share of the samples of all batches that belongs to no utterance, rows to spare included."""
    valid = sum(lengths[member] for batch in plan for member in batch.members)
    return 1 - valid / sum(batch_size * batch.length for batch in plan)


def pad_waveforms(
    waveforms: Sequence[Float[np.ndarray, " N"]], rows: int, length: int
) -> tuple[Float[np.ndarray, "B N"], Int[np.ndarray, " B"]]:
    """`rows` rows of `length` samples, zeros behind each waveform and in the rows beyond them; and their lengths."""
    # On a CPU, JAX copies what does not begin at a multiple of 64 bytes, and all the padding with it.
    room = np.zeros(rows * length + 16, np.float32)
    start = -room.ctypes.data // room.itemsize % 16
    padded = room[start : start + rows * length].reshape(rows, length)
    lengths = np.zeros(rows, np.int32)
    for row, waveform in enumerate(waveforms):
        padded[row, : len(waveform)] = waveform
        lengths[row] = len(waveform)
    return padded, lengths


@dataclass(frozen=True)
class Loader:
    """Some utterances of a dataset, to be read epoch after epoch; none is ever left out."""

    dataset: Dataset
    members: tuple[int, ...]
    """Indices of the utterances."""
    batch_size: int
    padded_lengths: tuple[int, ...]
    """Samples that batches may be padded to, shortest first."""
    sample_rate: int
    """Hertz."""
    trim: float
    """Decibels; features.trim."""
    class_weights: tuple[float, ...]
    """The weight of an utterance of each class."""
    read_waveforms: bool = True
    """If not, NaN stands in their place, which takes no memory, until `placing` fills in what is on the devices."""

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.members) / self.batch_size)

    def plan(self, shuffle: tuple[int, int] | None = None) -> list[PlannedBatch]:
        """See `plan_epoch`."""
        return plan_epoch(self.members, self.dataset.lengths, self.batch_size, self.padded_lengths, shuffle)

    def batches(
        self,
        shuffle: tuple[int, int] | None = None,
        *,
        start: int = 0,
        share: tuple[int, int] = (0, 1),
        place: Callable[[Batch], Batch] = jax.device_put,
    ) -> Iterable[Batch]:
        """The batches of an epoch, read ahead and put on the device while others are computed with.

        Args:
          shuffle: (seed, epoch); None keeps the order of the members.
          start: batches that were read before; they are not read again.
          share: (process, processes). Each process reads its rows; side by side they are the batch of one process.
          place: brings a batch from the host to the devices.

        Raises:
          ConfigError: the rows cannot be shared evenly.
          AudioError: a recording cannot be decoded.
        """
        process, processes = share
        if self.batch_size % processes:
            raise ConfigError(
                f"training.batch_size: {self.batch_size} rows cannot be shared by {processes} processes; "
                f"make it a multiple of {processes}"
            )
        rows = self.batch_size // processes
        corpus = self.dataset.corpus
        classes = {label: index for index, label in enumerate(corpus.labels)}

        def read(planned: PlannedBatch) -> Batch:
            members = planned.members[process * rows : (process + 1) * rows]
            utterances = [corpus.utterances[member] for member in members]
            if self.read_waveforms:
                sounds = [read_utterance(utterance, self.sample_rate, trim=self.trim) for utterance in utterances]
                waveforms, lengths = pad_waveforms(sounds, rows, planned.length)
            else:
                waveforms, lengths = (
                    np.broadcast_to(np.float32(np.nan), (rows, planned.length)),
                    np.zeros(rows, np.int32),
                )
                lengths[: len(members)] = [self.dataset.lengths[member] for member in members]
            labels, examples = np.zeros((2, rows), np.int32)
            weights = np.zeros(rows, np.float32)
            labels[: len(members)] = [classes[utterance.label] for utterance in utterances]
            examples[: len(members)] = members
            weights[: len(members)] = [self.class_weights[label] for label in labels[: len(members)]]
            return Batch(waveforms, lengths, labels, weights, examples)

        threads = grain.ReadOptions(num_threads=READING_THREADS, prefetch_buffer_size=READING_THREADS)
        read_ahead = grain.MapDataset.source(self.plan(shuffle)[start:]).map(read).to_iter_dataset(threads)
        return grain.experimental.ThreadPrefetchIterDataset(read_ahead.map(place), prefetch_buffer_size=PREFETCH)


def balanced_weights(labels: Sequence[int], classes: int) -> tuple[float, ...]:
    """The weight of an utterance of each class that makes all classes which occur weigh the same, and all utterances
    together as many as they are: N / (C n) where n of N utterances are of the class.

    Args:
      labels: the class of each utterance.
      classes: how many there are; one that does not occur weighs nothing, and is none of the C.
    """
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return tuple(np.where(counts > 0, weights, 0.0).tolist())


def make_loader(
    dataset: Dataset,
    members: Sequence[int],
    config: Config,
    batch_size: int,
    multiple: int = 1,
    *,
    balanced: bool = False,
) -> Loader:
    """A loader whose padded lengths suit the dataset as config.data asks: all its sides share their programs.

    Batches have `batch_size` rows, or fewer if there are not as many members; then as many more as make it a
    `multiple`, so that devices and parts of a step have the same number. Where `balanced`, the members weigh as
    `balanced_weights` says, otherwise 1.
    """
    batch_size = -(-min(batch_size, len(members)) // multiple) * multiple
    padded_lengths = choose_lengths(
        dataset.lengths,
        batch_size=batch_size,
        sample_rate=config.features.sample_rate,
        max_padding=config.data.max_padding,
        most=config.data.max_lengths,
    )
    corpus = dataset.corpus
    weights = (1.0,) * len(corpus.labels)
    if balanced:
        labels = [corpus.labels.index(corpus.utterances[member].label) for member in members]
        weights = balanced_weights(labels, len(corpus.labels))
    return Loader(
        dataset,
        tuple(members),
        batch_size,
        padded_lengths,
        config.features.sample_rate,
        config.features.trim,
        weights,
        read_waveforms=config.data.keep == "files",
    )

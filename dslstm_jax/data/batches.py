"""Which utterances stand side by side in a batch, and how long its rows are; nothing is read here.

An epoch is planned before anything is read: which utterances stand in each batch, and to how many samples they are
padded, follows from their lengths, the seed and the epoch alone. So any process can read its rows of any batch, and a
run goes on from a number of steps.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

GRID = 0.05
"""Seconds; padded lengths are whole multiples."""


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
    permuted = np.asarray if shuffle is None else np.random.default_rng(shuffle).permutation
    order = permuted(np.asarray(members, np.int64))
    bucket_of = np.searchsorted(padded_lengths, np.asarray(lengths)[order])
    buckets = [order[bucket_of == bucket].tolist() for bucket in range(len(padded_lengths))]
    plan: list[PlannedBatch] = []
    for bucket, length in reversed(list(enumerate(padded_lengths))):
        waiting = buckets[bucket]
        for shorter in reversed(buckets[:bucket]):  # full batches: shorter utterances take the rows to spare
            missing = -len(waiting) % batch_size
            waiting += shorter[:missing]
            del shorter[:missing]
        starts = range(0, len(waiting), batch_size)
        plan += [PlannedBatch(tuple(waiting[start : start + batch_size]), length) for start in starts]
    return [plan[place] for place in permuted(np.arange(len(plan)))]


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

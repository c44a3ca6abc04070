"""Utterances to padded batches, read and decoded in background threads by Grain."""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Float, Int

from dslstm_jax.data.audio import read_audio
from dslstm_jax.data.corpora.base import Utterance
from dslstm_jax.errors import AudioError

READING_THREADS = 4


class Batch(NamedTuple):
    """Utterances side by side: NumPy arrays on the host, JAX arrays inside a step.

    Rows that fill the last batch up have length 0 and weight 0.
    """

    waveforms: Float[Any, "B N"]
    lengths: Int[Any, " B"]
    labels: Int[Any, " B"]
    weights: Float[Any, " B"]
    examples: Int[Any, " B"]
    """Which utterance of the corpus each row is; random draws depend on it, not on the row or the device."""


def bucket_length(samples: int, sample_rate: int) -> int:
    """The padded length of a recording: 1, 2, 4, 8, ... seconds, so that few programs serve all lengths."""
    seconds = max(1, math.ceil(samples / sample_rate))
    return (1 << (seconds - 1).bit_length()) * sample_rate


def pad_waveforms(
    waveforms: Sequence[Float[np.ndarray, " N"]], rows: int, length: int
) -> tuple[Float[np.ndarray, "B N"], Int[np.ndarray, " B"]]:
    """`rows` rows of `length` samples, zeros behind each waveform and in the rows beyond them; and their lengths."""
    padded = np.zeros((rows, length), np.float32)
    lengths = np.zeros(rows, np.int32)
    for row, waveform in enumerate(waveforms):
        padded[row, : len(waveform)] = waveform
        lengths[row] = len(waveform)
    return padded, lengths


def measure(
    utterances: Sequence[Utterance], sample_rate: int, done: Callable[[], None] = lambda: None
) -> tuple[list[int], list[AudioError]]:
    """Decodes every recording once, so that a bad file is found before any training.

    Args:
      utterances: what to read.
      sample_rate: hertz.
      done: called after each recording.

    Returns:
      The number of samples of each readable recording, and the error of each other one.
    """

    def decode(utterance: Utterance) -> int | AudioError:
        try:
            return len(read_audio(utterance.path, sample_rate))
        except AudioError as error:
            return error

    lengths: list[int] = []
    errors: list[AudioError] = []
    with ThreadPoolExecutor(READING_THREADS) as pool:
        for result in pool.map(decode, utterances):
            if isinstance(result, AudioError):
                errors.append(result)
            else:
                lengths.append(result)
            done()
    return lengths, errors


def batches(
    utterances: Sequence[Utterance],
    labels: Sequence[str],
    *,
    batch_size: int,
    length: int,
    sample_rate: int,
    shuffle: tuple[int, int] | None = None,
) -> Iterable[Batch]:
    """All utterances once, in batches; none is left out, and the last batch is padded and masked.

    Args:
      utterances: what to read.
      labels: the classes in order; an utterance's class is its label's place.
      batch_size: rows of every batch.
      length: samples of every row; at least those of the longest recording.
      sample_rate: hertz.
      shuffle: (seed, epoch), which fix the order; None keeps the order given.

    Raises:
      AudioError: a recording cannot be decoded.
    """
    classes = {label: index for index, label in enumerate(labels)}

    def load(index: int) -> tuple[np.ndarray, int, int]:
        utterance = utterances[index]
        return read_audio(utterance.path, sample_rate), classes[utterance.label], index

    def collate(rows: Sequence[tuple[np.ndarray, int, int]]) -> Batch:
        waveforms, lengths = pad_waveforms([waveform for waveform, _, _ in rows], batch_size, length)
        targets, examples = np.zeros((2, batch_size), np.int32)
        weights = np.zeros(batch_size, np.float32)
        targets[: len(rows)] = [target for _, target, _ in rows]
        examples[: len(rows)] = [index for _, _, index in rows]
        weights[: len(rows)] = 1
        return Batch(waveforms, lengths, targets, weights, examples)

    dataset = grain.MapDataset.source(range(len(utterances)))
    if shuffle is not None:
        dataset = dataset.shuffle(seed=int(np.random.SeedSequence(shuffle).generate_state(1)[0]))
    dataset = dataset.map(load).batch(batch_size, drop_remainder=False, batch_fn=collate)
    threads = grain.ReadOptions(num_threads=READING_THREADS, prefetch_buffer_size=2)
    return dataset.to_iter_dataset(threads)

"""All recordings of a corpus in the memory of the devices: decoded once, and batches are cut out of them there."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dslstm_jax.data.batches import Batch
from dslstm_jax.data.dataset import Dataset
from dslstm_jax.data.reading import READING_THREADS, read_utterance
from dslstm_jax.errors import ConfigError

MOST_SAMPLES = np.iinfo(np.int32).max
"""37 hours at 16 kHz; indices are 32 bits wide."""


class Recordings(NamedTuple):
    """Sounds one after the other."""

    samples: Float[Any, " N"]
    starts: Int[Any, " U"]
    """Where each utterance of the corpus begins."""


def read_recordings(dataset: Dataset, sample_rate: int, trim: float = 0.0) -> Recordings:
    """Decodes all recordings into the host's memory, trimmed as the dataset's lengths are.

    Raises:
      ConfigError: they are too long together.
      AudioError: a recording cannot be decoded.
    """
    lengths = np.array(dataset.lengths, np.int64)
    if lengths.sum() > MOST_SAMPLES:
        hours = lengths.sum() / sample_rate / 3600
        raise ConfigError(f"data.keep device: {hours:.0f} hours of recordings are too many; use --data.keep files")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    samples = np.empty(starts[-1], np.float32)

    def read(index: int) -> None:
        utterance = dataset.corpus.utterances[index]
        samples[starts[index] : starts[index + 1]] = read_utterance(utterance, sample_rate, trim=trim)

    with ThreadPoolExecutor(READING_THREADS) as threads:
        list(threads.map(read, range(len(lengths))))
    return Recordings(samples, starts[:-1].astype(np.int32))


def without_waveforms(batch: Batch) -> Batch:
    """What of a batch must be brought to the devices if its waveforms are there."""
    return batch._replace(waveforms=None)


@partial(jax.jit, static_argnames="length")
def gather_waveforms(recordings: Recordings, batch: Batch, length: int) -> Batch:
    """The batch with its waveforms, zeros behind each of them.

    Args:
      recordings: where the sounds are.
      batch: without waveforms; its other leaves are [..., B].
      length: samples of each row.
    """
    positions = jnp.arange(length).reshape((1,) * batch.lengths.ndim + (length,))
    indices = recordings.starts[batch.examples][..., None] + positions
    sounds: Float[Array, "... B N"] = recordings.samples.at[indices].get(mode="clip")
    return batch._replace(waveforms=jnp.where(positions < batch.lengths[..., None], sounds, 0))

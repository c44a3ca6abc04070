"""The sound of an utterance, whether it is a file of its own or an example of a tensorflow-datasets folder."""

import os

import numpy as np
from jaxtyping import Float32

from dslstm_jax.data.audio import read_audio
from dslstm_jax.data.corpora import Utterance
from dslstm_jax.data.corpora.records import read_record
from dslstm_jax.features.trimming import trim_recording

READING_THREADS = max(4, os.cpu_count() or 1)
"""Decoding and resampling leave Python's lock to others, so threads are enough."""


def read_utterance(
    utterance: Utterance, sample_rate: int, longest: float | None = None, trim: float = 0.0
) -> Float32[np.ndarray, " N"]:
    """The samples of an utterance in [-1, 1] at `sample_rate` (hertz); see `read_audio`.

    Args:
      utterance: file or record.
      sample_rate: of the result, in hertz.
      longest: in seconds, before trimming.
      trim: features.trim. The recognizer would cut the same off; so cut, batches are shorter.

    Raises:
      AudioError: the recording cannot be used, or has more than `longest` seconds.
    """
    if utterance.record is None:
        return trim_recording(read_audio(utterance.path, sample_rate, longest), trim)
    return trim_recording(read_record(utterance.record, sample_rate, longest), trim)


def file_stamp(path: str) -> tuple[int, int] | None:
    """Size and time of modification, by which an unchanged file is recognized; None if it is not there."""
    try:
        status = os.stat(path)  # noqa: PTH116 (three times as fast as Path for 100 000 files)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns

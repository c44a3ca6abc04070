"""How many samples every recording has, found by decoding it once and remembered from run to run."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs

from dslstm_jax.data.corpora import Utterance
from dslstm_jax.data.reading import READING_THREADS, read_utterance
from dslstm_jax.errors import AudioError
from dslstm_jax.features.trimming import trim_recording, trimming_rule

INDEX_FILE = "index.sqlite"
_KEEP_EVERY = 500
"""Recordings after which what was learned is safe from a kill."""
_TABLE = """CREATE TABLE IF NOT EXISTS trimmed_recordings
(path BLOB, bytes INTEGER, modified INTEGER, sample_rate INTEGER, rule TEXT, samples INTEGER, trimmed INTEGER,
PRIMARY KEY (path, sample_rate, rule))"""


class _Length(NamedTuple):
    samples: int
    trimmed: int
    """What is left of them."""


def measure(
    utterances: Sequence[Utterance],
    sample_rate: int,
    longest: float,
    trim: float = 0.0,
    *,
    done: Callable[[], None] = lambda: None,
    cache: Path | None = None,
) -> list[int | AudioError]:
    """The length of each recording, so that a bad file is found before any training.

    A recording is decoded once: its length is kept with its size and time of modification. What cannot be used is
    looked at anew each time.

    Args:
      utterances: what to measure.
      sample_rate: hertz at which the samples are counted.
      longest: seconds; a longer recording cannot be used.
      trim: features.trim: the silence that is not counted.
      done: called after each recording.
      cache: folder of the index; by default the user's cache folder.

    Returns:
      For each utterance its number of samples, or what is wrong with it.
    """

    def decode(utterance: Utterance) -> _Length | AudioError:
        try:
            recording = read_utterance(utterance, sample_rate, longest)
        except AudioError as error:
            return error
        return _Length(len(recording), len(trim_recording(recording, trim)))

    with _open(cache or platformdirs.user_cache_path("dslstm_jax")) as index:
        stamps = [_stamp(utterance) for utterance in utterances]
        lengths: list[_Length | AudioError | None] = [
            _known(index, utterance, stamp, sample_rate, trim)
            for utterance, stamp in zip(utterances, stamps, strict=True)
        ]
        unknown = []
        for place, length in enumerate(lengths):
            if isinstance(length, _Length) and length.samples <= longest * sample_rate:
                done()
            else:  # decoded again if it is too long, for the words of the error
                unknown.append(place)
        learned: list[tuple[Any, ...]] = []
        with ThreadPoolExecutor(READING_THREADS) as pool:
            for place, result in zip(
                unknown, pool.map(decode, [utterances[place] for place in unknown]), strict=True
            ):
                lengths[place] = result
                if (stamp := stamps[place]) and isinstance(result, _Length):
                    learned.append((*stamp, sample_rate, trimming_rule(trim), *result))
                if len(learned) == _KEEP_EVERY:
                    _keep(index, learned)
                    learned = []
                done()
        _keep(index, learned)
    return [length.trimmed if isinstance(length, _Length) else length for length in lengths if length is not None]


def _known(
    index: sqlite3.Connection,
    utterance: Utterance,
    stamp: tuple[bytes, int, int] | None,
    sample_rate: int,
    trim: float,
) -> _Length | None:
    if (record := utterance.record) is not None:
        whole = not trim and record.sample_rate == sample_rate
        return _Length(record.samples, record.samples) if whole else None
    query = """SELECT samples, trimmed FROM trimmed_recordings
        WHERE path = ? AND bytes = ? AND modified = ? AND sample_rate = ? AND rule = ?"""
    row = index.execute(query, (*stamp, sample_rate, trimming_rule(trim))).fetchone() if stamp else None
    return row and _Length(*row)


def _keep(index: sqlite3.Connection, learned: Sequence[tuple[Any, ...]]) -> None:
    with contextlib.suppress(sqlite3.OperationalError), index:  # a full disk or a lock costs time later, not the run
        index.executemany("INSERT OR REPLACE INTO trimmed_recordings VALUES (?, ?, ?, ?, ?, ?, ?)", learned)


def _stamp(utterance: Utterance) -> tuple[bytes, int, int] | None:
    """What a file is recognized by; None for a record or a file that is not there."""
    if utterance.record is not None:
        return None
    try:
        status = os.stat(utterance.path)  # noqa: PTH116 (three times as fast as Path for 100 000 files)
    except (OSError, ValueError):
        return None
    return os.fsencode(os.path.abspath(utterance.path)), status.st_size, status.st_mtime_ns  # noqa: PTH100


@contextlib.contextmanager
def _open(folder: Path) -> Iterator[sqlite3.Connection]:
    """The index, or an empty one in memory where none can be kept: it only saves time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(folder / INDEX_FILE, timeout=30)
        connection.execute(_TABLE)
    except (OSError, sqlite3.OperationalError):  # no such folder, read-only, locked
        connection = sqlite3.connect(":memory:")
        connection.execute(_TABLE)
    except sqlite3.DatabaseError:  # not an index, or damaged
        connection.close()
        (folder / INDEX_FILE).unlink()
        connection = sqlite3.connect(folder / INDEX_FILE, timeout=30)
        connection.execute(_TABLE)
    with contextlib.closing(connection):
        yield connection

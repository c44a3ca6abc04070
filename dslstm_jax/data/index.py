"""How many samples every recording has, found by decoding it once and remembered from run to run."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import platformdirs

from dslstm_jax.data.corpora import Utterance
from dslstm_jax.data.reading import READING_THREADS, file_stamp, read_utterance
from dslstm_jax.errors import AudioError
from dslstm_jax.features.trimming import trim_recording, trimming_rule

INDEX_FILE = "index.sqlite"
_KEEP_EVERY = 500
"""Recordings after which what was learned is safe from a kill."""
_TABLE = """CREATE TABLE IF NOT EXISTS trimmed_recordings
(path BLOB, bytes INTEGER, modified INTEGER, sample_rate INTEGER, rule TEXT, samples INTEGER, trimmed INTEGER,
PRIMARY KEY (path, sample_rate, rule))"""
_QUERY = """SELECT samples, trimmed FROM trimmed_recordings
WHERE path = ? AND bytes = ? AND modified = ? AND sample_rate = ? AND rule = ?"""


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

    def decode(place: int) -> tuple[int, int] | AudioError:
        try:
            recording = read_utterance(utterances[place], sample_rate, longest)
        except AudioError as error:
            return error
        return len(recording), len(trim_recording(recording, trim))

    found: dict[int, int | AudioError] = {}
    with _open(cache or platformdirs.user_cache_path("dslstm_jax")) as index:
        keys = [_key(utterance, sample_rate, trim) for utterance in utterances]
        for place, (utterance, key) in enumerate(zip(utterances, keys, strict=True)):
            known = key and index.execute(_QUERY, key).fetchone()
            if (record := utterance.record) and not trim and record.sample_rate == sample_rate:
                known = record.samples, record.samples
            if known and known[0] <= longest * sample_rate:  # else it is decoded again, for the words of the error
                found[place] = known[1]
                done()
        unknown = [place for place in range(len(utterances)) if place not in found]
        learned: list[tuple[Any, ...]] = []
        with ThreadPoolExecutor(READING_THREADS) as pool:
            for place, result in zip(unknown, pool.map(decode, unknown), strict=True):
                found[place] = result if isinstance(result, AudioError) else result[1]
                if (key := keys[place]) and not isinstance(result, AudioError):
                    learned.append((*key, *result))
                if len(learned) == _KEEP_EVERY:
                    _keep(index, learned)
                    learned = []
                done()
        _keep(index, learned)
    return [found[place] for place in range(len(utterances))]


def _key(utterance: Utterance, sample_rate: int, trim: float) -> tuple[Any, ...] | None:
    """What the length of a file is kept under; None for a record or a file that is not there."""
    stamp = None if utterance.record else file_stamp(utterance.path)
    path = os.fsencode(os.path.abspath(utterance.path))  # noqa: PTH100 (links stay)
    return stamp and (path, *stamp, sample_rate, trimming_rule(trim))


def _keep(index: sqlite3.Connection, learned: Sequence[tuple[Any, ...]]) -> None:
    with contextlib.suppress(sqlite3.OperationalError), index:  # a full disk or a lock costs time later, not the run
        index.executemany("INSERT OR REPLACE INTO trimmed_recordings VALUES (?, ?, ?, ?, ?, ?, ?)", learned)


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

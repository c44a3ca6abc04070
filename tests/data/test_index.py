"""The index: every recording is decoded once, again when it changed, and bad ones are always looked at."""

import os
import sqlite3

import numpy as np
import pytest
import soundfile
from trees import write_tone

from dslstm_jax.data import index
from dslstm_jax.data.corpora import Utterance
from dslstm_jax.data.index import INDEX_FILE, measure
from dslstm_jax.errors import AudioError


@pytest.fixture
def decoded(monkeypatch):
    """The paths that were decoded."""
    paths = []
    whole = index.read_utterance

    def read(utterance, *args):
        paths.append(utterance.path)
        return whole(utterance, *args)

    monkeypatch.setattr(index, "read_utterance", read)
    return paths


@pytest.fixture
def utterances(tmp_path):
    return [
        Utterance(str(write_tone(tmp_path / f"{name}.wav", seconds=seconds)), "sad")
        for name, seconds in (("a", 0.5), ("b", 0.25))
    ]


def look(utterances, cache, sample_rate=16_000, longest=60.0):
    return measure(utterances, sample_rate, longest, cache=cache)


def test_a_recording_is_decoded_once(utterances, decoded, tmp_path):
    counted = []
    lengths = measure(utterances, 16_000, 60, cache=tmp_path / "cache", done=lambda: counted.append(1))
    assert lengths == [8000, 4000]
    assert sorted(decoded) == [utterance.path for utterance in utterances]
    assert measure(utterances, 16_000, 60, cache=tmp_path / "cache", done=lambda: counted.append(1)) == lengths
    assert len(decoded) == 2
    assert len(counted) == 4


def test_a_changed_recording_and_another_rate_are_decoded_again(utterances, decoded, tmp_path):
    look(utterances, tmp_path)
    write_tone(tmp_path / "a.wav", seconds=0.75)
    assert look(utterances, tmp_path) == [12_000, 4000]
    assert len(decoded) == 3
    assert look(utterances, tmp_path, sample_rate=8000) == [6000, 2000]
    assert look(utterances, tmp_path) == [12_000, 4000]
    assert len(decoded) == 5


def test_a_changed_recording_of_the_same_size_is_decoded_again(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full((1000, 1), 0.1), 16_000, subtype="PCM_16")
    size = path.stat().st_size
    utterances = [Utterance(str(path), "sad")]
    assert look(utterances, tmp_path) == [1000]
    soundfile.write(path, np.full((500, 2), 0.1), 16_000, subtype="PCM_16")
    os.utime(path, (1, 1))
    assert path.stat().st_size == size
    assert look(utterances, tmp_path) == [500]


def test_bad_recordings_are_named_every_time(utterances, decoded, tmp_path):
    text = tmp_path / "notes.wav"
    text.write_text("not sound")
    gone = tmp_path / "gone.wav"
    listed = [utterances[0], Utterance(str(text), "sad"), utterances[1], Utterance(str(gone), "sad")]
    for _ in range(2):
        first, bad, second, missing = look(listed, tmp_path)
        assert (first, second) == (8000, 4000)
        assert isinstance(bad, AudioError)
        assert str(bad).startswith(f"{text}: ")
        assert isinstance(missing, AudioError)
        assert str(missing).startswith(f"{gone}: ")
    assert len(decoded) == 6


def test_a_recording_that_is_too_long_is_named_even_if_it_is_known(utterances, tmp_path):
    look(utterances, tmp_path)
    long, short = look(utterances, tmp_path, longest=0.3)
    assert isinstance(long, AudioError)
    assert short == 4000


def test_what_was_learned_survives_a_stop(utterances, decoded, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_KEEP_EVERY", 1)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(utterances, 16_000, 60, cache=tmp_path, done=stop)
    decoded.clear()
    assert look(utterances, tmp_path) == [8000, 4000]
    assert decoded == [utterances[1].path]


@pytest.mark.parametrize("fault", ["not a database", "not a folder"])
def test_an_index_that_cannot_be_used_only_costs_time(utterances, decoded, tmp_path, fault):
    cache = tmp_path / "cache"
    if fault == "not a folder":
        cache.write_text("a file")
    else:
        cache.mkdir()
        (cache / INDEX_FILE).write_text("this is no database at all, and long enough to be seen as none")
    assert look(utterances, cache) == [8000, 4000]
    assert look(utterances, cache) == [8000, 4000]
    assert len(decoded) == (4 if fault == "not a folder" else 2)


def test_a_locked_index_only_costs_time(utterances, tmp_path, monkeypatch):
    look(utterances[:1], tmp_path)
    connect = sqlite3.connect
    monkeypatch.setattr(index.sqlite3, "connect", lambda path, **_: connect(path, timeout=0.01))
    with sqlite3.connect(tmp_path / INDEX_FILE) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert look(utterances, tmp_path) == [8000, 4000]

"""A dataset: bad recordings are all named before anything else happens, and left out only if that was asked for."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_config, write_tones
from trees import write_tone

from dslstm_jax.config import DataConfig
from dslstm_jax.data import dataset as module
from dslstm_jax.data.audio import read_audio
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.dataset import make_dataset
from dslstm_jax.errors import CorpusError

SKIP = DataConfig(on_error="skip")


@pytest.fixture
def root(tmp_path):
    return write_tones(tmp_path / "tones")


def spoil(root, *names):
    for name in names:
        (root / "wav" / f"{name}.wav").write_text("not sound")


def make(root, **changes):
    config = replace(tiny_config(root), **changes)
    reported: list[str] = []
    return make_dataset(
        load_corpus(config.corpus), config, report=lambda error: reported.append(str(error))
    ), reported


def test_lengths_stand_beside_their_utterances(root):
    dataset, reported = make(root)
    assert reported == []
    assert len(dataset.lengths) == len(dataset.corpus.utterances) == 48
    for utterance, length in zip(dataset.corpus.utterances, dataset.lengths, strict=True):
        assert len(read_audio(utterance.path, 16_000)) == length


def test_every_bad_recording_is_named_and_the_run_stops(root):
    spoil(root, "03a01Fa", "12a02Ta")
    reported = []
    config = tiny_config(root)
    with pytest.raises(CorpusError, match=r"2 of 48 recordings cannot be used; .*--data\.on-error skip"):
        make_dataset(load_corpus(config.corpus), config, report=lambda error: reported.append(str(error)))
    assert [any(name in line for line in reported) for name in ("03a01Fa", "12a02Ta")] == [True, True]


def test_bad_recordings_are_left_out_if_that_was_asked_for(root):
    spoil(root, "03a01Fa", "12a02Ta")
    dataset, reported = make(root, data=SKIP)
    assert len(reported) == 2
    assert len(dataset.lengths) == len(dataset.corpus.utterances) == 46
    sides = (*dataset.split.train, *dataset.split.validation, *dataset.split.test)
    assert sorted(sides) == list(range(46))
    assert not any("03a01Fa" in utterance.path for utterance in dataset.corpus.utterances)
    for utterance, length in zip(dataset.corpus.utterances, dataset.lengths, strict=True):
        assert len(read_audio(utterance.path, 16_000)) == length


def test_leaving_out_a_whole_label_is_refused(root):
    spoil(root, *(path.stem for path in (root / "wav").glob("*F?.wav")))
    with pytest.raises(CorpusError, match=r"12 of 48 recordings .* no 'happy' is left"):
        make(root, data=SKIP)


def test_a_mistake_in_the_split_is_told_before_the_recordings_are_read(root, monkeypatch):
    monkeypatch.setattr(module, "measure", lambda *_, **__: pytest.fail("it read the recordings"))
    config = tiny_config(root)
    with pytest.raises(CorpusError, match=r"--split\.fold 7"):
        make_dataset(load_corpus(config.corpus), replace(config, split=replace(config.split, fold=7)))


@pytest.mark.long
def test_a_hundred_hours_need_little_time_and_memory(tmp_path, capsys):
    recordings = [
        write_tone(tmp_path / f"recording{number}.wav", seconds=seconds)
        for number, seconds in enumerate(np.linspace(4, 8, 50))
    ]
    rows = ["path,label,speaker"]
    for number in range(60_000):  # links to the same files: to us, recordings of their own
        folder = tmp_path / f"{number // 2000}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.wav").hardlink_to(recordings[number % 50])
        rows.append(f"{folder.name}/{number}.wav,{('sad', 'happy')[number % 2]},{number % 300 // 2}")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(rows) + "\n")
    command = [sys.executable, str(Path(__file__).parents[1] / "hundred_hours.py"), str(manifest)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(what):
        done = subprocess.run([*command, what], env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    first, again = run("start"), run("epoch")
    with capsys.disabled():
        print(f"\n100 hours, first start {first['start_seconds']:.1f} s; with the index: {again}")
    assert again["hours"] > 99
    assert again["utterances"] == 60_000
    assert again["start_seconds"] < 30
    assert max(first["gigabytes"], again["gigabytes"]) < 2

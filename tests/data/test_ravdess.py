"""RAVDESS's names say who speaks and how; only its audio-only speech is taken."""

from pathlib import Path

import pytest
from trees import ravdess_tree, real_data

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora.acted import RAVDESS
from dslstm_jax.data.corpora.base import Utterance
from dslstm_jax.errors import CorpusError

MEANINGS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
LABELS = ("happy", "neutral", "angry", "sad", "calm", "fearful", "disgust", "surprised")


def test_names_are_read(tmp_path: Path) -> None:
    ravdess_tree(tmp_path, actors=(1, 24))
    corpus = RAVDESS.load(CorpusConfig("ravdess", root=str(tmp_path)))
    assert corpus.name == "ravdess"
    assert corpus.labels == LABELS
    assert corpus.counts() == dict.fromkeys(LABELS, 4)
    for code, label in MEANINGS.items():
        path = tmp_path / "Actor_24" / f"03-01-{code}-01-01-02-24.wav"
        assert Utterance(str(path), label, speaker="24") in corpus.utterances
    paths = [utterance.path for utterance in corpus.utterances]
    assert paths == sorted(str(path) for path in tmp_path.glob("*/*"))


def test_songs_video_and_other_files_are_left_out(tmp_path: Path) -> None:
    ravdess_tree(tmp_path, actors=(1,))
    for name in (
        "03-02-03-01-01-01-01.wav",
        "01-01-03-01-01-01-01.wav",
        "02-01-03-01-01-01-01.mp4",
        "._03-01-03-01-01-01-01.wav",
        "03-01-09-01-01-01-01.wav",
        "notes.txt",
    ):
        (tmp_path / "Actor_01" / name).touch()
    again = tmp_path / "audio_speech_actors_01-24" / "Actor_01"  # a well-known copy holds everything twice
    again.mkdir(parents=True)
    (again / "03-01-03-01-01-01-01.wav").touch()
    assert len(RAVDESS.load(CorpusConfig(root=str(tmp_path))).utterances) == 16


def test_a_folder_of_something_else_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "03-01-03-01-01-01-01.wav").touch()
    with pytest.raises(CorpusError, match=r"looked in .* for Actor_NN/"):
        RAVDESS.load(CorpusConfig(root=str(tmp_path)))
    with pytest.raises(CorpusError, match=r"give --corpus\.root DIR"):
        RAVDESS.load(CorpusConfig())


@pytest.mark.corpus
def test_the_real_corpus() -> None:
    root = real_data("data/ravdess")
    corpus = RAVDESS.load(CorpusConfig("ravdess", root=str(root)))
    assert corpus.labels == LABELS
    assert corpus.counts() == dict.fromkeys(LABELS, 192) | {"neutral": 96}
    speakers = [utterance.speaker for utterance in corpus.utterances]
    assert {str(speaker): speakers.count(speaker) for speaker in speakers} == {
        f"{actor:02d}": 60 for actor in range(1, 25)
    }
    assert corpus.utterances[0] == Utterance(str(root / "Actor_01" / "03-01-01-01-01-01-01.wav"), "neutral", "01")

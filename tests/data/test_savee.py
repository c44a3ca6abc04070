"""SAVEE's folders say who speaks, its names how."""

from pathlib import Path

import pytest
from trees import savee_tree

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora.acted import SAVEE
from dslstm_jax.data.corpora.base import Utterance
from dslstm_jax.errors import CorpusError

MEANINGS = {
    "a": "angry",
    "d": "disgust",
    "f": "fearful",
    "h": "happy",
    "n": "neutral",
    "sa": "sad",
    "su": "surprised",
}
LABELS = ("happy", "neutral", "angry", "sad", "disgust", "fearful", "surprised")


def test_names_are_read(tmp_path: Path) -> None:
    savee_tree(tmp_path, speakers=("DC", "KL"))
    corpus = SAVEE.load(CorpusConfig("savee", root=str(tmp_path)))
    assert corpus.name == "savee"
    assert corpus.labels == LABELS
    assert corpus.counts() == dict.fromkeys(LABELS, 2) | {"neutral": 4}
    for letters, label in MEANINGS.items():
        path = tmp_path / "AudioData" / "KL" / f"{letters}01.wav"
        assert Utterance(str(path), label, speaker="KL") in corpus.utterances
    paths = [utterance.path for utterance in corpus.utterances]
    assert paths == sorted(str(path) for path in tmp_path.glob("AudioData/*/*"))


def test_a_whole_corpus_is_counted(tmp_path: Path) -> None:
    """480 utterances: 15 of each emotion and 30 neutral ones by each speaker; no sound."""
    for speaker in ("DC", "JE", "JK", "KL"):
        (tmp_path / speaker).mkdir()
        for letters in MEANINGS:
            for take in range(1, 31 if letters == "n" else 16):
                (tmp_path / speaker / f"{letters}{take:02d}.wav").touch()
    corpus = SAVEE.load(CorpusConfig(root=str(tmp_path)))
    assert len(corpus.utterances) == 480
    assert corpus.counts() == dict.fromkeys(LABELS, 60) | {"neutral": 120}
    speakers = [utterance.speaker for utterance in corpus.utterances]
    assert {speaker: speakers.count(speaker) for speaker in speakers} == dict.fromkeys(("DC", "JE", "JK", "KL"), 120)


def test_the_sound_folder_itself_will_do(tmp_path: Path) -> None:
    savee_tree(tmp_path)
    sound = str(tmp_path / "AudioData")
    assert SAVEE.load(CorpusConfig(root=sound)) == SAVEE.load(CorpusConfig(root=str(tmp_path)))


def test_other_folders_and_files_are_left_out(tmp_path: Path) -> None:
    savee_tree(tmp_path, speakers=("DC",))
    for name in (
        "AudioData/DC/._a01.wav",
        "AudioData/DC/s01.wav",
        "AudioData/DC/x01.wav",
        "AudioData/DC/a1.wav",
        "AudioData/DC/a001.wav",
        "AudioData/DC/a02.txt",
        "AudioData/XY/a01.wav",
        "AudioData/a01.wav",
        "AudioVisualClip/DC/a01.wav",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert len(SAVEE.load(CorpusConfig(root=str(tmp_path))).utterances) == 8


def test_a_folder_of_something_else_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a01.wav").touch()
    with pytest.raises(CorpusError, match=r"looked in .* for names like DC/sa01\.wav"):
        SAVEE.load(CorpusConfig(root=str(tmp_path)))
    with pytest.raises(CorpusError, match="no such folder"):
        SAVEE.load(CorpusConfig(root=str(tmp_path / "nothing")))
    with pytest.raises(CorpusError, match=r"'savee' needs its folder: give --corpus\.root DIR"):
        SAVEE.load(CorpusConfig())

"""EmoDB's names say who speaks and how."""

from pathlib import Path

import pytest
from trees import emodb_tree, real_data

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora.acted import EMODB
from dslstm_jax.data.corpora.base import Utterance
from dslstm_jax.errors import CorpusError


def test_names_are_read(tmp_path: Path) -> None:
    emodb_tree(tmp_path, speakers=("03", "16"), texts=("a01", "b02"))
    corpus = EMODB.load(CorpusConfig("emodb", root=str(tmp_path)))
    assert corpus.name == "emodb"
    assert corpus.labels == ("happy", "neutral", "angry", "sad", "bored", "disgust", "fearful")
    assert corpus.counts() == dict.fromkeys(corpus.labels, 4)
    by_name = {Path(utterance.path).name: utterance for utterance in corpus.utterances}
    wav = tmp_path / "wav"
    meanings = {"F": "happy", "N": "neutral", "W": "angry", "T": "sad", "L": "bored", "E": "disgust", "A": "fearful"}
    for letter, label in meanings.items():
        name = f"16b02{letter}a.wav"
        assert by_name[name] == Utterance(str(wav / name), label, speaker="16")
    assert [utterance.path for utterance in corpus.utterances] == sorted(str(path) for path in wav.iterdir())


def test_the_wav_folder_itself_will_do(tmp_path: Path) -> None:
    emodb_tree(tmp_path)
    assert EMODB.load(CorpusConfig(root=str(tmp_path / "wav"))) == EMODB.load(CorpusConfig(root=str(tmp_path)))


def test_other_files_are_left_out(tmp_path: Path) -> None:
    emodb_tree(tmp_path, speakers=("03",), texts=("a01",))
    for name in ("notes.txt", "._03a01Wa.wav", "03a01Xa.wav", "03c01Wa.wav", "03a01Wa.wav.bak", "3a01Wa.wav"):
        (tmp_path / "wav" / name).touch()
    assert len(EMODB.load(CorpusConfig(root=str(tmp_path))).utterances) == 7


def test_four_emotions_are_in_the_papers_order(tmp_path: Path) -> None:
    emodb_tree(tmp_path, emotions="TWNF")
    assert EMODB.load(CorpusConfig(root=str(tmp_path))).labels == ("happy", "neutral", "angry", "sad")


def test_a_folder_of_something_else_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "speech.wav").touch()
    with pytest.raises(CorpusError, match=r"looked in .* for names like 03a01Fa\.wav"):
        EMODB.load(CorpusConfig(root=str(tmp_path)))
    with pytest.raises(CorpusError, match="no such folder"):
        EMODB.load(CorpusConfig(root=str(tmp_path / "nothing")))
    with pytest.raises(CorpusError, match=r"give --corpus\.root DIR"):
        EMODB.load(CorpusConfig())


@pytest.mark.corpus
def test_the_real_corpus() -> None:
    root = real_data("data/emodb")
    corpus = EMODB.load(CorpusConfig("emodb", root=str(root)))
    assert corpus.counts() == {"happy": 71, "neutral": 79, "angry": 127, "sad": 62}
    speakers = [utterance.speaker for utterance in corpus.utterances]
    assert {speaker: speakers.count(speaker) for speaker in sorted(set(speakers), key=str)} == {
        "03": 39, "08": 42, "09": 30, "10": 21, "11": 35, "12": 22, "13": 36, "14": 41, "15": 34, "16": 39
    }  # fmt: skip
    assert corpus.utterances[0] == Utterance(str(root / "wav" / "03a01Fa.wav"), "happy", "03")

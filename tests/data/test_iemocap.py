"""IEMOCAP's release layout and annotation format, on a small made tree and on the release's true names and labels."""

import csv
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from trees import iemocap_tree, real_data

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora import iemocap
from dslstm_jax.data.corpora.base import Corpus, Utterance
from dslstm_jax.errors import CorpusError

MERGED = {"neu": "neutral", "hap": "happy", "exc": "happy", "ang": "angry", "sad": "sad"}
LEFT_OUT = ("fru", "xxx", "sur", "fea", "dis", "oth")


def load(root: Path) -> Corpus:
    return iemocap.load(CorpusConfig("iemocap", root=str(root)))


def made_turns() -> list[tuple[str, str]]:
    """In each session an improvised and a scripted dialog, with both speakers and every label of the release."""
    labels = (*MERGED, *LEFT_OUT)
    return [
        (f"Ses0{session}{dialog}_{speaker}{number:03d}", label)
        for session in range(1, 6)
        for dialog in ("F_impro01", "M_script01_1b")
        for speaker in "FM"
        for number, label in enumerate(labels)
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return iemocap_tree(tmp_path / "IEMOCAP_full_release", made_turns())


def test_a_made_release(root: Path) -> None:
    corpus = load(root)
    assert corpus.name == "iemocap"
    assert corpus.labels == ("happy", "neutral", "angry", "sad")
    assert corpus.counts() == {"happy": 40, "neutral": 20, "angry": 20, "sad": 20}
    wav = root / "Session3" / "sentences" / "wav"
    for path, label, speaker in (
        (wav / "Ses03F_impro01" / "Ses03F_impro01_F000.wav", "neutral", "Ses03F"),
        (wav / "Ses03F_impro01" / "Ses03F_impro01_M001.wav", "happy", "Ses03M"),
        (wav / "Ses03M_script01_1b" / "Ses03M_script01_1b_F002.wav", "happy", "Ses03F"),
        (wav / "Ses03M_script01_1b" / "Ses03M_script01_1b_M003.wav", "angry", "Ses03M"),
        (wav / "Ses03M_script01_1b" / "Ses03M_script01_1b_F004.wav", "sad", "Ses03F"),
    ):
        assert Utterance(str(path), label, speaker, session="3") in corpus.utterances
    assert all(Path(utterance.path).is_file() for utterance in corpus.utterances)


def test_the_folder_above_will_do(root: Path) -> None:
    assert load(root.parent) == load(root)


def test_missing_sessions_are_named(root: Path) -> None:
    shutil.rmtree(root / "Session2")
    shutil.rmtree(root / "Session4" / "dialog")
    with pytest.raises(CorpusError, match=r"2 of 5 sessions: Session2/dialog/.*, Session4/dialog/.* give the folder"):
        load(root)


def test_another_folder_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"5 of 5 sessions: Session1.*Session2.*Session3.* and 2 more; give"):
        load(tmp_path)
    with pytest.raises(CorpusError, match=r"give --corpus\.root DIR"):
        iemocap.load(CorpusConfig("iemocap"))


def test_missing_recordings_are_counted_and_three_are_named(root: Path) -> None:
    shutil.rmtree(root / "Session1" / "sentences" / "wav" / "Ses01F_impro01")
    (root / "Session5" / "sentences" / "wav" / "Ses05F_impro01" / "Ses05F_impro01_F005.wav").unlink()  # fru: unused
    folder = "Session1/sentences/wav/Ses01F_impro01"
    names = ", ".join(f"{folder}/Ses01F_impro01_F00{number}.wav" for number in range(3))
    with pytest.raises(CorpusError, match=re.escape(f"10 annotated turns: {names} and 7 more; unpack")):
        load(root)


@pytest.mark.corpus
def test_the_releases_own_names_and_labels(tmp_path: Path) -> None:
    with real_data("iemocap_index.csv").open(encoding="utf-8") as file:
        index = {Path(row["path"]).stem: row["label"] for row in csv.DictReader(file)}
    assert len(index) == 5_531
    dialogs = sorted({turn.rpartition("_")[0] for turn in index})
    others = [
        (f"{dialog}_{speaker}{900 + number}", label)
        for dialog in dialogs
        for speaker, number, label in zip("FMFMFM", range(6), LEFT_OUT, strict=True)
    ]
    assert len(others) > 600
    corpus = load(iemocap_tree(tmp_path, [*index.items(), *others]))

    assert corpus.labels == ("happy", "neutral", "angry", "sad")
    assert corpus.counts() == {"happy": 1_636, "neutral": 1_708, "angry": 1_103, "sad": 1_084}
    found = {Path(utterance.path).stem: utterance for utterance in corpus.utterances}
    assert len(found) == len(corpus.utterances)
    assert {turn: utterance.label for turn, utterance in found.items()} == {
        turn: MERGED[label] for turn, label in index.items()
    }
    assert sorted(Counter(utterance.session for utterance in corpus.utterances)) == ["1", "2", "3", "4", "5"]
    assert sorted(Counter(utterance.speaker for utterance in corpus.utterances)) == sorted(
        f"Ses0{session}{gender}" for session in range(1, 6) for gender in "FM"
    )
    for turn, utterance in found.items():
        assert utterance.session == turn[4]
        assert utterance.speaker == turn[:5] + turn.rpartition("_")[2][0]
        assert Path(utterance.path).parent.name == turn.rpartition("_")[0]

"""CREMA-D's names say who speaks and how."""

from pathlib import Path

import pytest
from trees import crema_d_tree

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora.acted import CREMA_D
from dslstm_jax.data.corpora.base import Utterance
from dslstm_jax.errors import CorpusError

MEANINGS = {"ANG": "angry", "DIS": "disgust", "FEA": "fearful", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
LABELS = ("happy", "neutral", "angry", "sad", "disgust", "fearful")
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")


def test_names_are_read(tmp_path: Path) -> None:
    crema_d_tree(tmp_path, actors=(1001, 1091))
    corpus = CREMA_D.load(CorpusConfig("crema_d", root=str(tmp_path)))
    assert corpus.name == "crema_d"
    assert corpus.labels == LABELS
    assert corpus.counts() == dict.fromkeys(LABELS, 8) | {"neutral": 4}
    for code, label in MEANINGS.items():
        path = tmp_path / "AudioWAV" / f"1091_DFA_{code}_XX.wav"
        assert Utterance(str(path), label, speaker="1091") in corpus.utterances
    paths = [utterance.path for utterance in corpus.utterances]
    assert paths == sorted(str(path) for path in tmp_path.glob("AudioWAV/*"))


def test_a_whole_corpus_is_counted(tmp_path: Path) -> None:
    """The release's design: 91 actors, 12 sentences in 6 emotions, one of them at 3 levels; no sound."""
    for actor in range(1001, 1092):
        for sentence in SENTENCES:
            for code in MEANINGS:
                for level in ("LO", "MD", "HI") if sentence == "IEO" and code != "NEU" else ("XX",):
                    (tmp_path / f"{actor}_{sentence}_{code}_{level}.wav").touch()
    corpus = CREMA_D.load(CorpusConfig(root=str(tmp_path)))
    assert corpus.counts() == dict.fromkeys(LABELS, 91 * 14) | {"neutral": 91 * 12}
    speakers = [utterance.speaker for utterance in corpus.utterances]
    assert set(speakers) == {str(actor) for actor in range(1001, 1092)}
    assert speakers.count("1040") == 82


def test_the_wav_folder_itself_will_do(tmp_path: Path) -> None:
    crema_d_tree(tmp_path)
    wav = str(tmp_path / "AudioWAV")
    assert CREMA_D.load(CorpusConfig(root=wav)) == CREMA_D.load(CorpusConfig(root=str(tmp_path)))


def test_the_level_with_a_single_x_is_read(tmp_path: Path) -> None:
    crema_d_tree(tmp_path, actors=(1040,), sentences=("DFA",))
    path = tmp_path / "AudioWAV" / "1040_ITH_SAD_X.wav"  # so in the release
    path.touch()
    corpus = CREMA_D.load(CorpusConfig(root=str(tmp_path)))
    assert corpus.counts() == dict.fromkeys(LABELS, 1) | {"sad": 2}
    assert Utterance(str(path), "sad", "1040") in corpus.utterances


def test_other_files_are_left_out(tmp_path: Path) -> None:
    crema_d_tree(tmp_path, actors=(1001,), sentences=("DFA",))
    for name in (
        "1001_DFA_ANG_XX.mp3",
        "1001_DFA_ANG_XX.flv",
        "._1001_DFA_HAP_XX.wav",
        "1001_DFA_SUR_XX.wav",
        "1001_DFA_ANG_XXX.wav",
        "1001_DFA_ANG.wav",
        "2001_DFA_ANG_XX.wav",
        "SentenceFilenames.csv",
    ):
        (tmp_path / "AudioWAV" / name).touch()
    (tmp_path / "AudioMP3").mkdir()
    (tmp_path / "AudioMP3" / "1001_IEO_ANG_HI.wav").touch()
    assert len(CREMA_D.load(CorpusConfig(root=str(tmp_path))).utterances) == 6


def test_a_folder_of_something_else_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "speech.wav").touch()
    with pytest.raises(CorpusError, match=r"looked in .* for names like 1001_DFA_ANG_XX\.wav"):
        CREMA_D.load(CorpusConfig(root=str(tmp_path)))
    with pytest.raises(CorpusError, match="no such folder"):
        CREMA_D.load(CorpusConfig(root=str(tmp_path / "nothing")))
    with pytest.raises(CorpusError, match=r"'crema_d' needs its folder: give --corpus\.root DIR"):
        CREMA_D.load(CorpusConfig())

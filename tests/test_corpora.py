"""Every corpus is found by its name and keeps the same promises."""

import dataclasses
from pathlib import Path

import pytest
from trees import crema_d_tree, emodb_tree, iemocap_tree, manifest_tree, ravdess_tree, savee_tree

from dslstm_jax.config import CorpusConfig, SyntheticConfig
from dslstm_jax.data.corpora import CORPORA, Corpus, load_corpus
from dslstm_jax.data.corpora.base import Utterance, first_three, make_corpus
from dslstm_jax.errors import CorpusError


def tree(name: str, folder: Path) -> CorpusConfig:
    """A small corpus of that name and how to load it; an unknown one fails, so that no corpus stays untested."""
    match name:
        case "crema_d":
            return CorpusConfig(name, root=str(crema_d_tree(folder)))
        case "emodb":
            return CorpusConfig(name, root=str(emodb_tree(folder)))
        case "iemocap":
            turns = [
                (f"Ses0{session}F_impro01_{who}{number:03d}", label)
                for session in range(1, 6)
                for who in "FM"
                for number, label in enumerate(("neu", "hap"))
            ]
            return CorpusConfig(name, root=str(iemocap_tree(folder, turns)))
        case "manifest":
            return CorpusConfig(name, manifest=str(manifest_tree(folder)))
        case "ravdess":
            return CorpusConfig(name, root=str(ravdess_tree(folder)))
        case "savee":
            return CorpusConfig(name, root=str(savee_tree(folder)))
        case "synthetic":
            few = SyntheticConfig(speakers=2, utterances_per_emotion=1)
            return CorpusConfig(name, root=str(folder), synthetic=few)
    raise AssertionError(f"write a tree for {name}")


@pytest.mark.parametrize("name", sorted(CORPORA))
def test_every_corpus_keeps_the_promises(name: str, tmp_path: Path) -> None:
    config = tree(name, tmp_path)
    corpus = load_corpus(config)
    assert isinstance(corpus, Corpus)
    assert all(dataclasses.astuple(CORPORA[name].ABOUT))
    assert corpus.name == name
    assert load_corpus(config) == corpus
    paths = [utterance.path for utterance in corpus.utterances]
    assert paths == sorted(set(paths))
    assert all(Path(path).is_file() for path in paths)
    assert {utterance.label for utterance in corpus.utterances} == set(corpus.labels)
    assert len({utterance.speaker for utterance in corpus.utterances} - {None}) >= 2
    assert sum(corpus.counts().values()) == len(paths)


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("emobd", "emodb"),
        ("EmoDB", "emodb"),
        ("radvess", "ravdess"),
        ("CREMA-D", "crema_d"),
        ("sintetic", "synthetic"),
    ],
)
def test_a_misspelled_name_is_guessed(name: str, guess: str) -> None:
    names = "crema_d, emodb, iemocap, manifest, ravdess, savee, synthetic"
    with pytest.raises(CorpusError, match=f"no corpus '{name}'; did you mean '{guess}'[?] there are: {names}"):
        load_corpus(CorpusConfig(name))


def test_a_name_like_no_other_is_not_guessed() -> None:
    with pytest.raises(CorpusError, match="no corpus 'xyz'; there are: crema_d"):
        load_corpus(CorpusConfig("xyz"))


def test_labels_keep_the_order_of_the_classes() -> None:
    utterances = [Utterance("b", "sad"), Utterance("a", "happy"), Utterance("c", "sad")]
    corpus = make_corpus("x", ("happy", "neutral", "sad"), utterances, "hint")
    assert corpus.labels == ("happy", "sad")
    assert corpus.counts() == {"happy": 1, "sad": 2}
    assert [utterance.path for utterance in corpus.utterances] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("names", "text"),
    [("a", "a"), ("abc", "a, b, c"), ("abcd", "a, b, c and 1 more"), ("abcdef", "a, b, c and 3 more")],
)
def test_first_three(names: str, text: str) -> None:
    assert first_three(list(names)) == text

"""Every corpus is found by its name and keeps the same promises."""

import dataclasses
from pathlib import Path

import pytest
from trees import crema_d_tree, emodb_tree, iemocap_tree, manifest_tree, ravdess_tree, savee_tree, tfds_tree

from dslstm_jax.config import CorpusConfig, SyntheticConfig
from dslstm_jax.data.corpora import CORPORA, Corpus, load_corpus
from dslstm_jax.data.corpora.base import Utterance, apply_labels, make_corpus
from dslstm_jax.errors import CorpusError, first_three


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
        case "records":
            return CorpusConfig(name, root=str(tfds_tree(folder)))
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
    assert corpus.name == ("crema_d" if name == "records" else name)  # what is in the records
    assert load_corpus(config) == corpus
    paths = [utterance.path for utterance in corpus.utterances]
    assert paths == sorted(set(paths))
    assert all(utterance.record or Path(utterance.path).is_file() for utterance in corpus.utterances)
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
    names = "crema_d, emodb, iemocap, manifest, ravdess, records, savee, synthetic"
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


SIX = Corpus(
    "x",
    ("happy", "calm", "neutral", "sad"),
    tuple(Utterance(str(i), label) for i, label in enumerate(["sad", "calm", "happy", "neutral", "calm", "sad"])),
)


def labeled(*labels: str, label_map: tuple[str, ...] = ()) -> Corpus:
    return apply_labels(SIX, CorpusConfig("x", labels=labels, label_map=label_map))


def test_labels_stay_without_wishes() -> None:
    assert labeled() == SIX


def test_a_new_name_stands_where_the_first_of_its_old_ones_stood() -> None:
    corpus = labeled(label_map=("sad=low", "calm=low"))
    assert corpus.labels == ("happy", "low", "neutral")
    assert [utterance.label for utterance in corpus.utterances] == ["low", "low", "happy", "neutral", "low", "low"]
    assert labeled(label_map=("calm=neutral",)).counts() == {"happy": 1, "neutral": 3, "sad": 2}


def test_labels_can_change_places() -> None:
    corpus = labeled(label_map=("sad=happy, happy=sad",))
    assert corpus.labels == ("sad", "calm", "neutral", "happy")
    assert corpus.counts() == {"sad": 1, "calm": 2, "neutral": 1, "happy": 2}


def test_a_label_is_left_out() -> None:
    corpus = labeled(label_map=("calm=-",))
    assert corpus.counts() == {"happy": 1, "neutral": 1, "sad": 2}
    assert [utterance.path for utterance in corpus.utterances] == ["0", "2", "3", "5"]


def test_the_classes_asked_for_in_their_order() -> None:
    corpus = labeled("sad,happy")
    assert corpus.labels == ("sad", "happy")
    assert [utterance.path for utterance in corpus.utterances] == ["0", "2", "5"]
    assert labeled("neutral", "happy", label_map=("calm=neutral",)).counts() == {"neutral": 3, "happy": 1}


@pytest.mark.parametrize(
    ("labels", "label_map", "reason"),
    [
        ((), ("calm",), "--corpus.label-map calm: give FROM=TO, such as calm=neutral, or calm=- to leave calm out"),
        ((), ("calm=",), "--corpus.label-map calm=: give FROM=TO"),
        ((), ("=calm",), "--corpus.label-map =calm: give FROM=TO"),
        ((), ("calm=sad", "calm=happy"), "--corpus.label-map: 'calm' cannot become both 'sad' and 'happy'"),
        (
            (),
            ("Clam=sad",),
            "--corpus.label-map Clam=sad: no recording is labeled 'Clam'; did you mean 'calm'? "
            "there are: happy, calm, neutral, sad",
        ),
        (
            ("neutral", "sad"),
            ("calm=neutrl",),
            "--corpus.label-map calm=neutrl: 'neutrl' is not among --corpus.labels (neutral, sad); "
            "did you mean 'neutral'? calm=- leaves 'calm' out",
        ),
        (("sad", "happy", "sad"), (), "--corpus.labels names 'sad' more than once"),
        (
            ("sad", "hapy"),
            (),
            "class 'hapy' of --corpus.labels has no recording: none is labeled so; did you mean 'happy'? "
            "there are: happy, calm, neutral, sad",
        ),
        (
            ("sad", "calm"),
            ("calm=sad",),
            "class 'calm' of --corpus.labels has no recording: --corpus.label-map calm=sad takes all its recordings",
        ),
        (
            (),
            ("sad=-", "happy=calm", "neutral=calm"),
            "--corpus.label-map and --corpus.labels leave calm; at least two labels are needed",
        ),
        (("sad",), (), "--corpus.label-map and --corpus.labels leave sad; at least two"),
    ],
)
def test_mistakes_about_labels_are_one_line_each(
    labels: tuple[str, ...], label_map: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(CorpusError) as caught:
        labeled(*labels, label_map=label_map)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


def test_every_corpus_takes_a_label_map(tmp_path: Path) -> None:
    config = dataclasses.replace(tree("savee", tmp_path), label_map=("surprised=happy", "disgust=-"))
    corpus = load_corpus(config)
    assert "happy" in corpus.labels
    assert not {"surprised", "disgust"} & set(corpus.labels)


@pytest.mark.parametrize(
    ("names", "text"),
    [("a", "a"), ("abc", "a, b, c"), ("abcd", "a, b, c and 1 more"), ("abcdef", "a, b, c and 3 more")],
)
def test_first_three(names: str, text: str) -> None:
    assert first_three(list(names)) == text

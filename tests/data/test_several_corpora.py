"""Several corpora in one run: one set of classes, and no speaker of one taken for a speaker of another."""

from dataclasses import replace
from pathlib import Path

import pytest
from trees import emodb_tree, ravdess_tree

from dslstm_jax.cli.entry import _parse
from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora import Utterance, load_corpus
from dslstm_jax.data.splits import check_disjoint, make_folds
from dslstm_jax.errors import ConfigError, CorpusError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    emodb = emodb_tree(folder / "emodb", speakers=("03", "08", "09"), emotions="FNWT")
    return str(emodb), str(ravdess_tree(folder / "ravdess", actors=range(1, 5)))


def parts(names, roots):
    return tuple(CorpusConfig(name, root) for name, root in zip(names, roots, strict=True))


def load(roots, **changes):
    return load_corpus(CorpusConfig(parts=parts(("emodb", "ravdess"), roots), **changes))


def test_all_utterances_of_all_corpora_are_there(roots):
    corpus = load(roots)
    alone = [load_corpus(CorpusConfig(name, root)) for name, root in zip(("emodb", "ravdess"), roots, strict=True)]
    assert corpus.name == "emodb+ravdess"
    paths = [utterance.path for utterance in corpus.utterances]
    assert paths == [utterance.path for one in alone for utterance in one.utterances]
    assert [utterance.corpus for utterance in corpus.utterances] == [
        one.name for one in alone for _ in one.utterances
    ]
    assert corpus.labels[: len(alone[0].labels)] == alone[0].labels
    assert set(corpus.labels) == set(alone[0].labels) | set(alone[1].labels)


def test_speakers_are_kept_apart(roots):
    corpus = load(roots)
    for utterance in corpus.utterances:
        name, _, speaker = utterance.speaker.partition("/")
        assert speaker
        assert f"/{name}/" in utterance.path
    for split in make_folds(corpus.utterances, "speaker3", 0):
        check_disjoint(corpus.utterances, split)


def test_labels_become_the_classes_of_the_run(roots):
    classes = ("neutral", "happy", "sad", "angry")
    corpus = load(roots, label_map=("calm=neutral",), labels=classes)
    assert corpus.labels == classes
    assert {utterance.label for utterance in corpus.utterances} == set(classes)
    calm = [utterance for utterance in corpus.utterances if "/03-01-02-" in utterance.path]
    assert calm
    assert {utterance.label for utterance in calm} == {"neutral"}
    assert not [utterance for utterance in corpus.utterances if "/03-01-07-" in utterance.path]  # disgust


def test_one_corpus_is_tested_and_speakers_of_the_other_validate(roots):
    corpus = load(roots, label_map=("calm=neutral",), labels=("neutral", "happy", "sad", "angry"))
    folds = make_folds(corpus.utterances, "corpus", 0)
    tested = [{corpus.utterances[index].corpus for index in split.test} for split in folds]
    assert tested == [{"emodb"}, {"ravdess"}]
    for split, other, validating in zip(folds, ("ravdess", "emodb"), (1, 1), strict=True):
        assert sorted((*split.train, *split.validation, *split.test)) == list(range(len(corpus.utterances)))
        assert {corpus.utterances[index].corpus for index in (*split.train, *split.validation)} == {other}
        check_disjoint(corpus.utterances, split)
        assert len({corpus.utterances[index].speaker for index in split.validation}) == validating
    dealt = {make_folds(corpus.utterances, "corpus", seed)[0].validation for seed in range(9)}
    assert len(dealt) > 1, "the seed deals the speakers"


def pooled(**speakers):
    """So many speakers in each corpus, with an utterance of each of two labels."""
    return [
        Utterance(f"{corpus}/{speaker}/{label}", label, f"{corpus}/{speaker}", corpus=corpus)
        for corpus, number in speakers.items()
        for speaker in range(number)
        for label in ("joy", "sad")
    ]


@pytest.mark.parametrize("seed", range(5))
def test_every_fold_has_a_share_of_every_corpus(seed):
    utterances = pooled(few=5, many=15)
    for split in make_folds(utterances, "speaker5", seed):
        tested = {utterances[index].speaker for index in split.test}
        assert sorted(speaker.partition("/")[0] for speaker in tested) == ["few", "many", "many", "many"]


def test_a_fifth_of_the_others_speakers_validates():
    folds = make_folds(pooled(few=2, many=10), "corpus", 0)
    assert [len(split.train) for split in folds] == [16, 2]
    assert [len(split.validation) for split in folds] == [4, 2]
    with pytest.raises(CorpusError, match="without many there is one speaker, and one must validate while others"):
        make_folds(pooled(few=1, many=10), "corpus", 0)


def test_leaving_a_corpus_out_needs_several_with_the_same_labels(roots):
    alone = load_corpus(CorpusConfig("emodb", roots[0]))
    with pytest.raises(CorpusError, match=r"leaves one of several corpora out: give them by --corpus.parts"):
        make_folds(alone.utterances, "corpus", 0)
    with pytest.raises(CorpusError, match=r"'calm' is missing from the training part of fold 1 .*label-map"):
        make_folds(load(roots).utterances, "corpus", 0)


def test_records_of_several_corpora_are_joined_under_their_own_names(roots, tmp_path):
    from rich.console import Console

    from dslstm_jax.data.tfds.prepare import prepare

    folders = tuple(
        str(prepare(CorpusConfig(name, root), tmp_path, console=Console(quiet=True)).folder)
        for name, root in zip(("emodb", "ravdess"), roots, strict=True)
    )
    corpus = load_corpus(CorpusConfig(parts=parts(("records", "records"), folders)))
    assert corpus.name == "emodb+ravdess"
    assert len(corpus.utterances) == len(load(roots).utterances)
    assert {utterance.speaker for utterance in corpus.utterances} == {
        utterance.speaker for utterance in load(roots).utterances
    }


def test_parts_are_named_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["configs/pretrained.py", "--workdir", "run", "--corpus.parts", "emodb=here", "manifest=my.csv"]
    config = _parse("train", [str(ROOT / given[0]), *given[1:]]).config
    found = (CorpusConfig("emodb", "here"), CorpusConfig("manifest", manifest="my.csv"))
    assert config.corpus.parts == found
    assert config.corpus.label_map == ("calm=neutral",)
    absolute = config.corpus.with_paths(lambda path: path and str(Path(path).resolve())).parts
    assert [part.root or part.manifest for part in absolute] == [str(tmp_path / name) for name in ("here", "my.csv")]


def test_a_part_may_have_labels_of_its_own(roots):
    emodb, ravdess = parts(("emodb", "ravdess"), roots)
    mapped = replace(ravdess, label_map=("calm=neutral",), labels=("neutral", "happy"))
    corpus = load_corpus(CorpusConfig(parts=(emodb, mapped)))
    assert corpus.labels == load_corpus(emodb).labels
    assert {u.label for u in corpus.utterances if u.corpus == "ravdess"} == {"neutral", "happy"}
    with pytest.raises(ConfigError, match="a part has no parts of its own"):
        CorpusConfig(parts=(CorpusConfig(parts=(emodb, ravdess)),))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parts": (CorpusConfig(), CorpusConfig())}, "name each corpus once"),
        ({"parts": parts(("emodb", "ravdess"), "ab"), "root": "here"}, "--corpus.parts emodb=DIR ravdess=DIR"),
        ({"parts": parts(("emodb", "ravdess"), "ab"), "manifest": "my.csv"}, "--corpus.manifest is of one corpus"),
        ({"parts": parts(("emodb", "ravdes"), "ab")}, "no such folder"),
        ({"parts": parts(("emodb", "ravdess"), (None, None))}, "corpus 'emodb' needs its folder"),
    ],
)
def test_mistakes_are_one_line(changes, words):
    with pytest.raises(CorpusError) as error:
        load_corpus(CorpusConfig(**changes))
    assert words in str(error.value)
    assert "\n" not in str(error.value)

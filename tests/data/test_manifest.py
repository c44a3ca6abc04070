"""A table of one's own recordings: what it may look like, and one clear line for each mistake in it."""

import os
import re
from pathlib import Path

import pytest
from trees import manifest_tree, write_table

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora import load_corpus, manifest
from dslstm_jax.data.corpora.base import Corpus, Utterance
from dslstm_jax.errors import CorpusError


def load(path: Path, **fields: object) -> Corpus:
    return manifest.load(CorpusConfig("manifest", manifest=str(path), **fields))  # type: ignore[arg-type]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """An empty manifest beside `a.wav` to `e.wav`, which hold nothing: a corpus is listed, not decoded."""
    for name in "abcde":
        (tmp_path / f"{name}.wav").touch()
    return tmp_path / "list.csv"


def failure(path: Path, **fields: object) -> str:
    with pytest.raises(CorpusError) as caught:
        load(path, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_columns_are_read(tmp_path: Path) -> None:
    corpus = load(manifest_tree(tmp_path, labels=("tense", "calm"), speakers=("ann", "bob"), takes=1))
    recordings = tmp_path / "recordings"
    assert corpus == Corpus(
        "manifest",
        ("calm", "tense"),
        (
            Utterance(str(recordings / "ann_calm_0.wav"), "calm", "ann", "1"),
            Utterance(str(recordings / "ann_tense_0.wav"), "tense", "ann", "1"),
            Utterance(str(recordings / "bob_calm_0.wav"), "calm", "bob", "2"),
            Utterance(str(recordings / "bob_tense_0.wav"), "tense", "bob", "2"),
        ),
    )


def test_path_and_label_are_enough(table: Path) -> None:
    corpus = load(write_table(table, [("label", "path"), ("sad", "b.wav"), ("glad", "a.wav")]))
    assert corpus.utterances == (
        Utterance(str(table.parent / "a.wav"), "glad"),
        Utterance(str(table.parent / "b.wav"), "sad"),
    )


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".txt", "\t"), (".csv", ";")])
def test_delimiters(table: Path, suffix: str, delimiter: str) -> None:
    rows = [("path", "label"), ("a.wav", "glad, very"), ("b.wav", "sad; very")]
    corpus = load(write_table(table.with_suffix(suffix), rows, delimiter))
    assert corpus.labels == ("glad, very", "sad; very")


def test_a_tsv_with_one_column_too_few_is_not_read_as_commas(table: Path) -> None:
    path = write_table(table.with_suffix(".tsv"), [("path,label",), ("a.wav,x",)], "\t")
    assert "no column 'path'" in failure(path)


def test_what_spreadsheets_write(table: Path) -> None:
    table.write_bytes('\ufeffpath , label\r\n a.wav , fröhlich\r\n\r\n"b.wav", "traurig, sehr"\r\n'.encode())
    corpus = load(table)
    assert corpus.labels == ("fröhlich", "traurig, sehr")
    assert [utterance.path for utterance in corpus.utterances] == [
        str(table.parent / name) for name in ("a.wav", "b.wav")
    ]


def test_columns_by_other_names(table: Path) -> None:
    rows = [("file", "emotion", "who", "day"), ("a.wav", "x", "1", "mon"), ("b.wav", "y", "2", "tue")]
    columns = ("path=file", "label=emotion")
    corpus = load(write_table(table, rows), columns=(*columns, "speaker=who, session = day"))
    assert [(u.label, u.speaker, u.session) for u in corpus.utterances] == [("x", "1", "mon"), ("y", "2", "tue")]
    assert load(table, columns=columns).utterances[0].speaker is None


@pytest.mark.parametrize("entry", ["labels=x", "label"])
def test_a_column_that_there_is_not(table: Path, entry: str) -> None:
    write_table(table, [("path", "label"), ("a.wav", "x")])
    assert failure(table, columns=(entry,)) == (
        f"--corpus.columns {entry}: give COLUMN=NAME, such as label=emotion; "
        "the columns are path, label, speaker, session"
    )


def test_where_relative_paths_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = manifest_tree(tmp_path / "corpus")
    moved = path.rename(tmp_path / "list.csv")
    assert f"relative paths start at {tmp_path} (--corpus.root)" in failure(moved)
    corpus = load(moved, root=str(tmp_path / "corpus"))
    assert corpus.utterances[0].path == str(tmp_path / "corpus" / "recordings" / "ann_calm_0.wav")
    monkeypatch.chdir(tmp_path / "corpus")
    assert load(moved, root=".").utterances[0].path == "recordings/ann_calm_0.wav"
    assert "no such folder" in failure(moved, root=str(tmp_path / "nothing"))


def test_absolute_paths_stay(table: Path) -> None:
    files = [str(table.parent / name) for name in ("a.wav", "b.wav")]
    (table.parent / "elsewhere").mkdir()
    path = write_table(table.parent / "elsewhere" / "m.csv", [("path", "label"), (files[0], "x"), (files[1], "y")])
    assert [utterance.path for utterance in load(path).utterances] == files


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"give --corpus\.manifest"):
        manifest.load(CorpusConfig("manifest"))
    assert failure(tmp_path / "no.csv") == f"--corpus.manifest {tmp_path / 'no.csv'}: no such file"


@pytest.mark.parametrize(
    ("rows", "fields", "reason"),
    [
        (["path,emotion", "a.wav,x"], {}, "no column 'label' (--corpus.columns label=NAME); it has: path, emotion"),
        (
            ["path,label,label", "a.wav,x,y"],
            {},
            "2 columns 'label' (--corpus.columns label=NAME); it has: path, label, label",
        ),
        (["path,label", "a.wav,x"], {"columns": ("speaker=who",)}, "no column 'who' (--corpus.columns speaker=NAME)"),
        ([], {}, "no column 'path' (--corpus.columns path=NAME); it has: nothing"),
        (["path,label"], {}, "no rows below its header"),
        (["path,label", "a.wav,x", "", "b.wav,"], {}, "line 4: column 'label' is empty"),
        (["path,label", "a.wav,x", "b.wav"], {}, "line 3: column 'label' is empty"),
        (["path,label", "a.wav,x", "  ,y"], {}, "line 3: column 'path' is empty"),
        (["path,label,speaker", "a.wav,x,", "b.wav,y,s"], {}, "line 2: column 'speaker' is empty"),
        (["path,label,session", "a.wav,x,1", "b.wav,y,"], {}, "line 3: column 'session' is empty"),
        (["path,label", "a.wav,x,y"], {}, "line 2: more cells than columns"),
        (["path,label", "a.wav,x", "b.wav,y", "./a.wav,y"], {}, "a.wav is already on line 2"),
        (["path,label", 'a.wav,"x', "b.wav,y"], {}, "not a well-formed table"),
        (["path,label", "a.wav,x", "b.wav,x"], {}, "every utterance is 'x'"),
    ],
)
def test_mistakes_in_the_table(table: Path, rows: list[str], fields: dict[str, str], reason: str) -> None:
    table.write_text("\n".join(rows))
    message = failure(table, **fields)
    assert reason in message
    assert str(table) in message or "every utterance" in message


def test_a_file_listed_twice_under_two_names(table: Path) -> None:
    (table.parent / "link.wav").symlink_to("a.wav")
    write_table(table, [("path", "label"), ("a.wav", "x"), ("b.wav", "y"), ("link.wav", "x")])
    assert f"{table}, line 4: column 'path': {table.parent / 'link.wav'} is already on line 2" in failure(table)


def test_if_all_files_are_missing_three_are_named(table: Path) -> None:
    write_table(table, [("path", "label"), *((f"no{i}.wav", "xy"[i % 2]) for i in range(5))])
    folder = table.parent
    assert failure(table) == (
        f"{table}: column 'path': none of its 5 files exists: {folder}/no0.wav (line 2), {folder}/no1.wav (line 3), "
        f"{folder}/no2.wav (line 4) and 2 more; relative paths start at {folder} (--corpus.root)"
    )


def test_single_missing_files_are_left_to_the_check_of_all_recordings(table: Path) -> None:
    corpus = load(write_table(table, [("path", "label"), ("a.wav", "x"), ("no.wav", "y"), ("b\0.wav", "y")]))
    assert [Path(utterance.path).name for utterance in corpus.utterances] == ["a.wav", "b\0.wav", "no.wav"]


def test_a_missing_file_listed_twice(table: Path) -> None:
    write_table(table, [("path", "label"), ("a.wav", "x"), ("no.wav", "y"), ("no.wav", "x")])
    assert f"{table}, line 4: column 'path': {table.parent / 'no.wav'} is already on line 3" in failure(table)


LABELED = [("path", "label"), ("a.wav", "happy"), ("b.wav", "sad"), ("c.wav", "hapy"), ("d.wav", "calm")]


def test_a_label_that_is_no_class_is_a_slip(table: Path) -> None:
    write_table(table, LABELED)
    assert load(table).labels == ("calm", "happy", "hapy", "sad"), "without --corpus.labels any label is a class"
    assert failure(table, labels=("sad,happy",), label_map=("calm=sad",)) == (
        f"{table}, line 4: column 'label': 'hapy' is not among --corpus.labels (sad, happy); did you mean 'happy'? "
        "mend the cell, add the label to --corpus.labels, rename it (--corpus.label-map hapy=happy) "
        "or leave it out (--corpus.label-map hapy=-)"
    )


def test_all_labels_that_are_no_class_are_named(table: Path) -> None:
    write_table(table, LABELED)
    message = failure(table, labels=("sad", "happy"))
    assert message.endswith("(--corpus.label-map hapy=-); so are 'calm' (line 5)")
    message = failure(table, labels=("joy", "rage"))
    assert "'happy' is not among --corpus.labels (joy, rage); mend the cell" in message
    assert "(--corpus.label-map happy=CLASS)" in message
    assert message.endswith("; so are 'sad' (line 3), 'hapy' (line 4), 'calm' (line 5)")


def test_what_is_mapped_or_left_out_is_no_slip(table: Path) -> None:
    config = CorpusConfig(
        "manifest",
        manifest=str(write_table(table, LABELED)),
        labels=("sad", "happy"),
        label_map=("hapy=happy", "calm=-"),
    )
    corpus = load_corpus(config)
    assert (corpus.labels, corpus.counts()) == (("sad", "happy"), {"sad": 1, "happy": 2})


@pytest.mark.parametrize(
    ("labels", "label_map", "reason"),
    [
        (
            ("happy", "sad", "calm", "hapy", "joy"),
            (),
            "{table}: column 'label': class 'joy' of --corpus.labels has no recording: none is labeled so; "
            "there are: calm, happy, hapy, sad",
        ),
        (
            ("happy", "sad", "calm"),
            ("calm=sad", "hapy=happy"),
            "{table}: column 'label': class 'calm' of --corpus.labels has no recording: "
            "--corpus.label-map calm=sad takes all its recordings",
        ),
        (
            (),
            ("happi=hapy",),
            "--corpus.label-map happi=hapy: no recording is labeled 'happi'; did you mean 'happy'?",
        ),
    ],
)
def test_a_class_that_stays_empty(table: Path, labels: tuple[str], label_map: tuple[str], reason: str) -> None:
    config = CorpusConfig("manifest", manifest=str(write_table(table, LABELED)), labels=labels, label_map=label_map)
    with pytest.raises(CorpusError) as caught:
        load_corpus(config)
    assert str(caught.value).startswith(reason.format(table=table))


@pytest.mark.parametrize(
    ("text", "encoding", "where"),
    [
        ("path,label\na.wav,x\n", "utf-16", ""),
        ("path,gefühl\na.wav,x\n", "latin-1", ""),
        ("path,label\na.wav,x\nb.wav,fröhlich\n", "latin-1", ", line 3: column 'label'"),
        ("path,label,speaker\na.wav,x,Jörg\n", "latin-1", ", line 2: column 'speaker'"),
        ("path,label\nJörg.wav,x\n", "latin-1", ", line 2: column 'path'"),
    ],
)
def test_other_encodings_say_utf_8(table: Path, text: str, encoding: str, where: str) -> None:
    table.write_bytes(text.encode(encoding))
    assert failure(table) == f"{table}{where}: not UTF-8 text; save the table as CSV UTF-8"


def test_a_file_whose_name_is_no_text_can_be_listed(table: Path) -> None:
    name = os.fsencode(table.parent) + b"/\xff.wav"
    Path(os.fsdecode(name)).touch()
    table.write_bytes(b"path,label\na.wav,x\n\xff.wav,y\n")
    assert [os.fsencode(utterance.path) for utterance in load(table).utterances][1] == name


DOCUMENTED = re.findall(
    r"^\| (an? [^|]+?) \| `([^`]+)` \|$", (Path(__file__).parents[2] / "docs" / "data.md").read_text(), re.MULTILINE
)
MISTAKES = {
    "a missing column": (["path,emotion", "a.wav,happy"], {}),
    "an empty cell": (["path,label", "a.wav,happy", "b.wav,"], {}),
    "an unknown label": (["path,label", "a.wav,happy", "b.wav,hapy"], {"labels": ("happy", "sad")}),
    "a map that leaves a class empty": (
        ["path,label", "a.wav,happy", "b.wav,calm"],
        {"labels": ("happy", "calm"), "label_map": ("calm=happy",)},
    ),
    "a map of a label that is not there": (["path,label", "a.wav,sad", "b.wav,calm"], {"label_map": ("clam=sad",)}),
    "a recording listed twice": (["path,label", "a.wav,sad", "b.wav,calm", "a.wav,sad"], {}),
}


def test_every_documented_mistake_is_tested() -> None:
    assert [name for name, _ in DOCUMENTED] == list(MISTAKES)


@pytest.mark.parametrize(("name", "message"), DOCUMENTED)
def test_documented_mistakes(table: Path, name: str, message: str) -> None:
    rows, fields = MISTAKES[name]
    path = table.with_name("my.csv")
    path.write_text("\n".join(rows))
    with pytest.raises(CorpusError) as caught:
        load_corpus(CorpusConfig("manifest", manifest=str(path), **fields))  # type: ignore[arg-type]
    assert str(caught.value).replace(f"{table.parent}/", "").startswith(message)

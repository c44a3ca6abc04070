"""The command line: what it prints, and its exit codes."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import tiny_config, write_config
from trees import emodb_tree, manifest_tree

from dslstm_jax.cli import main
from dslstm_jax.data.corpora import CORPORA


def run(capsys, *arguments: str) -> tuple[int, list[str], list[str]]:
    """Exit code, and the lines of stdout and stderr."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out.splitlines(), captured.err.splitlines()


@pytest.fixture
def config(tones, tmp_path):
    return write_config(tmp_path / "tiny.py", tiny_config(tones))


def test_help_lists_the_commands(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for command in ("train", "evaluate", "predict", "corpora", "import-torch"):
        assert any(line.strip().startswith(command) for line in out)
        code, lines, _ = run(capsys, command, "--help")
        assert code == 0
        assert any("--" in line for line in lines)
    assert run(capsys)[0] == 2
    assert run(capsys, "--version")[1] == ["0.1.0"]


def test_flags_of_train_show_the_configs_defaults(capsys, config):
    _, lines, _ = run(capsys, "train", config, "--help")
    text = " ".join(" ".join(lines).split())
    assert "--training.batch-size INT" in text
    assert "(default: 4)" in text
    assert "Hertz; recordings at other rates are resampled" in text


def test_evaluate_repeats_what_training_reported(capsys, trained):
    code, out, _ = run(capsys, "evaluate", trained)
    assert code == 0
    assert out[-1].startswith("test WA=")
    assert "speaker3 fold 0 of seed 0, 2 unseen speakers, epoch chosen by validation UA" in out[-1]
    report = (trained / "report" / "report.md").read_text()
    code, out, _ = run(capsys, "evaluate", trained, "--split", "validation", "--json")
    values = json.loads(out[0])
    assert values["utterances"] == 16
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: (row["validation_ua"], row["epoch"]))
    assert values["epoch"] == best["epoch"]
    assert values["ua"] == pytest.approx(best["validation_ua"])
    assert values["loss"] == pytest.approx(best["validation_loss"], rel=1e-5)
    assert (trained / "report" / "report.md").read_text() == report
    code, out, _ = run(capsys, "evaluate", trained, "--split", "train")
    assert "trained on" in out[-1]


@pytest.fixture
def mixed_files(tones, tmp_path):
    """A good file, a stereo file at 44.1 kHz, and a text that says it is sound."""
    samples, _ = soundfile.read(tones / "wav" / "03a01Wa.wav")
    soundfile.write(tmp_path / "stereo.wav", np.stack([samples, samples], axis=1), 44_100)
    (tmp_path / "text.wav").write_text("this is no sound")
    return [tones / "wav" / "03a01Wa.wav", tmp_path / "stereo.wav", tmp_path / "text.wav"]


def test_predict_json(capsys, trained, mixed_files):
    code, out, err = run(capsys, "predict", "--model", trained, "--format", "json", *mixed_files)
    assert code == 1
    rows = [json.loads(line) for line in out]
    assert [row["path"] for row in rows] == [str(path) for path in mixed_files]
    for row in rows[:2]:
        assert set(row) == {"path", "label", "probabilities", "duration_seconds"}
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert set(rows[2]) == {"path", "error"}
    assert len(err) == 1
    assert str(mixed_files[2]) in err[0]
    assert "not a sound file" in err[0]


def test_predict_csv_and_table(capsys, trained, mixed_files):
    code, out, err = run(capsys, "predict", "--model", trained, "--format", "csv", *mixed_files)
    rows = list(csv.DictReader(out))
    assert (code, len(rows), len(err)) == (1, 3, 1)
    assert list(rows[0]) == ["path", "label", "happy", "neutral", "angry", "sad", "duration_seconds", "error"]
    assert rows[2]["label"] == ""
    assert "not a sound file" in rows[2]["error"]
    code, out, _ = run(capsys, "predict", "--model", trained, *mixed_files[:2])
    assert (code, len(out)) == (0, 3)
    assert out[1].split()[1] == rows[0]["label"]


def test_predict_searches_folders(capsys, trained, tones, tmp_path):
    code, out, err = run(capsys, "predict", "--model", trained, "--format", "json", tones, tmp_path / "missing")
    assert code == 1
    assert len(out) == 48 + 1
    assert "missing" in err[0]
    assert "error" in json.loads(out[-1])


def test_file_names_that_are_no_text_are_printed_escaped(trained, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")
    Path(name).write_bytes(b"not sound")
    command = [sys.executable, "-m", "dslstm_jax", "predict", "--model", str(trained), "--format", "json", name]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 1
    assert json.loads(found.stdout)["path"] == name
    assert "not a sound file" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_reader_that_leaves_early_is_no_error(trained, tones):
    command = f"{sys.executable} -m dslstm_jax predict --model {trained} --format csv {tones} {tones} | head -n 1"
    found = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert found.stdout.startswith("path,label")
    assert found.stderr == ""


def test_a_run_folder_knows_its_corpus_from_anywhere(capsys, config, tones, tmp_path, monkeypatch):
    monkeypatch.chdir(tones.parent)
    flags = ["--corpus.root", tones.name, "--training.epochs", "1", "--model.spectrogram-branch", "none"]
    assert run(capsys, "train", config, "--workdir", tmp_path / "run", *flags)[0] == 0
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "evaluate", "run")[0] == 0


def test_a_missing_model_is_one_line(capsys, tmp_path):
    code, out, err = run(capsys, "predict", "--model", tmp_path / "nowhere", "x.wav")
    assert (code, out, len(err)) == (2, [], 1)
    assert "nowhere: no such run folder" in err[0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--training.batchsize", "3"], "did you mean --training.batch-size?"),
        (["--training.batch-size", "many"], "--training.batch-size"),
        (["--training.batch-size", "0"], "training.batch_size"),
        (["--corpus.name", "emobd"], "emodb"),
        (["--corpus.root", "{tmp}/empty"], "no utterance found"),
        (["--corpus.root", "{tmp}/nowhere"], "no such folder"),
        (["--corpus.root", "{tmp}/one_speaker"], "one speaker"),
        (
            ["--corpus.name", "manifest", "--corpus.root", "{tmp}", "--corpus.manifest", "{tmp}/lonely.csv"],
            "label 'lonely' has 1 utterance",
        ),
        (["--split.protocol", "speaker9"], "speaker6"),
        (["--split.fold", "3"], "--split.fold 3"),
        (["--features.mfcc.hop-length", "256"], "--features.mfcc.hop-length, 256; set it in the config file"),
        (["--corpus.parts", "emodb"], "--corpus.parts emodb: give NAME=DIR"),
    ],
)
def test_mistakes_are_one_line_each(capsys, config, tmp_path, flags, said):
    (tmp_path / "empty").mkdir()
    emodb_tree(tmp_path / "one_speaker", speakers=("03",))
    manifest_tree(tmp_path, labels=("happy", "sad"), speakers=("a", "b", "c"), takes=2)
    table = next(tmp_path.glob("*.csv"))
    rows = table.read_text().splitlines()
    header = rows[0].split(",")
    cells = rows[1].split(",")
    cells[header.index("label")] = "lonely"
    (tmp_path / "lonely.csv").write_text("\n".join([rows[0], ",".join(cells), *rows[2:]]) + "\n")
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    code, _, err = run(capsys, "train", config, "--workdir", tmp_path / "run", *flags)
    assert code == 2
    assert len(err) == 1, err
    assert said in err[0]
    assert not (tmp_path / "run").exists(), "nothing is left behind"


def test_a_model_that_cannot_be_built_is_one_line(capsys, tones, tmp_path):
    tiny = tiny_config(tones)
    spectrograms = (replace(tiny.features.spectrograms[0], frames=12), *tiny.features.spectrograms[1:])
    config = write_config(
        tmp_path / "tiny.py", replace(tiny, features=replace(tiny.features, spectrograms=spectrograms))
    )
    code, _, err = run(capsys, "train", config, "--workdir", tmp_path / "run")
    assert (code, len(err)) == (2, 1)
    assert "cannot be aligned" in err[0]
    assert not (tmp_path / "run").exists()


def test_other_mistakes_are_one_line_each(capsys, config, tmp_path):
    for arguments, said in [
        (["trian"], "unknown command 'trian'"),
        (["train", tmp_path / "nowhere.py", "--workdir", tmp_path / "run"], "no such file"),
        (["train", config], "--workdir"),
        (["evaluate", tmp_path], "not a run folder"),
        (["predict"], "give the files: PATH..."),
    ]:
        code, out, err = run(capsys, *arguments)
        assert (code, out, len(err)) == (2, [], 1), (arguments, err)
        assert said in err[0]


def test_bad_recordings_are_all_named_before_training(capsys, config, tmp_path):
    root = emodb_tree(tmp_path / "emodb", speakers=("03", "08", "09"), emotions="FN")
    for name in ("03a01Fa.wav", "09b10Na.wav"):
        (root / "wav" / name).write_text("not sound")
    code, _, err = run(capsys, "train", config, "--corpus.root", root, "--workdir", tmp_path / "run")
    assert code == 2
    assert [name in line for name, line in zip(("03a01Fa", "09b10Na", "2 of 12 recordings"), err, strict=True)] == [
        True
    ] * 3
    assert not (tmp_path / "run").exists()


def test_corpora_lists_all_of_them(capsys):
    code, out, err = run(capsys, "corpora")
    assert (code, err) == (0, [])
    assert [line.split()[0] for line in out] == ["name", *CORPORA]
    emodb = next(line for line in out if line.startswith("emodb"))
    for said in (CORPORA["emodb"].ABOUT.license, "TU Berlin", "the folder with wav/"):
        assert said in emodb


def test_corpora_counts_and_draws_a_local_copy(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = emodb_tree(tmp_path, speakers=("03", "08"), texts=("a01",), emotions="FN")
    expected = [
        "            happy  neutral  total",
        "speaker 03      1        1      2",
        "speaker 08      1        1      2",
        "all             2        2      4",
        "duration: 0:00:01 (1.0 s)",
        "recordings: shortest 0.25 s, median 0.25 s, mean 0.25 s, longest 0.25 s",
        "sample rates: 16000 Hz (4)",
        "problems: none",
        "picture: emodb.png",
    ]
    assert run(capsys, "corpora", "emodb", "--corpus.root", root) == (0, expected, [])
    assert run(capsys, "corpora", "--corpus.name", "emodb", "--corpus.root", root) == (0, expected, [])
    assert run(capsys, "corpora", "emodb", "--corpus.name", "savee", "--corpus.root", root) == (0, expected, [])
    assert (tmp_path / "emodb.png").read_bytes().startswith(b"\x89PNG")
    other = tmp_path / "other.png"
    _, out, _ = run(capsys, "corpora", "emodb", "--corpus.root", root, "--output", other)
    assert out[-1] == f"picture: {other}"
    assert other.read_bytes() == (tmp_path / "emodb.png").read_bytes()


def test_corpora_names_the_problems_it_finds(capsys, tmp_path):
    root = emodb_tree(tmp_path, speakers=("03", "08"), texts=("a01",), emotions="FN")
    (root / "wav" / "08a01Na.wav").write_text("version https://git-lfs.github.com/spec/v1")
    shutil.copy(root / "wav" / "03a01Fa.wav", root / "wav" / "03a01Na.wav")
    code, out, err = run(capsys, "corpora", "emodb", "--corpus.root", root, "--output", tmp_path / "x.png")
    assert (code, len(err)) == (1, 2)
    assert "08a01Na.wav: not a sound file" in err[0]
    assert err[1].endswith("03a01Na.wav (neutral); their labels differ")
    assert out[-3:-1] == ["sample rates: 16000 Hz (3)", "problems: 2"]


def test_corpora_takes_a_manifest_and_a_label_map(capsys, tmp_path):
    table = manifest_tree(tmp_path, labels=("calm", "tense", "happy"), speakers=("a",), takes=1)
    flags = ["--corpus.manifest", table, "--corpus.label-map", "calm=low", "tense=low"]
    flags += ["--output", tmp_path / "x.png"]
    code, out, err = run(capsys, "corpora", "manifest", *flags)
    assert (code, err) == (0, [])
    assert out[0].split() == ["low", "happy", "total"]
    assert out[-1] == f"picture: {tmp_path / 'x.png'}"
    code, out, err = run(capsys, "corpora", "manifest", *flags, "--corpus.labels", "low", "hapy")
    assert (code, out, len(err)) == (2, [], 1)
    assert f"{table}, line 4: column 'label': 'happy' is not among --corpus.labels (low, hapy); did you" in err[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["emobd"], "did you mean 'emodb'?"),
        (["emodb"], "give --corpus.root DIR"),
        (["emodb", "--corpus.root", "nowhere"], "no such folder"),
        (["--corpus.root", "nowhere"], "which corpus? give its name"),
        (["emodb", "--corpus.rot", "nowhere"], "did you mean --corpus.root?"),
    ],
)
def test_mistakes_about_corpora_are_one_line_each(capsys, arguments, said):
    code, out, err = run(capsys, "corpora", *arguments)
    assert (code, out, len(err)) == (2, [], 1)
    assert said in err[0]


def test_debug_shows_the_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DSLSTM_DEBUG", "1")
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_module_runs_as_the_command():
    command = [sys.executable, "-m", "dslstm_jax", "--version"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0.1.0"

"""The table of odd and bad recordings in docs/data.md: a test for each row, a row for each test."""

import contextlib
import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from tiny import tiny_config, write_config
from trees import write_tone

from dslstm_jax.cli import main
from dslstm_jax.config import Config, CorpusConfig
from dslstm_jax.data.audio import read_audio
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.dataset import make_dataset
from dslstm_jax.errors import AudioError

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"


class Rule(NamedTuple):
    """A row of the table."""

    train: str
    """used, cannot be used or stops."""
    prepare: str
    """The same."""
    predict: str
    """used or error."""
    train_message: re.Pattern[str]
    predict_message: re.Pattern[str]


def pattern(message: str) -> re.Pattern[str]:
    """A message of the table; N stands for a number."""
    return re.compile(re.sub(r"\bN\b", r"[0-9.]+", re.escape(message)))


def read_rules() -> dict[str, Rule]:
    """The rows of the table under `| input |`."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| input |"))
    rules = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, train, predict, message = (cell.strip() for cell in line.strip("|").split("|"))
        train, _, prepare = train.partition("; prepare: ")
        messages = re.findall("`([^`]+)`", message) or [""]
        rules[name] = Rule(
            train, prepare or train, re.split("[,(]", predict)[0].strip(), pattern(messages[0]), pattern(messages[-1])
        )
    return rules


RULES = read_rules()
MAKERS: dict[str, Callable[[Path], Path]] = {}
Maker = Callable[[Path], Path]


def row(name: str) -> Callable[[Maker], Maker]:
    """The function below makes the input of that row in an empty folder."""

    def register(maker: Maker) -> Maker:
        MAKERS[name] = maker
        return maker

    return register


def voice(seconds: float = 0.4, rate: int = 16_000) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * 300 * time) * (1 + 0.5 * np.sin(2 * np.pi * 5 * time))


def write(path: Path, samples: np.ndarray, rate: int = 16_000, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


@row("empty file (0 bytes)")
def _(folder: Path) -> Path:
    (folder / "empty.wav").touch()
    return folder / "empty.wav"


@row("truncated header")
def _(folder: Path) -> Path:
    return cut(write(folder / "header.wav", voice()), 20)


@row("truncated data")
def _(folder: Path) -> Path:
    return cut(write(folder / "data.wav", voice()), 5_000)


@row("text named `.wav`")
def _(folder: Path) -> Path:
    (folder / "text.wav").write_text("path,label\n" * 100)
    return folder / "text.wav"


@row("header without samples")
def _(folder: Path) -> Path:
    return write(folder / "none.wav", voice(0.0))


@row("all samples zero")
def _(folder: Path) -> Path:
    return write(folder / "silence.wav", 0 * voice())


@row("NaN samples")
def _(folder: Path) -> Path:
    return write(folder / "nan.wav", np.append(voice(), np.nan), subtype="FLOAT")


@row("infinite samples")
def _(folder: Path) -> Path:
    return write(folder / "infinite.wav", np.append(voice(), -np.inf), subtype="FLOAT")


@row("floats of 16-bit size")
def _(folder: Path) -> Path:
    return write(folder / "unscaled.wav", 32_768 * voice(), subtype="FLOAT")


@row("one sample (under 0.01 s)")
def _(folder: Path) -> Path:
    return write(folder / "one.wav", np.array([0.5]))


@row("8-bit")
def _(folder: Path) -> Path:
    return write(folder / "bits8.wav", voice(), subtype="PCM_U8")


@row("24-bit")
def _(folder: Path) -> Path:
    return write(folder / "bits24.wav", voice(), subtype="PCM_24")


@row("32-bit float")
def _(folder: Path) -> Path:
    return write(folder / "float.wav", voice(), subtype="FLOAT")


@row("8 kHz")
def _(folder: Path) -> Path:
    return write(folder / "rate8.wav", voice(rate=8_000), 8_000)


@row("96 kHz")
def _(folder: Path) -> Path:
    return write(folder / "rate96.wav", voice(rate=96_000), 96_000)


@row("6 channels")
def _(folder: Path) -> Path:
    return write(folder / "channels.wav", np.stack([voice()] * 6, axis=1))


@row("2 minutes long (over `--data.longest`, 60 s)")
def _(folder: Path) -> Path:
    return write(folder / "minutes.wav", voice(120, 1_000), 1_000, "PCM_U8")


@row("2 hours long (over 10 minutes)")
def _(folder: Path) -> Path:
    return write(folder / "hours.wav", voice(7_200, 1_000), 1_000, "PCM_U8")


@row("FLAC stream without a length")
def _(folder: Path) -> Path:
    path = write(folder / "stream.flac", voice())
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # 36 bits of STREAMINFO: the number of samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    return path


@row("no permission to read")
def _(folder: Path) -> Path:
    path = write(folder / "forbidden.wav", voice())
    path.chmod(0)
    return path


@row("folder named `x.wav`")
def _(folder: Path) -> Path:
    (folder / "x.wav").mkdir()
    return folder / "x.wav"


@row("missing file")
def _(folder: Path) -> Path:
    return folder / "missing.wav"


@row("file name that is not UTF-8")
def _(folder: Path) -> Path:
    return write(folder / "ascii.wav", voice()).rename(folder / os.fsdecode(b"\xff.wav"))


@row("path listed twice")
def _(folder: Path) -> Path:
    return write(folder / "twice.wav", voice())


BAD = [name for name, rule in RULES.items() if rule.train == "cannot be used"]
GOOD = [name for name, rule in RULES.items() if rule.train == "used"]
PREPARED = [name for name in GOOD if RULES[name].prepare == "used"]


def paths_of(name: str, path: Path) -> list[Path]:
    return [path, path] if name == "path listed twice" else [path]


def run(*arguments: object) -> tuple[int, list[str], list[str]]:
    """Exit code, and the lines of stdout and stderr."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        code = main([str(argument) for argument in arguments])
    lines = []
    for stream in streams:
        stream.flush()
        lines.append(stream.buffer.getvalue().decode().splitlines())
    return code, *lines


def printed(path: Path) -> str:
    """A path as the command line prints it."""
    return str(path).encode(errors="backslashreplace").decode()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The input of each row."""
    folder = tmp_path_factory.mktemp("inputs")
    made = {}
    for number, (name, maker) in enumerate(MAKERS.items()):
        (folder / str(number)).mkdir()
        made[name] = maker(folder / str(number))
    with pytest.MonkeyPatch.context() as patch:
        if os.access(made["no permission to read"], os.R_OK):  # the superuser may read everything
            opened = Path.open

            def refuse(path: Path, *arguments: object, **options: object) -> object:
                if path.name == "forbidden.wav":
                    raise PermissionError(13, "Permission denied", str(path))
                return opened(path, *arguments, **options)

            patch.setattr(Path, "open", refuse)
        yield made


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, str]]:
    """Path, label and speaker of twelve usable recordings."""
    folder = tmp_path_factory.mktemp("good")
    rows = []
    for speaker in ("ann", "bob", "cy"):
        for take in range(4):
            path = write_tone(folder / f"{speaker}{take}.wav", 0.3, 300.0 + 500.0 * (take % 2))
            rows.append((str(path), ("calm", "tense")[take % 2], speaker))
    return rows


def manifest_config(folder: Path, good: list[tuple[str, str, str]], bad: list[Path]) -> Config:
    """One epoch over a manifest of the good recordings, and of the others as Ann's."""
    rows = [("path", "label", "speaker"), *good, *((str(path), "calm", "ann") for path in bad)]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    (folder / "manifest.csv").write_bytes(os.fsencode(text.getvalue()))
    config = tiny_config(folder)
    return replace(
        config,
        corpus=CorpusConfig("manifest", manifest=str(folder / "manifest.csv")),
        training=replace(config.training, epochs=1),
    )


def test_every_row_has_a_test_and_every_test_a_row() -> None:
    assert list(RULES) == list(MAKERS)
    assert {word for rule in RULES.values() for word in rule[:2]} == {"used", "cannot be used", "stops"}
    assert [name for name, rule in RULES.items() if rule.prepare == "cannot be used"] == BAD
    assert {rule.predict for rule in RULES.values()} == {"used", "error"}


@pytest.mark.parametrize("name", RULES)
def test_reading(name: str, inputs: dict[str, Path]) -> None:
    rule, path = RULES[name], inputs[name]
    if rule.train == "cannot be used":
        with pytest.raises(AudioError) as caught:
            read_audio(path, 16_000, longest=60.0)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
        assert rule.train_message.search(str(caught.value))
    else:
        samples = read_audio(path, 16_000, longest=60.0)
        expected = voice()
        assert abs(len(samples) - len(expected)) <= 1
        inner = slice(1_000, -1_000)  # resampling sees silence at the ends
        np.testing.assert_allclose(samples[: len(expected)][inner], expected[inner], atol=0.01)


@pytest.mark.parametrize("name", BAD)
def test_training_stops_before_anything_is_written(
    name: str, inputs: dict[str, Path], good: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    config = write_config(tmp_path / "config.py", manifest_config(tmp_path, good, [inputs[name]]))
    code, out, err = run("train", config, "--workdir", tmp_path / "run")
    assert (code, out, len(err)) == (2, [], 2), err
    assert err[0].startswith(f"{inputs[name]}: ")
    assert RULES[name].train_message.search(err[0])
    assert err[1].startswith("dslstm train: 1 of 13 recordings cannot be used; ")
    assert "--data.on-error skip" in err[1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", GOOD)
def test_training_takes_it(
    name: str, inputs: dict[str, Path], good: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    config = manifest_config(tmp_path, good, [inputs[name]])
    assert config.data.on_error == "stop"
    dataset = make_dataset(load_corpus(config.corpus), config)
    assert str(inputs[name]) in [utterance.path for utterance in dataset.corpus.utterances]


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.train == "stops"])
def test_a_mistake_in_the_manifest_stops(
    name: str, on_error: str, inputs: dict[str, Path], good: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    listed = manifest_config(tmp_path, good, paths_of(name, inputs[name]))
    config = write_config(tmp_path / "config.py", listed)
    code, out, err = run("train", config, "--workdir", tmp_path / "run", "--data.on-error", on_error)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith(f"dslstm train: {tmp_path / 'manifest.csv'}, line 15: column 'path': ")
    assert RULES[name].train_message.search(err[0])
    assert not (tmp_path / "run").exists()


def prepare(config: Config, output: Path, *flags: str) -> tuple[int, list[str], list[str]]:
    table = str(config.corpus.manifest)
    return run("prepare", "--corpus.name", "manifest", "--corpus.manifest", table, "--output", output, *flags)


@pytest.mark.parametrize("name", BAD)
def test_preparing_stops_before_records_appear(
    name: str, inputs: dict[str, Path], good: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    code, out, err = prepare(manifest_config(tmp_path, good, [inputs[name]]), tmp_path / "records")
    assert (code, out, len(err)) == (2, [], 2), err
    assert err[0].startswith(f"{inputs[name]}: ")
    assert RULES[name].train_message.search(err[0])
    assert err[1].startswith("dslstm prepare: 1 of 13 recordings cannot be used; ")
    assert list((tmp_path / "records").glob("[!.]*")) == []


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.prepare == "stops"])
def test_preparing_stops_in_any_case(
    name: str, on_error: str, inputs: dict[str, Path], good: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    config = manifest_config(tmp_path, good, paths_of(name, inputs[name]))
    code, out, err = prepare(config, tmp_path / "records", "--on-error", on_error)
    assert (code, out, len(err)) == (2, [], 1)
    assert RULES[name].train_message.search(err[0])
    assert not (tmp_path / "records").exists()


def test_preparing_can_skip(inputs: dict[str, Path], good: list[tuple[str, str, str]], tmp_path: Path) -> None:
    config = manifest_config(tmp_path, good, [inputs[name] for name in (*BAD, *PREPARED)])
    code, out, err = prepare(config, tmp_path / "records", "--on-error", "skip")
    assert code == 1
    assert len(err) == len(BAD)
    for name in BAD:
        (line,) = (line for line in err if line.startswith(f"{inputs[name]}: "))
        assert RULES[name].train_message.search(line)
    folder = next(line for line in out if line.startswith("records: ")).removeprefix("records: ")
    prepared = [Path(utterance.path).name for utterance in load_corpus(CorpusConfig("records", folder)).utterances]
    assert sorted(prepared) == sorted(
        [Path(path).name for path, _, _ in good] + [inputs[name].name for name in PREPARED]
    )


class Finished(NamedTuple):
    """A run that went on without the bad recordings."""

    err: list[str]
    folder: Path
    utterances: list[str]


@pytest.fixture(scope="module")
def skipping(
    tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Path], good: list[tuple[str, str, str]]
) -> Finished:
    """Trained on all inputs, from a folder whose name is not UTF-8."""
    folder = tmp_path_factory.mktemp("skipping")
    listing = folder / os.fsdecode(b"\xff")
    listing.mkdir()
    config = manifest_config(listing, good, [inputs[name] for name in (*BAD, *GOOD)])
    file = write_config(folder / "config.py", config)
    code, _, err = run("train", file, "--workdir", folder / "run", "--data.on-error", "skip")
    assert code == 0, err
    folds = json.loads((folder / "run" / "folds.json").read_text(encoding="utf-8"))
    return Finished(err, folder / "run", [path for side in folds.values() for path in side["utterances"]])


@pytest.mark.parametrize("name", [*BAD, *GOOD])
def test_skipping_names_what_it_leaves_out(name: str, skipping: Finished, inputs: dict[str, Path]) -> None:
    path = inputs[name]
    lines = [line for line in skipping.err if line.startswith(f"{printed(path)}: ")]
    if name in BAD:
        assert len(lines) == 1
        assert RULES[name].train_message.search(lines[0])
        assert str(path) not in skipping.utterances
    else:
        assert lines == []
        assert str(path) in skipping.utterances


def test_skipping_trains_on_all_the_others(skipping: Finished, good: list[tuple[str, str, str]]) -> None:
    assert len(skipping.err) == len(BAD)
    assert len(skipping.utterances) == len(good) + len(GOOD)
    assert (skipping.folder / "report" / "report.md").is_file()


def test_a_run_over_names_that_are_not_utf_8_can_be_evaluated(skipping: Finished) -> None:
    code, out, _ = run("evaluate", skipping.folder, "--split", "train", "--json")
    assert code == 0
    assert json.loads(out[0])["utterances"] > 0


class Answers(NamedTuple):
    """What `dslstm predict --format json` said about all inputs together."""

    code: int
    rows: list[dict[str, object]]
    err: list[str]


@pytest.fixture(scope="module")
def answers(trained: Path, inputs: dict[str, Path]) -> Answers:
    paths = [path for name in RULES for path in paths_of(name, inputs[name])]
    code, out, err = run("predict", "--model", trained, "--format", "json", *paths)
    return Answers(code, [json.loads(line) for line in out], err)


@pytest.mark.parametrize("name", RULES)
def test_prediction(name: str, answers: Answers, inputs: dict[str, Path]) -> None:
    rule, path = RULES[name], inputs[name]
    rows = [found for found in answers.rows if found["path"] == str(path)]
    lines = [line for line in answers.err if line.startswith(f"dslstm predict: {printed(path)}: ")]
    assert len(rows) == len(paths_of(name, path))
    if rule.predict == "error":
        assert len(lines) == 1
        assert rule.predict_message.search(lines[0])
        assert set(rows[0]) == {"path", "error"}
        assert rule.predict_message.search(str(rows[0]["error"]))
    else:
        assert lines == []
        for found in rows:
            assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)
            assert math.isfinite(found["duration_seconds"])


def test_prediction_answers_all_others_and_says_that_some_failed(answers: Answers) -> None:
    errors = sum(rule.predict == "error" for rule in RULES.values())
    assert answers.code == 1
    assert len(answers.err) == errors
    assert len([row for row in answers.rows if "label" in row]) == len(RULES) - errors + 1  # one is listed twice


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_names_that_are_not_utf_8_survive_every_format(form: str, trained: Path, inputs: dict[str, Path]) -> None:
    path = inputs["file name that is not UTF-8"]
    code, out, err = run("predict", "--model", trained, "--format", form, path)
    assert (code, err) == (0, [])
    assert printed(path) in out[-1]
    assert "\\udcff" in out[-1]
    if form == "json":
        assert json.loads(out[0])["path"] == str(path)

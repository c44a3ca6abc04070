"""The builders of tensorflow-datasets, and `dslstm prepare`: the same bytes whatever happened in between."""

import contextlib
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from rich.console import Console
from test_corpora import tree
from trees import emodb_tree, manifest_tree, ravdess_tree, real_data, tfds_tree, write_table, write_tone

from dslstm_jax.cli import main
from dslstm_jax.config import Config, CorpusConfig, SyntheticConfig
from dslstm_jax.data.corpora import CORPORA, Corpus, load_corpus
from dslstm_jax.data.dataset import make_dataset
from dslstm_jax.data.pipeline import make_loader
from dslstm_jax.data.reading import read_utterance
from dslstm_jax.data.tfds import builders as records
from dslstm_jax.data.tfds import prepare as preparation
from dslstm_jax.data.tfds.builders import BUILDERS, name_utterances
from dslstm_jax.data.tfds.prepare import Prepared, prepare
from dslstm_jax.data.tfds.waveform import tfds
from dslstm_jax.errors import ConfigError, CorpusError, DslstmError, RunError


def make(config: CorpusConfig, output: Path, said: io.StringIO | None = None, **changes: Any) -> Prepared:
    return prepare(config, output, console=Console(file=said or io.StringIO()), **changes)


def prepared(folder: Path) -> Corpus:
    return load_corpus(CorpusConfig("records", root=str(folder)))


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, and no file beside the records'."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert files
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def same_utterances(files: Corpus, stored: Corpus, rate: int = 16_000, atol: float = 0.0) -> None:
    assert stored.labels == files.labels
    assert len(stored.utterances) == len(files.utterances)
    for one, other in zip(files.utterances, stored.utterances, strict=True):
        assert (one.label, one.speaker, one.session) == (other.label, other.speaker, other.session)
        assert other.record is not None
        name = str(Path(other.path).relative_to(other.record.folder))
        assert one.path.endswith(f"/{name}")
        expected, found = read_utterance(one, rate), read_utterance(other, rate)
        assert found.dtype == np.float32
        assert other.record.samples == len(expected)
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_corpus_can_be_prepared(name: str, tmp_path: Path) -> None:
    config = tree(name, tmp_path / "corpus")
    made = make(config, tmp_path / "out")
    assert made.made
    assert made.folder == tmp_path / "out" / f"dslstm_{name}" / "1.0.0"
    assert os.listdir(tmp_path / "out") == [f"dslstm_{name}"]  # noqa: PTH208
    corpus = load_corpus(config)
    assert made.utterances == len(corpus.utterances)
    # 44.1 kHz becomes 16 kHz, which does not come out in whole steps of 16 bits
    same_utterances(corpus, prepared(made.folder), atol=0.501 / 32768 if name == "savee" else 0.0)
    again = make(config, tmp_path / "out")
    assert again == made._replace(made=False)


def test_there_is_a_builder_for_every_corpus() -> None:
    assert BUILDERS.keys() == CORPORA.keys() - {"records"}
    assert all(tfds.builder_cls(f"dslstm_{name}") is builder for name, builder in BUILDERS.items())


def test_training_reads_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same order of utterances, hence the same folds and epochs, and the same samples to the bit."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = str(emodb_tree(tmp_path / "corpus", speakers=("03", "08", "09"), emotions="FNWT"))
    folder = str(make(CorpusConfig("emodb", root=root), tmp_path / "out").folder)
    batches = []
    for corpus in (CorpusConfig("emodb", root=root), CorpusConfig("records", root=folder)):
        config = replace(Config(), corpus=corpus, split=replace(Config().split, protocol="speaker3"))
        dataset = make_dataset(load_corpus(corpus), config)
        loader = make_loader(dataset, dataset.split.train, config, batch_size=3)
        batches.append(list(loader.batches(shuffle=(0, 1))))
    assert len(batches[0]) > 2
    for one, other in zip(*batches, strict=True):
        for expected, found in zip(one, other, strict=True):
            assert expected.dtype == found.dtype
            np.testing.assert_array_equal(expected, found)


@pytest.mark.corpus
def test_emodb_comes_back_to_the_bit(tmp_path: Path) -> None:
    config = CorpusConfig("emodb", root=str(real_data("data/emodb")))
    same_utterances(load_corpus(config), prepared(make(config, tmp_path).folder))


def test_the_builders_serve_tensorflow_datasets(tmp_path: Path) -> None:
    """As its users know it: a name, a manual_dir, splits and slices."""
    root = emodb_tree(tmp_path / "corpus")
    builder = tfds.builder("dslstm_emodb", data_dir=tmp_path / "tfds", sample_rate=8_000)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
    source = tfds.data_source("dslstm_emodb", data_dir=tmp_path / "tfds", split="train")
    assert len(source) == 28
    assert len(builder.as_data_source("train[:25%]")) == 7
    assert builder.info.features["label"].names[:4] == ["happy", "neutral", "angry", "sad"]
    assert builder.info.features["waveform"].sample_rate == 8_000
    examples = {example["name"].decode(): example for example in source}
    example = examples["wav/08b10Wa.wav"]
    assert (example["speaker"], example["session"], example["label"]) == (b"08", b"", 2)
    assert example["waveform"].dtype == np.int16
    assert len(example["waveform"]) == 2_000
    read = prepared(tmp_path / "tfds" / "dslstm_emodb")
    assert {Path(utterance.path).name for utterance in read.utterances} == {Path(name).name for name in examples}
    table = tfds.builder("dslstm_manifest", data_dir=tmp_path / "tfds")
    manual = manifest_tree(tmp_path / "own").parent
    table.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))
    assert {example["session"] for example in table.as_data_source("train")} == {b"1", b"2", b"3"}
    assert "tensorflow" not in sys.modules


def test_names_lie_below_the_root_or_below_what_is_common(tmp_path: Path) -> None:
    def names(config: CorpusConfig) -> list[str]:
        return list(name_utterances(load_corpus(config), config))

    emodb = emodb_tree(tmp_path / "emodb", speakers=("03",), texts=("a01",), emotions="FN")
    assert names(CorpusConfig("emodb", root=str(emodb))) == ["wav/03a01Fa.wav", "wav/03a01Na.wav"]
    assert names(CorpusConfig("emodb", root=str(emodb / "wav"))) == ["03a01Fa.wav", "03a01Na.wav"]
    far = write_tone(tmp_path / "far" / "b.wav")
    near = write_tone(tmp_path / "table" / "sounds" / "a.wav")
    rows = [("path", "label"), ("sounds/a.wav", "x"), (str(far), "y")]
    table = write_table(tmp_path / "table" / "list.csv", rows)
    assert names(CorpusConfig("manifest", manifest=str(table))) == ["far/b.wav", "table/sounds/a.wav"]
    second = write_tone(near.with_name("c.wav"))
    write_table(table, [("path", "label"), ("sounds/a.wav", "x"), (str(second), "y")])
    assert names(CorpusConfig("manifest", manifest=str(table))) == ["sounds/a.wav", "sounds/c.wav"]
    corpus = load_corpus(CorpusConfig("emodb", root=str(emodb)))
    odd = replace(corpus, utterances=(replace(corpus.utterances[0], path="/tmp/\udcff.wav"),))
    with pytest.raises(CorpusError, match="is not UTF-8; records cannot keep it, rename it"):
        name_utterances(odd, CorpusConfig("emodb"))


class Killed(BaseException):
    """Nothing can catch a kill; nothing catches this."""


@pytest.fixture
def ten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CorpusConfig:
    """Ten utterances, decoded in chunks of four."""
    monkeypatch.setattr(preparation, "CHUNK", 4)
    root = emodb_tree(tmp_path / "ten", texts=("a01",), emotions="FNWTL")
    return CorpusConfig("emodb", root=str(root))


def kill_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """From now on that call of owner.name is the last thing that happens."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(1000))

    def dying(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            raise Killed
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, dying)


@pytest.mark.parametrize(
    ("owner", "name", "call", "decoded_again"),
    [
        (preparation, "read_sound", 0, 10),
        (preparation, "read_sound", 5, 6),
        (preparation.np, "savez", 0, 10),
        (preparation.np, "savez", 2, 2),
        (preparation, "_build", 0, 0),
        (records, "_example", 3, 0),
        (records._Writer, "write", 0, 0),
        (preparation, "scan", 0, 0),
        (preparation, "write_text", 0, 0),
        (preparation, "write_json", 0, 0),
        (preparation, "_move", 0, 0),
        (preparation.os, "fsync", 5, 0),
        (preparation.shutil, "rmtree", 1, None),
    ],
)
def test_killed_and_started_again(
    ten: CorpusConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    call: int,
    decoded_again: int | None,
) -> None:
    undisturbed = digests(make(ten, tmp_path / "undisturbed").folder)
    output = tmp_path / "killed"
    with monkeypatch.context() as dying:
        kill_at(dying, owner, name, call)
        with pytest.raises(Killed):
            make(ten, output)
    assert (output / "dslstm_emodb" / "1.0.0").exists() == (decoded_again is None)
    decoded = []
    real = preparation.read_sound
    monkeypatch.setattr(preparation, "read_sound", lambda *given, **named: decoded.append(0) or real(*given, **named))
    made = make(ten, output)
    assert made.made == (decoded_again is not None)
    assert len(decoded) == (decoded_again or 0)
    assert digests(made.folder) == undisturbed
    assert [path.name for path in output.iterdir()] == ["dslstm_emodb"]


def test_changed_recordings_are_read_again(
    ten: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as dying:
        kill_at(dying, preparation, "_build", 0)
        with pytest.raises(Killed):
            make(ten, tmp_path / "out")
    first = Path(load_corpus(ten).utterances[0].path)
    write_tone(first, frequency=3_000.0)
    (tmp_path / "out" / ".prepare-dslstm_emodb" / "chunks" / "00000008.npz").write_bytes(b"damaged")
    same_utterances(load_corpus(ten), prepared(make(ten, tmp_path / "out").folder))
    for change in ({"sample_rate": 8_000}, {"longest": 0.3}):
        with monkeypatch.context() as dying:
            kill_at(dying, preparation, "_build", 0)
            with pytest.raises(Killed):
                make(ten, tmp_path / "other")
        made = make(ten, tmp_path / "other", **change)
        assert prepared(made.folder).utterances[0].record.sample_rate == change.get("sample_rate", 16_000)
        shutil.rmtree(tmp_path / "other")


def test_records_made_anew_are_read_anew(ten: CorpusConfig, tmp_path: Path) -> None:
    same_utterances(load_corpus(ten), prepared(make(ten, tmp_path / "out").folder))
    shutil.rmtree(tmp_path / "out")
    for utterance in load_corpus(ten).utterances:
        write_tone(Path(utterance.path), frequency=3_000.0)
    same_utterances(load_corpus(ten), prepared(make(ten, tmp_path / "out").folder))


def test_two_processes_make_the_same_bytes(ten: CorpusConfig, tmp_path: Path) -> None:
    """protobuf and Python shuffle differently in each process."""
    here = digests(make(ten, tmp_path / "here").folder)
    subprocess.run(command(Path(str(ten.root)), tmp_path / "there"), check=True, capture_output=True)
    assert digests(tmp_path / "there" / "dslstm_emodb" / "1.0.0") == here


def command(root: Path, output: Path) -> list[str]:
    start = [sys.executable, "-m", "dslstm_jax", "prepare"]
    return [*start, "--corpus.name", "emodb", "--corpus.root", str(root), "--output", str(output)]


@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.long)])
def test_kill_9_at_any_moment(tmp_path: Path, kills: int) -> None:
    """Processes die, one in each part of the time that the work takes; the next one always mends it."""
    noise = np.random.default_rng(0)
    root = tmp_path / "corpus"
    root.mkdir()
    for speaker in range(3, 13):
        for text in range(1, 29):
            for emotion in "FNWT":
                samples = noise.uniform(-0.5, 0.5, noise.integers(2_000, 6_000))
                soundfile.write(root / f"{speaker:02}a{text:02}{emotion}a.wav", samples, 16_000, subtype="PCM_16")
    assert len(load_corpus(CorpusConfig("emodb", root=str(root))).utterances) > 4 * records.CHUNK

    def start(output: Path) -> subprocess.Popen[bytes]:
        """Comes back when the work has begun."""
        process = subprocess.Popen(command(root, output), stdout=subprocess.DEVNULL)
        while not (output / ".prepare-dslstm_emodb").exists():
            assert process.poll() is None
            time.sleep(0.002)
        return process

    process = start(tmp_path / "undisturbed")
    began = time.perf_counter()
    assert process.wait() == 0
    takes = time.perf_counter() - began
    undisturbed = digests(tmp_path / "undisturbed" / "dslstm_emodb" / "1.0.0")
    dice = random.Random(0)
    for part in range(kills):
        output, wait = tmp_path / f"killed{part}", (part + dice.random()) / kills * takes
        while True:
            process = start(output)
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            if process.wait() == -signal.SIGKILL:
                break
            wait /= 2  # it had ended: the machine was busier when the whole was timed
            shutil.rmtree(output)
        subprocess.run(command(root, output), check=True, capture_output=True)
        assert digests(output / "dslstm_emodb" / "1.0.0") == undisturbed
        assert [path.name for path in output.iterdir()] == ["dslstm_emodb"]
        shutil.rmtree(output)


@pytest.fixture
def spoilt(ten: CorpusConfig) -> list[Path]:
    """Three of the ten recordings, which cannot be used any more."""
    paths = [Path(load_corpus(ten).utterances[place].path) for place in (0, 5, 9)]
    paths[0].write_bytes(b"")
    paths[1].write_text("no sound")
    soundfile.write(paths[2], np.zeros(1600), 16_000)
    return paths


def test_bad_recordings_are_named_and_nothing_appears(ten: CorpusConfig, spoilt: list[Path], tmp_path: Path) -> None:
    said = io.StringIO()
    with pytest.raises(CorpusError, match=r"3 of 10 recordings cannot be used; .*--on-error skip"):
        make(ten, tmp_path / "out", said)
    lines = said.getvalue().splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(path) for path in spoilt]
    assert not (tmp_path / "out" / "dslstm_emodb").exists()
    for path in spoilt:
        write_tone(path)
    assert make(ten, tmp_path / "out").utterances == 10


def test_bad_recordings_are_left_out_on_demand(ten: CorpusConfig, spoilt: list[Path], tmp_path: Path) -> None:
    said = io.StringIO()
    made = make(ten, tmp_path / "out", said, on_error="skip")
    assert (made.utterances, len(made.errors), len(said.getvalue().splitlines())) == (7, 3, 3)
    stored = {str(Path(utterance.path).relative_to(made.folder)) for utterance in prepared(made.folder).utterances}
    named = name_utterances(load_corpus(ten), ten)
    assert named.keys() - stored == {f"wav/{path.name}" for path in spoilt}
    assert make(ten, tmp_path / "out", on_error="skip") == Prepared(made.folder, 7, (), made=False)
    with pytest.raises(CorpusError, match=r"was made without 3 recordings .*wav/.*--on-error skip"):
        make(ten, tmp_path / "out")
    for utterance in load_corpus(ten).utterances:
        Path(utterance.path).write_bytes(b"")
    with pytest.raises(CorpusError, match="none of the 10 recordings can be used"):
        make(ten, tmp_path / "other", on_error="skip")


def test_missing_recordings_are_named_each_time(tmp_path: Path) -> None:
    """A file that is not there looks the same each time; that does not make its chunk a finished one."""
    table = manifest_tree(tmp_path / "own")
    config = CorpusConfig("manifest", manifest=str(table))
    lost = Path(load_corpus(config).utterances[5].path)
    lost.unlink()
    for _ in range(2):
        said = io.StringIO()
        with pytest.raises(CorpusError, match="1 of 12 recordings"):
            make(config, tmp_path / "out", said)
        assert said.getvalue() == f"{lost}: no such file or directory\n"


def test_too_long_recordings_cannot_be_used(ten: CorpusConfig, tmp_path: Path) -> None:
    write_tone(Path(load_corpus(ten).utterances[3].path), seconds=1.0)
    said = io.StringIO()
    with pytest.raises(CorpusError, match="1 of 10"):
        make(ten, tmp_path / "out", said, longest=0.5)
    assert "1.0 s long, but at most 0.5 s" in said.getvalue()


def test_what_is_there_is_never_replaced(ten: CorpusConfig, tmp_path: Path) -> None:
    output = tmp_path / "out"
    folder = make(ten, output).folder
    before = digests(folder)
    with pytest.raises(CorpusError, match=f"^{folder} was made with sample_rate = 16000, not 8000; delete it or"):
        make(ten, output, sample_rate=8_000)
    with pytest.raises(CorpusError, match=r"was made with longest = 60.0, not 5.0"):
        make(ten, output, longest=5.0)
    with pytest.raises(CorpusError, match=r"was made with labels = \['happy', .*, not \['joy'"):
        make(replace(ten, label_map=("happy=joy",)), output)
    path = Path(load_corpus(ten).utterances[0].path)
    path.rename(path.with_name("03a01Fz.wav"))
    with pytest.raises(CorpusError, match=r"wav/03a01Fa\.wav is label happy, speaker 03, now not there; delete it"):
        make(ten, output)
    path.with_name("03a01Fz.wav").rename(path)
    extra = write_tone(path.with_name("09a01Fa.wav"))
    with pytest.raises(CorpusError, match=r"wav/09a01Fa\.wav is not there, now label happy, speaker 09"):
        make(ten, output)
    extra.unlink()
    (folder / "metadata.json").unlink()
    with pytest.raises(CorpusError, match=f"^{folder} is there already, and not by dslstm prepare; delete it"):
        make(ten, output)
    assert digests(folder) == {name: digest for name, digest in before.items() if name != "metadata.json"}


def test_other_voices_are_another_corpus(tmp_path: Path) -> None:
    config = CorpusConfig("synthetic", root=str(tmp_path / "voices"))
    config = replace(config, synthetic=SyntheticConfig(speakers=2, utterances_per_emotion=1))
    make(config, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"was made with synthetic\.seed = 0, not 1"):
        make(replace(config, synthetic=replace(config.synthetic, seed=1)), tmp_path / "out")


def test_only_one_process_works_in_a_folder(ten: CorpusConfig, tmp_path: Path) -> None:
    with (
        preparation._alone(tmp_path / "out" / ".prepare-dslstm_emodb"),
        pytest.raises(RunError, match=r"another dslstm prepare is at work in .*out/\.prepare-dslstm_emodb"),
    ):
        make(ten, tmp_path / "out")
    assert make(ten, tmp_path / "out").made


@contextlib.contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """A disk that is full: no file can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [2_000, 40_000])
def test_a_full_disk_is_one_clear_error(ten: CorpusConfig, tmp_path: Path, size: int) -> None:
    """First while sound is kept, which takes 33 kB for each four recordings, then in the records' own file."""
    with files_at_most(size), pytest.raises(RunError, match=r"cannot write.*File too large") as caught:
        make(ten, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "dslstm_emodb").exists()
    assert make(ten, tmp_path / "out").utterances == 10


def test_a_place_that_cannot_be_written(ten: CorpusConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot make the folder .*file/out"):
        make(ten, tmp_path / "file" / "out")


def test_what_cannot_be_prepared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"one corpus at a time: give --corpus\.name"):
        make(CorpusConfig(parts=(CorpusConfig("emodb"), CorpusConfig("ravdess"))), tmp_path)
    with pytest.raises(ConfigError, match="corpus 'records' cannot be prepared; those that can are: crema_d, emodb"):
        make(CorpusConfig("records", root=str(tfds_tree(tmp_path))), tmp_path)
    with pytest.raises(CorpusError, match="did you mean 'emodb'"):
        make(CorpusConfig("emobd"), tmp_path)


def test_the_command(ten: CorpusConfig, spoilt: list[Path], tmp_path: Path, capsys: Any) -> None:
    arguments = command(Path(str(ten.root)), tmp_path / "out")[3:]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    *named, last = err.splitlines()
    assert [line.partition(": ")[0] for line in named] == [str(path) for path in spoilt]
    assert last.startswith("dslstm prepare: 3 of 10 recordings cannot be used")
    folder = tmp_path / "out" / "dslstm_emodb" / "1.0.0"
    assert main([*arguments, "--on-error", "skip", "--sample-rate", "8000"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["7 utterances, 3 left out", f"records: {folder}"]
    train = f"train configs/dual_level.py --corpus.name records --corpus.root {folder} --features.sample-rate 8000"
    assert said[2].startswith(f"try: dslstm {train} --workdir ")
    assert main([*arguments, "--on-error", "skip", "--sample-rate", "8000"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "7 utterances; nothing to do"
    assert main(["corpora", "records", "--corpus.root", str(folder), "--output", str(tmp_path / "x.png")]) == 0
    assert "8000 Hz (7)" in capsys.readouterr().out


def test_without_apache_beam_the_mend_is_named(
    ten: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(DslstmError, match=r'--beam-runner needs Apache Beam: pip install "dslstm-jax\[beam\]"'):
        make(ten, tmp_path / "out", beam_runner="DirectRunner")


def test_beam_makes_the_same_records(tmp_path: Path) -> None:
    pytest.importorskip("apache_beam")
    config = CorpusConfig("ravdess", root=str(ravdess_tree(tmp_path / "corpus")))
    alone = make(config, tmp_path / "alone")
    beam = make(config, tmp_path / "beam", beam_runner="DirectRunner")
    assert beam == alone._replace(folder=beam.folder)
    same_utterances(load_corpus(config), prepared(beam.folder))
    assert digests(beam.folder) == digests(alone.folder)  # there is one shard; of several, Beam cuts others
    assert [path.name for path in (tmp_path / "beam").iterdir()] == ["dslstm_ravdess"]


def test_beam_names_bad_recordings(ten: CorpusConfig, spoilt: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("apache_beam")
    said = io.StringIO()
    with pytest.raises(CorpusError, match="3 of 10 recordings cannot be used"):
        make(ten, tmp_path / "out", said, beam_runner="DirectRunner")
    assert [line.partition(": ")[0] for line in said.getvalue().splitlines()] == [str(path) for path in spoilt]
    assert not (tmp_path / "out" / "dslstm_emodb").exists()
    beam = make(ten, tmp_path / "out", on_error="skip", beam_runner="DirectRunner")
    alone = make(ten, tmp_path / "alone", on_error="skip")
    assert (beam.utterances, len(beam.errors)) == (7, 3)
    assert digests(beam.folder) == digests(alone.folder)
    with pytest.raises(ConfigError, match="--beam-runner NoSuchRunner: "):
        make(ten, tmp_path / "other", beam_runner="NoSuchRunner")


def test_metadata_says_what_the_records_were_made_from(ten: CorpusConfig, tmp_path: Path) -> None:
    folder = make(ten, tmp_path / "out").folder
    metadata = json.loads((folder / "metadata.json").read_text())
    labels = ["happy", "neutral", "angry", "sad", "bored"]
    assert metadata == {"sample_rate": 16_000, "longest": 60.0, "labels": labels, "left_out": []}
    info = tfds.builder_from_directory(folder).info
    assert dict(info.metadata) == metadata
    assert info.splits["train"].num_examples == 10
    assert (folder / "LICENSE").read_text() == CORPORA["emodb"].ABOUT.license

"""One file with the whole recognizer: the same answers as the run, by our loader and by the docs' fifteen lines."""

import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from golden_arrays import ROWS
from tiny import MODEL, SPECTROGRAMS, tiny_config

import dslstm_jax
from dslstm_jax.cli import main
from dslstm_jax.config import Config, load_config
from dslstm_jax.data.batches import pad_waveforms
from dslstm_jax.errors import ConfigError, RunError
from dslstm_jax.models.recognizer import initialize
from dslstm_jax.serving.job import job_identity
from dslstm_jax.serving.predictor import Prediction, Predictor, predict

ROOT = Path(__file__).parents[2]
LABELS = ("happy", "neutral", "angry", "sad")


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return dslstm_jax.load(trained)


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.dslstm"
    assert main(["export", str(trained), "--output", str(path)]) == 0
    return path


def noise(rows: int, samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(samples).normal(size=(rows, samples))).astype(np.float32)


def shares(predictions: list[Prediction]) -> np.ndarray:
    return np.array([list(prediction.probabilities.values()) for prediction in predictions])


def code(name: str) -> str:
    """The code block under `<!-- code: NAME -->` of docs/export.md."""
    page = (ROOT / "docs" / "export.md").read_text()
    found = re.search(rf"<!-- code: {name} -->\n```python\n(.*?)```", page, re.DOTALL)
    assert found
    return found[1]


def test_a_file_answers_as_its_run_does(predictor, file, tones):
    loaded = dslstm_jax.load(file)
    assert (loaded.labels, loaded.sample_rate) == (predictor.labels, 16_000)
    assert (loaded.config.features, loaded.config.model) == (predictor.config.features, predictor.config.model)
    samples, rate = soundfile.read(tones / "wav" / "03a01Wa.wav", dtype="int16")
    np.testing.assert_allclose(shares([loaded(samples, rate)]), shares([predictor(samples, rate)]), atol=1e-6)
    recordings = [samples, samples[::-1], samples[:3000]]
    expected = shares(predictor.batch(recordings, rate))
    np.testing.assert_allclose(shares(loaded.batch(recordings, rate)), expected, atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 1e-3, "the recordings do differ"
    missing = tones / "missing.wav"
    found, error = loaded.files([tones / "wav" / "03a01Wa.wav", missing])
    np.testing.assert_allclose(shares([found]), expected[:1], atol=1e-6)
    assert str(error) == f"{missing}: no such file or directory"


def test_it_takes_any_number_of_rows_and_samples(predictor, file):
    program = dslstm_jax.load(file).program
    for rows, samples in [(1, 400), (9, 4_001)]:
        waveforms, lengths = noise(rows, samples), np.full(rows, samples, np.int32)
        lengths[1:] = np.arange(rows - 1) * samples // rows  # one of them 0, a row that is padding
        waveforms[np.arange(samples) >= lengths[:, None]] = np.nan
        expected = predict(predictor.variables, waveforms, lengths, config=predictor.config)
        np.testing.assert_allclose(program(waveforms, lengths), expected, atol=1e-6)


def test_it_computes_what_was_exported_and_not_what_this_version_would(file, monkeypatch):
    monkeypatch.setattr("dslstm_jax.serving.predictor.predict", None)
    assert sum(dslstm_jax.load(file)(noise(1, 16_000)[0], 16_000).probabilities.values()) == pytest.approx(1)


def test_it_cannot_be_differentiated_in_silence(file):
    program = dslstm_jax.load(file).program
    with pytest.raises(ValueError, match="No VJP"):
        jax.grad(lambda waveforms: program(waveforms, np.array([400], np.int32))[0, 0])(noise(1, 400))


def test_the_same_recognizer_makes_the_same_bytes_which_do_not_say_where(predictor, file, tones, tmp_path):
    predictor.export(tmp_path / "again.dslstm")
    assert (tmp_path / "again.dslstm").read_bytes() == file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist() if not name.endswith(".npy"))
    assert b"stablehlo" in content.lower()
    assert str(ROOT).encode() not in content
    assert str(tones).encode() not in content
    assert b"predictor.py" not in content


def test_the_header_says_all_that_a_caller_needs(predictor, file):
    header = json.loads(np.load(file)["header.json"])
    assert header["labels"] == list(LABELS)
    assert header["sample_rate"] == 16_000
    assert header["shortest"] == 400
    assert header["platforms"] == ["cpu", "cuda", "tpu"]
    assert header["versions"].keys() == {"dslstm-jax", "jax", "jaxlib"}
    assert len(header["weights"]) == len(jax.tree.leaves(predictor.variables))


def round_trip(config: Config, path: Path) -> float:
    """The largest difference between the exported program and `predict`."""

    def as_if_trained(place: tuple, leaf: jax.Array) -> jax.Array:
        """Variances as of decibels, and open gates: with fresh weights all recordings sound much alike."""
        factors = {"running_variance": 1000, "gate_scale": 10}
        return leaf * next((factor for name, factor in factors.items() if name in jax.tree_util.keystr(place)), 1)

    variables = jax.tree_util.tree_map_with_path(as_if_trained, initialize(jax.random.key(0), config, 4))
    Predictor(variables, config, LABELS).export(path)
    waveforms, lengths = pad_waveforms([noise(1, 9_000)[0], 0.3 * np.sin(0.1 * np.arange(4_000))], 2, 9_600)
    expected = predict(variables, waveforms, lengths, config=config)
    assert np.ptp(expected, axis=0).max() > 1e-5, "the recordings do differ"
    return float(np.abs(dslstm_jax.load(path).program(waveforms, lengths) - expected).max())


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=pytest.mark.slow if row in ("m_lstm", "dual_level") else pytest.mark.long)
        for row in ROWS
    ],
)
def test_the_rows_of_the_paper_are_exported(row, tmp_path):
    config = load_config(f"{ROOT / 'configs' / 'paper.py'}:{row}")
    small = {512: SPECTROGRAMS[0], 1024: SPECTROGRAMS[1]}
    spectrograms = tuple(small[spectrogram.n_fft] for spectrogram in config.features.spectrograms)
    model = replace(config.model, channels=MODEL.channels, hidden=6, mfcc_hidden=6)
    config = replace(config, features=replace(config.features, spectrograms=spectrograms), model=model)
    assert round_trip(config, tmp_path / "model.dslstm") <= 1e-6


@pytest.mark.long
def test_time_that_is_not_stretched_is_exported(tmp_path):
    spectrograms = tuple(replace(spectrogram, frames=0) for spectrogram in SPECTROGRAMS)
    model = replace(MODEL, normalize="corpus", pooling="attention", recurrent_norm="none", bidirectional=True)
    config = replace(tiny_config("unused"), model=model)
    config = replace(config, features=replace(config.features, spectrograms=spectrograms))
    assert round_trip(config, tmp_path / "model.dslstm") <= 1e-6


@pytest.mark.long
def test_trimming_and_pitch_are_exported(tmp_path):
    config = replace(tiny_config("unused"), model=replace(MODEL, spectrogram_branch="none"))
    config = replace(config, features=replace(config.features, trim=3.0, pitch=True))
    assert round_trip(config, tmp_path / "model.dslstm") <= 1e-6


@pytest.mark.long
def test_bfloat16_is_exported(tmp_path):
    config = replace(tiny_config("unused"), model=replace(MODEL, dtype="bfloat16"))
    assert round_trip(config, tmp_path / "model.dslstm") <= 1e-6


def test_cudnn_is_exported_as_the_scan(predictor, file, tmp_path):
    model = replace(predictor.config.model, lstm_backend="cudnn", remat_every=5)
    config = replace(predictor.config, model=model)
    Predictor(predictor.variables, config, predictor.labels).export(tmp_path / "cudnn.dslstm")
    assert (tmp_path / "cudnn.dslstm").read_bytes() == file.read_bytes()


@pytest.fixture(scope="module")
def other(predictor, tmp_path_factory) -> Path:
    """The file of a network of another kind, of the same classes."""
    config = replace(predictor.config, model=replace(MODEL, spectrogram_branch="none", mfcc_hidden=3))
    path = tmp_path_factory.mktemp("other") / "other.dslstm"
    Predictor(initialize(jax.random.key(1), config, 4), config, LABELS).export(path)
    return path


@pytest.fixture(scope="module")
def both(trained, other) -> Path:
    path = other.parent / "both.dslstm"
    assert main(["export", str(trained), str(other), "--output", str(path)]) == 0
    return path


def test_an_ensemble_answers_by_the_mean_of_its_networks(predictor, trained, other, both):
    recordings = [noise(1, 16_000)[0], noise(1, 9_001)[0]]
    single = [shares(each.batch(recordings, 16_000)) for each in (predictor, dslstm_jax.load(other))]
    assert np.abs(single[0] - single[1]).min(axis=0).max() > 1e-3, "the networks do differ"
    for ensemble in (dslstm_jax.load([trained, other]), dslstm_jax.load(both)):
        np.testing.assert_allclose(shares(ensemble.batch(recordings, 16_000)), np.mean(single, axis=0), atol=1e-6)
        assert len(ensemble.members) == 2
        with pytest.raises(ConfigError, match="an ensemble of 2 networks cannot stream; load one of its runs"):
            ensemble.stream(16_000)
        assert job_identity(ensemble, [], []) != job_identity(predictor, [], [])
    three = dslstm_jax.load([both, other])
    expected = np.average(single, axis=0, weights=[1, 2])
    np.testing.assert_allclose(shares(three.batch(recordings, 16_000)), expected, atol=1e-6)


def test_the_file_of_an_ensemble_is_like_any_other(predictor, both, tmp_path):
    dslstm_jax.load(both).export(tmp_path / "again.dslstm")
    assert (tmp_path / "again.dslstm").read_bytes() == both.read_bytes()
    header = json.loads(np.load(both)["header.json"])
    assert [header["config"]["model"]["spectrogram_branch"], header["others"][0]["model"]["spectrogram_branch"]] == [
        predictor.config.model.spectrogram_branch,
        "none",
    ]
    check_loader(sys.executable, both, tmp_path, BLOCK)


@pytest.mark.parametrize(
    ("labels", "rate", "said"),
    [
        (("sad", *LABELS[:3]), 16_000, f"classes are {', '.join(LABELS)} and sad, happy, neutral, angry"),
        (LABELS, 8_000, "sample rates are 16000 and 8000 Hz"),
    ],
)
def test_what_makes_no_ensemble_is_one_clear_line(capsys, predictor, file, tmp_path, labels, rate, said):
    config = replace(predictor.config, features=replace(predictor.config.features, sample_rate=rate))
    odd = tmp_path / "odd.dslstm"
    Predictor(predictor.variables, config, labels).export(odd)
    assert main(["export", str(file), str(odd), "--output", str(tmp_path / "both.dslstm")]) == 2
    assert capsys.readouterr().err == f"dslstm export: {file} and {odd} cannot be one ensemble: their {said}\n"
    assert not (tmp_path / "both.dslstm").exists()


def test_an_ensemble_of_nothing_is_an_error(capsys, tmp_path):
    with pytest.raises(RunError, match="an ensemble of no runs; name one at least"):
        dslstm_jax.load([])
    assert main(["export", "--output", str(tmp_path / "x.dslstm")]) == 2
    assert "name one at least" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["empty", "text", "archive", "arrays", "truncated"])
def test_a_foreign_file_is_one_clear_error(file, tmp_path, kind):
    path = tmp_path / "model.dslstm"
    if kind == "archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("header.json", "[]")
    elif kind == "arrays":
        with path.open("wb") as stream:
            np.savez(stream, weights=np.zeros(3))
    else:
        content = {"empty": b"", "text": b"no model", "truncated": file.read_bytes()[:-1000]}
        path.write_bytes(content[kind])
    with pytest.raises(RunError, match="damaged, or is no file of dslstm export") as caught:
        dslstm_jax.load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith(f"write it again: dslstm export RUN --output {path}")
    assert "\n" not in message


def test_a_changed_byte_is_found(file, tmp_path):
    content, path = bytearray(file.read_bytes()), tmp_path / "model.dslstm"
    with zipfile.ZipFile(file) as archive:
        ends = [entry.header_offset for entry in archive.infolist()[1:]] + [archive.start_dir]
    for end in ends:  # close to the end of each member's data
        content[end - 10] ^= 1
        path.write_bytes(content)
        with pytest.raises(RunError, match="damaged"):
            dslstm_jax.load(path)
        content[end - 10] ^= 1
    path.write_bytes(content)
    dslstm_jax.load(path)


def test_a_later_format_and_a_missing_file_are_said(file, tmp_path):
    path = tmp_path / "later.dslstm"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w") as new:
        header = json.loads(old.read("header.json")) | {"format": 2}
        new.writestr("header.json", json.dumps(header))
    with pytest.raises(RunError, match=f"^{path} is of format 2, and this dslstm_jax reads 1; update dslstm_jax$"):
        dslstm_jax.load(path)
    with pytest.raises(RunError, match=r"nowhere.dslstm: no such file; make one with dslstm export RUN --output"):
        dslstm_jax.load(tmp_path / "nowhere.dslstm")


def test_the_command_line(capsys, trained, file, tones, tmp_path):
    sound = str(tones / "wav" / "08a01Fa.wav")
    capsys.readouterr()
    answers = []
    for model in (trained, file):
        assert main(["predict", sound, "--model", str(model), "--format", "table"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert main(["export", str(trained), "--output", str(tmp_path / "no" / "folder.dslstm")]) == 2
    assert capsys.readouterr().err.startswith(f"dslstm export: cannot write {tmp_path / 'no' / 'folder.dslstm'}")
    assert main(["export", str(tmp_path / "nowhere"), "--output", str(tmp_path / "x.dslstm")]) == 2
    assert not list(tmp_path.iterdir())


@pytest.fixture
def bundled(file, monkeypatch) -> Path:
    """The file in the place of the package's own."""
    monkeypatch.setattr("dslstm_jax.serving.predictor.BUNDLED", file)
    return file


def test_the_model_of_the_package_answers_where_none_is_named(capsys, bundled, tones):
    sound = str(tones / "wav" / "08a01Fa.wav")
    answer = dslstm_jax.load()(*soundfile.read(sound))
    assert answer == dslstm_jax.load(bundled)(*soundfile.read(sound))
    capsys.readouterr()
    assert main(["predict", sound, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["probabilities"]
    assert found == pytest.approx(answer.probabilities, abs=1e-6)


@pytest.mark.usefixtures("bundled")
def test_the_page_serves_the_model_of_the_package(monkeypatch):
    starlette = pytest.importorskip("starlette.testclient")
    served = []
    monkeypatch.setattr("uvicorn.Server.run", lambda server, **_: served.append(server.config.app))
    assert main(["serve", "--port", "0"]) == 0
    state = starlette.TestClient(served[0]).get("/health").json()
    assert (state["model"], tuple(state["labels"])) == ("pretrained", LABELS)


def test_an_installation_without_a_model_says_how_to_get_one(capsys, tmp_path, monkeypatch):
    missing = tmp_path / "model.dslstm"
    monkeypatch.setattr("dslstm_jax.serving.predictor.BUNDLED", missing)
    with pytest.raises(RunError, match="this installation has no model of its own"):
        dslstm_jax.load()
    for command in (["predict", "x.wav"], ["serve", "--port", "0"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"{missing} is missing): name one, --model RUN or load(RUN), or make it: dslstm train" in error
        assert error.count("\n") == 1


BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("dslstm_jax", "flax", "optax", "orbax", "flatbuffers", "soundfile"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
"""


def check_loader(python: Path | str, file: Path, folder: Path, preamble: str = "") -> None:
    """The code of the docs, run by another Python, gives the probabilities of `dslstm_jax.load`."""
    script = preamble + code("loader") + code("call").replace("model.dslstm", str(file))
    script += 'numpy.savez("found.npz", waveforms=waveforms, lengths=lengths, found=probabilities)\n'
    (folder / "script.py").write_text(script)
    subprocess.run([python, "-P", "script.py"], cwd=folder, check=True, timeout=300)
    waveforms, lengths, found = np.load(folder / "found.npz").values()
    expected = dslstm_jax.load(file).program(waveforms, lengths)
    difference = np.abs(found - expected).max()
    print(f"the loader of the docs differs by {difference:.1e}")
    assert found.shape == (2, 4)
    assert difference <= 1e-6


def test_the_loader_of_the_docs_has_fifteen_lines_and_needs_nothing_of_ours(file, tmp_path):
    assert len([line for line in code("loader").splitlines() if line]) == 15
    check_loader(sys.executable, file, tmp_path, BLOCK)


@pytest.mark.long
def test_the_loader_of_the_docs_needs_jax_alone(file, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", f"jax=={jax.__version__}"]
    if subprocess.run(install, check=False).returncode:
        pytest.skip("pip cannot install jax here (no network?)")
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    names = {entry["name"] for entry in json.loads(listed.stdout)}
    assert names <= {"jax", "jaxlib", "ml_dtypes", "numpy", "opt_einsum", "scipy", "pip", "setuptools"}
    check_loader(python, file, tmp_path)

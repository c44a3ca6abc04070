"""The Python interface: what the commands do, one function does, and gives back as values."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from crossvalidated import crossed
from tiny import read_figures, tiny_config, write_config

import dslstm_jax
from dslstm_jax import api
from dslstm_jax.cli import main
from dslstm_jax.config import ModelConfig
from dslstm_jax.reporting.tables import format_confusion
from dslstm_jax.training.devices import ParallelConfig

SINGLE = ParallelConfig(mode="single")


@pytest.fixture(scope="module")
def config(tones):
    """The MFCC's branch alone for two epochs, which is compiled in a moment."""
    base = tiny_config(tones)
    return replace(
        base,
        model=ModelConfig(spectrogram_branch="none", mfcc_hidden=4, layers=1),
        training=replace(base.training, epochs=2),
    )


@pytest.fixture(scope="module")
def seen():
    """What on_epoch was called with, in the training of `run`."""
    return []


@pytest.fixture(scope="module")
def run(config, seen, tmp_path_factory):
    """What `train` gives."""
    workdir = tmp_path_factory.mktemp("api") / "run"
    return dslstm_jax.train(config, workdir, parallel=SINGLE, on_epoch=seen.append)


def test_what_a_user_types_is_there():
    names = {"Config", "Run", "compare", "crossval", "evaluate", "load", "predict", "train"}
    assert names <= set(dir(dslstm_jax))
    assert names <= set(dslstm_jax.__all__)
    assert all(getattr(dslstm_jax, name) for name in names)
    with pytest.raises(AttributeError, match="no attribute 'tain'"):
        _ = dslstm_jax.tain


def test_a_trained_run_says_what_came_of_it(run, seen, config):
    assert [record["epoch"] for record in seen] == [1, 2]
    assert run.records == seen
    assert run.config == config
    assert run.finished
    assert run.is_main
    assert run.labels == ("happy", "neutral", "angry", "sad")
    assert "UA" in run.report.read_text()


def test_python_and_the_command_train_alike(run, config, tmp_path):
    flags = ["--workdir", str(tmp_path / "run"), "--parallel.mode", "single"]
    assert main(["train", str(write_config(tmp_path / "config.py", config)), *flags]) == 0
    assert read_figures(tmp_path / "run") == read_figures(run.path)


def test_a_run_is_not_overwritten(run, config, tmp_path, monkeypatch):
    """Whether the config is a value or the file that holds it."""
    monkeypatch.setattr(api, "fit", lambda *_, **__: pytest.fail("something was trained"))
    file = write_config(tmp_path / "config.py", config)
    for given in (config, file, f"{file}:config"):
        with pytest.raises(dslstm_jax.RunError, match="holds a run already"):
            dslstm_jax.train(given, run.path, parallel=SINGLE)
    with pytest.raises(dslstm_jax.ConfigError, match=r"missing\.py"):
        dslstm_jax.train(tmp_path / "missing.py", tmp_path / "run")


def test_a_finished_run_is_given_back_at_once(run, config):
    before = read_figures(run.path)
    called = []
    again = dslstm_jax.train(config, run.path, resume=True, parallel=SINGLE, on_epoch=called.append)
    assert (again.path, again.finished, called) == (run.path, True, [])
    assert read_figures(run.path) == before
    changed = replace(config, training=replace(config.training, seed=1))
    with pytest.raises(dslstm_jax.RunError, match=r"training\.seed = 0, not 1"):
        dslstm_jax.train(changed, run.path, resume=True, parallel=SINGLE)


def test_a_run_that_is_told_to_stop_is_given_back_unfinished(config, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "fit", lambda *_, **__: False)
    stopped = dslstm_jax.train(config, tmp_path / "run", parallel=SINGLE)
    assert not stopped.finished
    assert not stopped.report.exists()
    with pytest.raises(dslstm_jax.RunError, match="checkpoint"):
        stopped.predictor()


def test_evaluate_gives_what_the_command_prints(trained, capsys):
    run = dslstm_jax.Run(trained, parallel=SINGLE)
    flags = ["--split", "validation", "--parallel.mode", "single"]
    assert main(["evaluate", str(trained), "--json", *flags]) == 0
    expected = json.loads(capsys.readouterr().out)
    result = run.evaluate("validation")
    assert json.loads(json.dumps(result.to_dict())) == expected
    assert (result.wa, result.ua) == (expected["wa"], expected["ua"])
    assert result.confusion.sum() == result.utterances == len(result.truths) == len(result.probabilities)
    assert main(["evaluate", str(trained), *flags]) == 0
    assert capsys.readouterr().out.startswith(format_confusion(result.confusion, result.labels))


def test_a_side_is_evaluated_once(trained, monkeypatch):
    run = dslstm_jax.Run(trained, parallel=SINGLE)
    asked = []
    monkeypatch.setattr(api, "evaluate_side", lambda *arguments: asked.append(arguments[2]) or object())
    first, other, again = (run.evaluate(side) for side in ("validation", "train", "validation"))
    assert again is first is not other
    assert asked == ["validation", "train"]


def test_evaluate_takes_a_path_or_a_run(trained, run):
    opened = dslstm_jax.evaluate(trained, "validation", parallel=SINGLE)
    assert (opened.split, opened.epoch) == ("validation", dslstm_jax.Run(trained).evaluate("validation").epoch)
    assert dslstm_jax.evaluate(run) is run.evaluate("test")


def test_a_run_predicts_as_load_does(trained):
    sound = np.sin(np.arange(8_000) / 4).astype(np.float32)
    expected = dslstm_jax.load(trained)(sound, 16_000)
    assert dslstm_jax.Run(trained).predictor()(sound, 16_000) == expected


def test_a_run_whose_corpus_changed_is_not_evaluated(trained, tones, tmp_path):
    shutil.copytree(tones, tmp_path / "tones")
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    for file in (copy / "config.json", copy / "folds.json"):
        file.write_text(file.read_text().replace(str(tones), str(tmp_path / "tones")))
    assert len(dslstm_jax.Run(copy).dataset.corpus.utterances) == 48
    next((tmp_path / "tones" / "wav").glob("*.wav")).unlink()
    with pytest.raises(dslstm_jax.RunError, match="changed since the run began"):
        dslstm_jax.Run(copy).evaluate("validation")


def test_crossval_gives_what_results_json_holds(config, tmp_path):
    results = dslstm_jax.crossval(config, tmp_path / "crossed", seeds=1, parallel=SINGLE)
    written = json.loads((tmp_path / "crossed" / "report" / "results.json").read_text())
    assert written == json.loads(json.dumps(results))
    assert len(results["runs"]) == 3
    assert dslstm_jax.compare([tmp_path / "crossed"] * 2).difference().pooled == 0
    with pytest.raises(dslstm_jax.ConfigError, match="seeds is 0"):
        dslstm_jax.crossval(config, tmp_path / "none", seeds=0)


def test_compare_says_what_the_command_prints(tmp_path, capsys):
    paths = [crossed(tmp_path / name, wrong=wrong) for name, wrong in (("one", 3), ("other", 8))]
    comparison = dslstm_jax.compare(paths)
    assert main(["compare", *map(str, paths)]) == 0
    assert capsys.readouterr().out == f"{comparison}\n"
    assert f"{paths[1]} - {paths[0]}" in str(comparison)
    one, other = (run.results["figures"]["ua"]["pooled"] for run in comparison.runs)
    assert comparison.difference().pooled == pytest.approx(other - one)
    assert comparison.difference(1, 0).pooled == pytest.approx(one - other)
    with pytest.raises(dslstm_jax.ConfigError, match="at least two"):
        dslstm_jax.compare(paths[:1])


@pytest.mark.parametrize(("command", "function"), [("train", "train"), ("crossval", "crossval"), ("evaluate", "Run")])
def test_a_command_calls_one_function(command, function, config, tmp_path, monkeypatch, capsys):
    called = []

    def stop(*arguments, **named):
        called.append((*arguments, *named))
        raise dslstm_jax.RunError("that is enough")

    monkeypatch.setattr(api, function, stop)
    file, workdir = str(write_config(tmp_path / "config.py", config)), tmp_path / "run"
    given = [str(workdir)] if command == "evaluate" else [file, "--workdir", str(workdir)]
    assert main([command, *given]) == 2
    assert "that is enough" in capsys.readouterr().err
    [arguments] = called
    assert arguments[:2] == ((workdir, "parallel") if command == "evaluate" else (config, workdir))

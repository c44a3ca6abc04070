"""Cross-validation: every fold and seed, resumable, the same by vmap, and a report with all that it rests on."""

import itertools
import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from sklearn.metrics import confusion_matrix, recall_score
from tiny import tiny_config, write_config
from trees import iemocap_tree

from dslstm_jax.cli import main
from dslstm_jax.config import ModelConfig
from dslstm_jax.data.pipeline import Loader
from dslstm_jax.evaluation.calibration import with_temperature
from dslstm_jax.evaluation.statistics import calibration_error
from dslstm_jax.runs.checkpoint import load_best
from dslstm_jax.runs.folder import open_run

NAMES = [f"fold{fold}_seed{seed}" for fold in range(3) for seed in range(2)]


@pytest.fixture(scope="module")
def config(tones, tmp_path_factory):
    """The MFCC's branch alone, which is compiled in a moment."""
    base = tiny_config(tones)
    base = replace(
        base,
        model=ModelConfig(spectrogram_branch="none", mfcc_hidden=6, layers=1),
        training=replace(base.training, epochs=2),
    )
    return write_config(tmp_path_factory.mktemp("config") / "quick.py", base)


def crossval(config, workdir, *flags):
    arguments = ["--protocol", "speaker3", "--seeds", "2", "--parallel.mode", "single", *flags]
    return main(["crossval", str(config), "--workdir", str(workdir), *arguments])


def results_of(workdir):
    return json.loads((workdir / "report" / "results.json").read_text())


@pytest.fixture(scope="module")
def crossed(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("crossed") / "run"
    assert crossval(config, workdir) == 0
    return workdir


def test_every_fold_and_seed_has_a_run_folder(crossed):
    assert sorted(path.name for path in crossed.glob("fold*")) == NAMES
    for name in NAMES:
        run = open_run(crossed / name)
        assert (run.config.split.fold, run.config.training.seed) == (int(name[4]), int(name[-1]))
        assert run.config.split.seed == 0
        assert {path.name for path in run.report.iterdir()} == {"report.md", "confusion.png", "curves.png"}
    assert {path.name for path in (crossed / "report").iterdir()} == {
        "report.md",
        "results.json",
        "confusion.png",
        "curves.png",
    }


def test_the_figures_are_those_of_the_predictions(crossed):
    results = results_of(crossed)
    predictions, labels = results["predictions"], results["labels"]
    assert sorted(predictions["paths"]) == sorted(set(predictions["paths"]))
    assert len(predictions["paths"]) == 48
    probabilities, folds = np.array(predictions["probabilities"]), np.array(predictions["folds"])
    assert probabilities.shape == (2, 48, 4)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
    truths = np.array([labels.index(truth) for truth in predictions["truths"]])
    answers = probabilities.argmax(axis=-1)

    def ua(seed, rows):
        return recall_score(truths[rows], answers[seed, rows], average="macro", zero_division=0)

    of_runs = np.array([[ua(seed, folds == fold) for seed in range(2)] for fold in range(3)])
    figure = results["figures"]["ua"]
    np.testing.assert_allclose(figure["of_folds"], of_runs.mean(axis=1))
    np.testing.assert_allclose(figure["mean"], of_runs.mean())
    np.testing.assert_allclose(figure["deviation_of_folds"], of_runs.mean(axis=1).std(ddof=1))
    np.testing.assert_allclose(figure["deviation_of_seeds"], of_runs.mean(axis=0).std(ddof=1))
    np.testing.assert_allclose(figure["pooled"], np.mean([ua(seed, folds >= 0) for seed in range(2)]))
    np.testing.assert_array_equal(
        results["confusion"], sum(confusion_matrix(truths, answer, labels=range(4)) for answer in answers)
    )
    for run in results["runs"]:
        assert run["ua"] == pytest.approx(of_runs[run["fold"], run["seed"]])
    for unit in ("utterances", "speakers"):
        low, high = figure["intervals"][unit]
        assert low <= figure["pooled"] <= high
    together = probabilities.mean(axis=0).argmax(axis=-1)
    answers = np.stack([together] * 2)
    of_folds = [ua(0, folds == fold) for fold in range(3)]
    assert results["ensemble"]["name"] == "ensemble of 2 seeds"
    figure = results["ensemble"]["figures"]["ua"]
    np.testing.assert_allclose(figure["of_folds"], of_folds)
    np.testing.assert_allclose(figure["mean"], np.mean(of_folds))
    np.testing.assert_allclose(figure["pooled"], ua(0, folds >= 0))
    assert figure["deviation_of_seeds"] is None
    temperatures = np.array(predictions["temperatures"])
    for run in results["runs"]:
        own = temperatures[run["seed"], folds == run["fold"]]
        np.testing.assert_array_equal(own, run["temperature"])
        of_run = open_run(crossed / f"fold{run['fold']}_seed{run['seed']}")
        assert of_run.read_temperature() == run["temperature"] != 1
    calibrated = with_temperature(probabilities, temperatures)
    for name, seeds in (("calibration_error", probabilities), ("calibrated_error", calibrated)):
        expected = [calibration_error(seed, truths) for seed in seeds]
        assert results[name] == {"mean": pytest.approx(np.mean(expected)), "of_seeds": pytest.approx(expected)}
        expected = calibration_error(seeds.mean(axis=0), truths)
        assert results["ensemble"][name]["mean"] == pytest.approx(expected)
    # dslstm evaluate says the same of a run.
    run = next(run for run in results["runs"] if (run["fold"], run["seed"]) == (1, 1))
    assert run["epoch"] == load_best(open_run(crossed / "fold1_seed1"))[1]
    assert f"| {100 * run['ua']:.1f} % |" in (crossed / "fold1_seed1" / "report" / "report.md").read_text()


def test_the_report_says_what_its_figures_rest_on(crossed):
    report, results = (crossed / "report" / "report.md").read_text(), results_of(crossed)
    for said in (
        "Protocol: speaker3, 3 folds, 2 seeds, epoch chosen by validation UA.",
        "95 % over speakers",
        "| fold 2 | 16 |",
        "Calibration error (ECE, 15 bins): ",
        " with temperature.",
        "Command: `",
        "Commit: ",
        "one by one: ",
    ):
        assert said in report
    tested = [fold["test"]["speakers"] for fold in results["folds"]]
    assert sorted(itertools.chain(*tested)) == ["03", "08", "09", "10", "11", "12"]
    for speakers in tested:
        assert f"| {', '.join(speakers)} |" in report
    assert results["environment"]["packages"]["jax"]
    assert results["throughput"]["utterances"] == 2 * 2 * 3 * 16


def without_session(results):
    return {name: value for name, value in results.items() if name not in ("throughput", "environment")}


def test_a_crossval_killed_after_fold_1_goes_on_and_ends_the_same(config, crossed, tmp_path, monkeypatch, capsys):
    whole = Loader.batches

    def interrupted(loader, shuffle=None, **places):
        for number, batch in enumerate(whole(loader, shuffle, **places)):
            if open_fold2(tmp_path) and shuffle == (0, 2) and number == 1:
                raise KeyboardInterrupt
            yield batch

    def open_fold2(folder):
        return (folder / "run" / "fold2_seed0" / "config.json").exists()

    monkeypatch.setattr(Loader, "batches", interrupted)
    assert crossval(config, tmp_path / "run") == 130
    assert "--resume" in capsys.readouterr().err
    monkeypatch.setattr(Loader, "batches", whole)
    written = (tmp_path / "run" / "fold1_seed1" / "predictions.json").stat().st_mtime_ns
    assert crossval(config, tmp_path / "run") == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert crossval(config, tmp_path / "run", "--resume", "--training.batch-size", "8") == 2
    assert "training.batch_size = 4, not 8" in capsys.readouterr().err
    assert crossval(config, tmp_path / "run", "--resume", "--seeds", "3") == 2
    assert "seeds = 2, not 3" in capsys.readouterr().err
    assert crossval(config, tmp_path / "run", "--resume") == 0
    said = capsys.readouterr().out
    assert "fold2_seed0 (5/6): resumed after epoch 1" in said
    assert "fold1_seed1" not in said
    assert (tmp_path / "run" / "fold1_seed1" / "predictions.json").stat().st_mtime_ns == written
    assert without_session(results_of(tmp_path / "run")) == without_session(results_of(crossed))


@pytest.mark.parametrize("vmap", [pytest.param(False, marks=pytest.mark.long), True])
def test_a_terminated_crossval_saves_and_vmap_ends_as_one_by_one(
    config, crossed, tmp_path, monkeypatch, capsys, vmap
):
    whole = Loader.batches

    def terminated(loader, shuffle=None, **places):
        for number, batch in enumerate(whole(loader, shuffle, **places)):
            if shuffle == (1, 1) and number == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(Loader, "batches", terminated)
    flags = ["--crossval.vmap"] if vmap else []
    assert crossval(config, tmp_path / "run", *flags) == 0
    assert "stopped; resume with: dslstm" in capsys.readouterr().out
    monkeypatch.setattr(Loader, "batches", whole)
    # What the one began the other ends.
    assert crossval(config, tmp_path / "run", "--resume", *(["--crossval.vmap"] if not vmap else [])) == 0
    said = capsys.readouterr().out
    assert ("one by one: " if vmap else "vmap: ") in said
    assert "utterances/s over all runs" in said
    ours, theirs = (
        np.array(results_of(folder)["predictions"]["probabilities"]) for folder in (tmp_path / "run", crossed)
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_shards_share_the_runs_and_the_last_one_reports(config, crossed, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert crossval(config, workdir, "--crossval.shard", "2", "2") == 0
    assert "the last of the 3 runs left to others" in capsys.readouterr().out
    assert sorted(path.name for path in workdir.glob("fold*")) == NAMES[1::2]
    assert not (workdir / "report").exists()
    assert crossval(config, workdir, "--crossval.shard", "1", "2", "--training.batch-size", "8") == 2
    assert "training.batch_size = 4, not 8" in capsys.readouterr().err
    # Runs that another shard is just beginning are not looked at.
    (workdir / NAMES[2]).mkdir()
    (workdir / NAMES[2] / "config.json").write_text("")
    assert crossval(config, workdir, "--crossval.shard", "1", "4") == 0
    shutil.rmtree(workdir / NAMES[2])
    assert crossval(config, workdir, "--crossval.shard", "1", "2") == 0
    said = capsys.readouterr().out
    assert "fold1_seed0 (2/3): epoch 1/2" in said
    assert "report: " in said
    assert without_session(results_of(workdir)) == without_session(results_of(crossed))


def test_a_crossval_begun_before_there_was_a_setting_goes_on(config, crossed, tmp_path):
    shutil.copytree(crossed, tmp_path / "run")
    for file in (tmp_path / "run" / "crossval.json", *(tmp_path / "run").glob("*/config.json")):
        settings = json.loads(file.read_text())
        del settings["training"]["schedule"]
        file.write_text(json.dumps(settings))
    for file in (tmp_path / "run").glob("*/predictions.json"):
        predictions = json.loads(file.read_text())
        del predictions["temperature"]
        file.write_text(json.dumps(predictions))
    assert crossval(config, tmp_path / "run", "--resume") == 0
    results = results_of(tmp_path / "run")
    np.testing.assert_allclose(results["calibrated_error"]["of_seeds"], results["calibration_error"]["of_seeds"])
    assert results["calibration_error"] == results_of(crossed)["calibration_error"]


def test_a_folder_that_version_0_1_0_began_goes_on(config, crossed, tmp_path):
    shutil.copytree(crossed, tmp_path / "run")
    constants = {
        ("augmentation", "noise_snr"): [10.0, 30.0],
        ("features", "mfcc", "lifter"): 22,
        ("model", "unroll"): 1,
        ("training", "evaluation_batch_size"): 5,
        ("corpus", "roots"): [],
        ("corpus", "label_column"): "label",
    }
    for file in (tmp_path / "run" / "crossval.json", *(tmp_path / "run").glob("*/config.json")):
        values = json.loads(file.read_text())
        del values["corpus"]["parts"], values["corpus"]["columns"]
        for (*rooms, name), value in constants.items():
            part = values
            for room in rooms:
                part = part[room]
            part[name] = value
        file.write_text(json.dumps(values))
    assert crossval(config, tmp_path / "run", "--resume") == 0
    assert results_of(tmp_path / "run")["figures"] == results_of(crossed)["figures"]


def test_the_last_epoch_can_be_chosen(config, crossed, tmp_path):
    shutil.copytree(crossed, tmp_path / "run")
    assert crossval(config, tmp_path / "other", "--training.choose", "last", "--seeds", "1") == 0
    results = results_of(tmp_path / "other")
    assert {run["epoch"] for run in results["runs"]} == {2}
    assert results["chosen"] == "last epoch"
    report = (tmp_path / "other" / "fold0_seed0" / "report" / "report.md").read_text()
    assert "last epoch" in report
    assert "validation UA" not in report


def test_nothing_need_be_held_back_for_validation(config, crossed, tmp_path, capsys):
    free = ("--split.no-validation", "--seeds", "1")
    assert crossval(config, tmp_path / "run", *free) == 2
    assert "set training.choose to last" in capsys.readouterr().err
    assert crossval(config, tmp_path / "run", *free, "--training.choose", "last") == 0
    assert "validation loss" not in capsys.readouterr().out
    ours, theirs = results_of(tmp_path / "run"), results_of(crossed)
    assert ours["chosen"] == "last epoch, nothing held back for validation"
    for own, other in zip(ours["folds"], theirs["folds"], strict=True):
        assert own["validation"]["utterances"] == 0
        assert own["train"]["utterances"] == other["train"]["utterances"] + other["validation"]["utterances"] == 32
        assert own["test"] == other["test"]
    assert ours["calibrated_error"]["mean"] == pytest.approx(ours["calibration_error"]["mean"])
    report = (tmp_path / "run" / "report" / "report.md").read_text()
    assert "No temperature." in report
    assert "with temperature" not in report
    run = open_run(tmp_path / "run" / "fold0_seed0")
    assert not run.calibration.exists()
    assert all("train_ua" in record and "validation_ua" not in record for record in run.read_records())
    assert load_best(run)[1] == 2
    assert main(["evaluate", str(run.path), "--split", "validation"]) != 0
    assert "held nothing back for validation" in capsys.readouterr().err
    assert crossval(config, tmp_path / "vmap", *free, "--training.choose", "last", "--crossval.vmap") == 0
    together = results_of(tmp_path / "vmap")["predictions"]["probabilities"]
    np.testing.assert_allclose(together, ours["predictions"]["probabilities"], atol=2e-3)


def test_where_the_test_chooses_it_is_called_peeking_everywhere(config, tmp_path, capsys):
    flags = ["--training.choose", "test-best", "--seeds", "1", "--training.epochs", "3"]
    assert crossval(config, tmp_path / "run", *flags) == 0
    peeking = "peeking: test chooses the epoch"
    assert all(peeking in line for line in capsys.readouterr().out.splitlines() if "test WA" in line)
    for report in tmp_path.glob("run/**/report.md"):
        assert peeking in report.read_text()
    for run in results_of(tmp_path / "run")["runs"]:
        folder = open_run(tmp_path / "run" / f"fold{run['fold']}_seed0")
        rows = folder.read_records()
        best = max(rows, key=lambda row: (row["test_ua"], row["epoch"]))
        assert (run["epoch"], run["ua"]) == (best["epoch"], pytest.approx(best["test_ua"]))


def test_mistakes_are_one_line_each(config, crossed, tmp_path, capsys):
    for flags, said in [
        (["--seeds", "0"], "seeds is 0"),
        (["--protocol", "speaker9"], "speaker6"),
        (["--crossval.vmap", "--parallel.mode", "pmap"], "--parallel.mode single"),
        (["--crossval.shard", "3", "2"], "crossval.shard is 3 2"),
        (["--crossval.shard", "0", "2"], "crossval.shard is 0 2"),
    ]:
        assert crossval(config, tmp_path / "run", *flags) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert said in lines[0]
    assert crossval(config, crossed / "fold0_seed0") == 2
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.slow
def test_iemocap_by_session_is_one_command(tmp_path, monkeypatch, capsys):
    turns = [
        (f"Ses0{session}F_impro01_{speaker}{number:03d}", label)
        for session in range(1, 6)
        for speaker in "FM"
        for number, label in enumerate(("neu", "hap", "ang", "sad"))
    ]
    root = iemocap_tree(tmp_path / "IEMOCAP_full_release", turns)
    generator = np.random.default_rng(0)
    for path in root.rglob("Ses*_[FM][0-9]*.wav"):
        path.unlink()  # a hard link
        soundfile.write(path, 0.1 * generator.standard_normal(generator.integers(5000, 8000)), 16_000)
    monkeypatch.chdir(tmp_path)
    rows = __file__.replace("tests/evaluation/test_crossval.py", "configs/paper.py:dual_level")
    command = ["crossval", rows, "--corpus.name", "iemocap", "--protocol", "session", "--corpus.root", str(root)]
    tiny = "--seeds 1 --model.channels 2 2 --model.hidden 4 --model.mfcc-hidden 4 --training.epochs 1"
    assert main([*command, *tiny.split(), "--data.max-padding", "1", "--parallel.mode", "single"]) == 0
    results = results_of(tmp_path / "runs" / "crossval-iemocap-session")
    assert [fold["test"]["speakers"] for fold in results["folds"]] == [
        [f"Ses0{session}F", f"Ses0{session}M"] for session in range(1, 6)
    ]
    assert np.array(results["predictions"]["probabilities"]).shape == (1, 40, 4)
    assert "session, 5 folds, 1 seed, epoch chosen by validation UA" in capsys.readouterr().out

"""refit: the selection is a run as any other, and what is refitted is what one would train by hand for so long."""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace

import jax
import numpy as np
import pytest
from tiny import read_figures, tiny_config, write_config

from dslstm_jax.cli import main
from dslstm_jax.config import ModelConfig
from dslstm_jax.data.pipeline import Loader
from dslstm_jax.evaluation import crossval as crossval_module
from dslstm_jax.evaluation.crossval import read_curves
from dslstm_jax.runs.checkpoint import load_best
from dslstm_jax.runs.folder import open_run
from dslstm_jax.util.progress import progress_bar

EPOCHS = 6
PROTOCOL = ["--protocol", "speaker3", "--parallel.mode", "single"]


@pytest.fixture(scope="module")
def config(tones, tmp_path_factory):
    """Compiled in a moment, with a schedule that depends on how many epochs there are, and a learning rate so high
    that the best epoch is not always the last one."""
    base = tiny_config(tones)
    base = replace(
        base,
        model=ModelConfig(spectrogram_branch="none", mfcc_hidden=4, layers=1),
        training=replace(
            base.training, epochs=EPOCHS, schedule="cosine", learning_rate=0.3, warmup=3.0, choose_over=2
        ),
    )
    return write_config(tmp_path_factory.mktemp("config") / "quick.py", base)


def train(config, workdir, *flags):
    assert main(["train", str(config), "--workdir", str(workdir), "--parallel.mode", "single", *flags]) == 0
    return open_run(workdir)


@pytest.fixture(scope="module")
def refitted(config, tmp_path_factory):
    return train(config, tmp_path_factory.mktemp("refit") / "run", "--training.choose", "refit")


def assert_same_end(run, other):
    assert read_figures(run.path) == read_figures(other.path)
    found, expected = load_best(run), load_best(other)
    jax.tree.map(np.testing.assert_array_equal, found[0], expected[0])
    assert found[1] == expected[1]


def test_it_ends_as_both_runs_do_by_hand(config, refitted, tmp_path):
    chooser = train(config, tmp_path / "chooser")
    assert_same_end(refitted.selected_by, chooser)
    epochs = load_best(chooser)[1]
    assert 1 < epochs < EPOCHS, "else this test would not see whether all is shortened"
    flags = ["--training.epochs", str(epochs), "--training.warmup", str(3 * epochs / EPOCHS)]
    by_hand = train(config, tmp_path / "hand", *flags, "--split.no-validation", "--training.choose", "last")
    assert_same_end(refitted, by_hand)
    assert len(refitted.read_records()) == epochs
    # What the temperature was fitted on had not been learned from.
    assert json.loads(refitted.calibration.read_text()) == json.loads(chooser.calibration.read_text())


def test_both_runs_say_what_they_are(refitted, capsys):
    """Ordinary run folders: the second says how long it was trained, and on whom."""
    selection = refitted.selected_by
    assert (selection.config.training.choose, selection.config.training.epochs) == ("validation-best", EPOCHS)
    assert (refitted.config.training.choose, refitted.config.training.epochs) == ("last", load_best(selection)[1])
    assert not refitted.config.split.validation
    before, after = selection.read_folds(), refitted.read_folds()
    assert before["validation"]["utterances"]
    assert not after["validation"]["utterances"]
    assert sorted(after["train"]["utterances"]) == sorted(
        before["train"]["utterances"] + before["validation"]["utterances"]
    )
    assert after["test"] == before["test"]
    chosen = "number of epochs chosen by validation UA, mean of 2 epochs, then trained anew with the validation"
    assert chosen in (refitted.report / "report.md").read_text()
    assert main(["evaluate", str(refitted.path)]) == 0
    assert f"fold 0 of seed 0, 2 unseen speakers, {chosen}" in capsys.readouterr().out
    assert main(["evaluate", str(refitted.path), "--split", "validation"]) == 2
    assert "held nothing back for validation" in capsys.readouterr().err


def test_a_refitted_run_of_an_older_version_still_predicts(refitted, tmp_path, capsys):
    """Its folder said what was asked for, and who would have validated."""
    run = shutil.copytree(refitted.path, tmp_path / "run")
    asked = {"choose": "refit", "epochs": EPOCHS, "warmup": 3.0}
    config = json.loads((run / "config.json").read_text())
    config["training"] |= asked
    config["split"]["validation"] = True
    (run / "config.json").write_text(json.dumps(config))
    shutil.copy(run / "selection" / "folds.json", run / "folds.json")
    assert open_run(run).config == refitted.config
    assert_same_end(open_run(run), refitted)
    assert main(["evaluate", str(run)]) == 2
    assert "refitted by an older version, and can only predict" in capsys.readouterr().err


@pytest.mark.parametrize("stage", [0, 1])
def test_a_run_terminated_in_either_stage_goes_on_there(config, refitted, tmp_path, monkeypatch, capsys, stage):
    whole, seen = Loader.batches, []

    def terminated(loader, shuffle=None, **places):
        if shuffle == (0, 1):
            seen.append(len(loader.members))
        for number, batch in enumerate(whole(loader, shuffle, **places)):
            if shuffle == (0, 2) and number == 1 and len(seen) == stage + 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(Loader, "batches", terminated)
    arguments = ["train", str(config), "--workdir", str(tmp_path / "run"), "--parallel.mode", "single"]
    assert main([*arguments, "--training.choose", "refit"]) == 0
    assert "stopped; resume with" in capsys.readouterr().out
    if stage == 0:
        assert main(["evaluate", str(tmp_path / "run")]) == 2
        assert "--resume it" in capsys.readouterr().err
    assert seen == [16, 32][: stage + 1]
    monkeypatch.setattr(Loader, "batches", whole)
    resumed = train(config, tmp_path / "run", "--training.choose", "refit", "--resume")
    assert f"resumed after epoch {1 if stage == 0 else EPOCHS}" in capsys.readouterr().out
    assert_same_end(resumed, refitted)


def test_another_selection_is_not_gone_on_with(config, refitted, tmp_path, capsys):
    shutil.copytree(refitted.path, tmp_path / "run")
    file = tmp_path / "run" / "selection" / "config.json"
    file.write_text(file.read_text().replace('"learning_rate": 0.3', '"learning_rate": 0.2'))
    arguments = ["train", str(config), "--workdir", str(tmp_path / "run"), "--parallel.mode", "single"]
    assert main([*arguments, "--training.choose", "refit", "--resume"]) == 2
    assert "selection was run with training.learning_rate = 0.2, not 0.3" in capsys.readouterr().err


def test_without_validation_nothing_says_how_many_epochs(config, tmp_path, capsys):
    flags = ["--training.choose", "refit", "--split.no-validation"]
    assert main(["train", str(config), "--workdir", str(tmp_path / "run"), *flags]) == 2
    assert "split.validation is off, and training.choose is refit" in capsys.readouterr().err


def crossval(config, workdir, *flags):
    arguments = [*PROTOCOL, "--seeds", "1", "--training.choose", "refit", *flags]
    assert main(["crossval", str(config), "--workdir", str(workdir), *arguments]) == 0
    return json.loads((workdir / "report" / "results.json").read_text())


def test_a_crossval_refits_every_run_alone_or_together(config, refitted, tmp_path, monkeypatch):
    bars = []

    @contextmanager
    def counted(console, name, steps, done=0):
        bars.append([steps, done])
        with progress_bar(console, name, steps, done) as advance:

            def count(steps=1, name=None):
                bars[-1][1] += steps
                advance(steps, name)

            yield count

    monkeypatch.setattr(crossval_module, "progress_bar", counted)
    alone = crossval(config, tmp_path / "alone")
    assert_same_end(open_run(tmp_path / "alone" / "fold0_seed0"), refitted)
    epochs = [run["epoch"] for run in alone["runs"]]
    assert epochs == [load_best(open_run(tmp_path / "alone" / f"fold{n}_seed0" / "selection"))[1] for n in range(3)]
    assert len(set(epochs)) > 1, "else runs together would all end at once"
    # The curves are of the networks that were validated, all equally long.
    drawn = read_curves(tmp_path / "alone", alone)
    assert [len(records) for records in drawn] == [EPOCHS] * 3
    assert all("validation_ua" in record for records in drawn for record in records)
    report = (tmp_path / "alone" / "report" / "report.md").read_text()
    chosen = (
        "number of epochs chosen by validation UA, mean of 2 epochs, then trained anew with the validation utterances"
    )
    assert f"Protocol: speaker3, 3 folds, 1 seed, {chosen}." in report
    assert "validation side, by the network that had not learned from it." in report
    assert "The curves are of the networks that said how many epochs." in report
    together = crossval(config, tmp_path / "together", "--crossval.vmap")
    assert [run["epoch"] for run in together["runs"]] == epochs
    probabilities = [found["predictions"]["probabilities"] for found in (alone, together)]
    np.testing.assert_allclose(*probabilities, atol=2e-3)
    # Finished runs count in full, also where fewer epochs were chosen; half-done ones by what lies behind.
    shutil.rmtree(tmp_path / "alone" / "fold2_seed0" / "checkpoints")
    (tmp_path / "alone" / "fold2_seed0" / "metrics.jsonl").unlink()
    (tmp_path / "alone" / "fold2_seed0" / "predictions.json").unlink()
    again = crossval(config, tmp_path / "alone", "--resume")
    assert again["predictions"] == alone["predictions"]
    assert [done for _, done in bars] == [steps for steps, _ in bars] == [3 * EPOCHS * (16 + 32)] * 3

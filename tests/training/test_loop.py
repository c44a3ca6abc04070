"""Training: it learns, writes down what it did, and a stopped run ends as one that never was stopped."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console
from tiny import read_figures, tiny_config, write_config

from dslstm_jax.cli import main
from dslstm_jax.config import CorpusConfig, DataConfig, ModelConfig
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.dataset import make_dataset
from dslstm_jax.data.pipeline import Loader
from dslstm_jax.data.splits import describe
from dslstm_jax.errors import RunError
from dslstm_jax.ops.metrics import Totals
from dslstm_jax.runs.folder import create_run
from dslstm_jax.serving.predictor import load
from dslstm_jax.training import loop
from dslstm_jax.training.devices import ParallelConfig
from dslstm_jax.training.parallel import make_parallel
from dslstm_jax.training.totals import add
from dslstm_jax.training.trainer import Trainer, display_on


def assert_same_end(run, other):
    assert read_figures(run) == read_figures(other)
    ours, theirs = load(run).variables, load(other).variables
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_it_learns(trained):
    rows = read_figures(trained)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["train_ua"] > 0.5


def test_the_run_folder_is_complete(trained):
    present = {path.name for path in trained.iterdir()}
    assert present == {
        "calibration.json",
        "checkpoints",
        "config.json",
        "environment.json",
        "folds.json",
        "labels.json",
        "metrics.jsonl",
        "report",
        "tensorboard",
    }
    assert {path.name for path in (trained / "report").iterdir()} == {"report.md", "confusion.png", "curves.png"}
    assert list((trained / "tensorboard").glob("events.out.tfevents.*"))
    assert json.loads((trained / "labels.json").read_text()) == ["happy", "neutral", "angry", "sad"]
    folds = json.loads((trained / "folds.json").read_text())
    speakers = [set(folds[side]["speakers"]) for side in ("train", "validation", "test")]
    assert [len(side) for side in speakers] == [2, 2, 2]
    assert len(set.union(*speakers)) == 6


@pytest.mark.long
def test_a_run_stopped_half_way_and_resumed_ends_the_same(trained, tones, tmp_path, monkeypatch, capsys):
    config = write_config(tmp_path / "tiny.py", tiny_config(tones))
    arguments = ["train", str(config), "--workdir", str(tmp_path / "run")]
    whole = Loader.batches

    def interrupted(loader, shuffle=None, **places):
        for number, batch in enumerate(whole(loader, shuffle, **places)):
            if shuffle == (0, 3) and number == 1:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(Loader, "batches", interrupted)
    assert main(arguments) == 130
    assert len(read_figures(tmp_path / "run")) == 2
    monkeypatch.setattr(Loader, "batches", whole)
    assert main(arguments) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    assert "resumed after epoch 2" in capsys.readouterr().out
    assert_same_end(tmp_path / "run", trained)


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_end(trained, tones, tmp_path):
    config = write_config(tmp_path / "tiny.py", tiny_config(tones))
    run = tmp_path / "run"
    command = [sys.executable, "-m", "dslstm_jax", "train", str(config), "--workdir", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (run / "metrics.jsonl").exists() or len(read_figures(run)) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*command, "--resume"], check=True, stdout=subprocess.DEVNULL)
    assert_same_end(run, trained)


def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_there(tones, tmp_path, monkeypatch, capsys):
    model = ModelConfig(spectrogram_branch="none", mfcc_hidden=4, layers=1)
    config = tiny_config(tones, data=DataConfig(max_padding=0.15), model=model)  # batches of several lengths
    config = write_config(
        tmp_path / "tiny.py", replace(config, training=replace(config.training, epochs=2, checkpoint_every=2))
    )
    assert main(["train", str(config), "--workdir", str(tmp_path / "whole")]) == 0
    whole, started = Loader.batches, []

    def interrupted(loader, shuffle=None, **places):
        started.append((shuffle, places.get("start")))
        for number, batch in enumerate(whole(loader, shuffle, **places)):
            if len(started) == 1 and number == 3:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(Loader, "batches", interrupted)
    arguments = ["train", str(config), "--workdir", str(tmp_path / "run")]
    assert main(arguments) == 130
    capsys.readouterr()
    assert main([*arguments, "--resume"]) == 0
    assert "resumed after epoch 0 and 2 batches" in capsys.readouterr().out
    assert started[1] == ((0, 1), 2)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_a_terminated_run_saves_and_says_how_to_go_on(trained, tones, tmp_path, monkeypatch, capsys):
    config, run = write_config(tmp_path / "tiny.py", tiny_config(tones)), tmp_path / "run"
    arguments = ["train", str(config), "--workdir", str(run)]
    whole = Loader.batches

    def terminated(loader, shuffle=None, **places):
        for number, batch in enumerate(whole(loader, shuffle, **places)):
            if shuffle == (0, 2) and number == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(Loader, "batches", terminated)
    monkeypatch.setattr(sys, "argv", ["dslstm", *arguments])  # which it repeats
    assert main(arguments) == 0
    assert f"stopped; resume with: dslstm train {config} --workdir {run} --resume" in capsys.readouterr().out
    assert len(read_figures(run)) == 1
    monkeypatch.setattr(Loader, "batches", whole)
    assert main([*arguments, "--resume"]) == 0
    assert "resumed after epoch 1 and" in capsys.readouterr().out
    assert_same_end(run, trained)


@pytest.mark.long
def test_twenty_kills_change_nothing(tones, tmp_path, capsys):
    config = tiny_config(tones)
    config = replace(config, training=replace(config.training, epochs=60, checkpoint_every=1))
    path = write_config(tmp_path / "tiny.py", config)
    command = [sys.executable, "-m", "dslstm_jax", "train", str(path), "--workdir"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, stdout=subprocess.DEVNULL)
    run, generator, inside = tmp_path / "run", np.random.default_rng(0), 0
    for kill in range(20):
        resume = ["--resume"] if (run / "config.json").exists() else []
        process = subprocess.Popen([*command, str(run), *resume], stdout=subprocess.PIPE, text=True)
        for line in process.stdout:  # killed at a random moment after the steps have begun, if the run gets there
            if line.startswith(("resumed", "epoch", "4 batches")):
                break
        time.sleep(generator.uniform(0.5, 8.0))
        assert process.poll() is None, f"the run ended before kill {kill}"
        process.kill()
        process.communicate()
        inside += any(run.glob("checkpoints/*.orbax-checkpoint-tmp*"))
    subprocess.run([*command, str(run), "--resume"], check=True, stdout=subprocess.DEVNULL)
    with capsys.disabled():
        print(f"\n20 kills, {inside} of them inside a save")
    assert_same_end(run, tmp_path / "whole")


def test_resuming_with_other_settings_is_refused(trained, tones, tmp_path, capsys):
    config = write_config(tmp_path / "tiny.py", tiny_config(tones))
    flags = ["--resume", "--training.batch-size", "8"]
    assert main(["train", str(config), "--workdir", str(trained), *flags]) == 2
    assert "training.batch_size = 4, not 8" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run(tones, tmp_path, capsys):
    config = write_config(tmp_path / "tiny.py", tiny_config(tones, model=ModelConfig(spectrogram_branch="none")))
    flags = ["--training.learning-rate", "1e38", "--parallel.mode", "single"]
    assert main(["train", str(config), "--workdir", str(tmp_path / "run"), *flags]) == 2
    error = capsys.readouterr().err
    assert re.search(r"not finite in batch \d of epoch \d \(\S+\.wav, .* and 1 more\)", error)
    assert "--training.learning-rate" in error


def test_training_weighs_the_classes_alike_and_validation_does_not(tones, tmp_path):
    """Two emotions are one class: its 8 of 16 utterances weigh 16 / (3 x 8) each, the others 16 / (3 x 4)."""
    config = tiny_config(tones, corpus=CorpusConfig("emodb", str(tones), label_map=("sad=neutral",)))
    config = replace(config, training=replace(config.training, epochs=1, class_weights="balanced"))
    dataset = make_dataset(load_corpus(config.corpus), config)
    labels = dataset.corpus.labels
    run = create_run(tmp_path / "run", config, labels, describe(dataset.corpus.utterances, dataset.split))
    display, single = display_on(Console(quiet=True)), make_parallel(ParallelConfig(mode="single"))
    weights = {"train": {}, "validation": {}}
    with Trainer(run, dataset, single, display, place=lambda batch: batch) as trainer, trainer.epoch() as epoch:
        for side, batches in (("train", epoch.batches()), ("validation", trainer.batches("validation"))):
            for batch in batches:
                for label, weight in zip(batch.labels, batch.weights, strict=True):
                    if weight:
                        weights[side].setdefault(labels[label], set()).add(round(float(weight), 4))
    assert weights["train"] == {"neutral": {0.6667}, "happy": {1.3333}, "angry": {1.3333}}
    assert weights["validation"] == {"neutral": {1}, "happy": {1}, "angry": {1}}


def test_the_loop_reads_like_a_loop():
    """Two nested loops over plain calls: no generator protocol, no caches of programs, and all of it on a screen."""
    source = inspect.getsource(loop)
    assert "yield" not in source
    assert len(inspect.getsource(loop.fit).partition('"""\n    with')[2].splitlines()) <= 60
    for module in Path(loop.__file__).parent.glob("*.py"):
        assert "lru_cache" not in module.read_text() or module.stem == "placement", "which keeps sound, no programs"


def test_totals_add_up():
    def totals(n):
        return Totals(np.float32(n), np.float32(1), np.full((2, 2), n, np.float32))

    result = add(iter([totals(1), totals(2), totals(4)]))
    assert (float(result.loss), float(result.utterances)) == (7, 3)
    np.testing.assert_array_equal(result.confusion, np.full((2, 2), 7))
    with pytest.raises(ValueError, match="no batch"):
        add(iter([]))


def test_a_run_without_a_checkpoint_says_so(tmp_path, tones):
    create_run(tmp_path / "run", tiny_config(tones), ["happy", "sad"], folds={})
    with pytest.raises(RunError, match="holds no checkpoint"):
        load(tmp_path / "run")

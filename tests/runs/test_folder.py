"""The run folder: what it says is read back, and damage is named."""

import json

import pytest
from tiny import tiny_config

from dslstm_jax.errors import DslstmError, RunError
from dslstm_jax.runs.folder import check_resumable, create_run, open_run

FOLDS = {"test": {"speakers": ["03"]}}


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path / "run", tiny_config(tmp_path), ["happy", "sad"], FOLDS)


def test_it_comes_back_as_it_was_written(run):
    assert open_run(run.path) == run
    assert run.read_folds() == FOLDS
    run.write_records([{"epoch": 1, "train_loss": float("nan")}])
    assert run.read_records() == [{"epoch": 1, "train_loss": None}]
    environment = json.loads((run.path / "environment.json").read_text())
    assert {"command", "python", "devices", "packages"} <= environment.keys()
    assert environment["packages"]["jax"]


def test_a_second_run_in_the_same_folder_is_refused(run):
    with pytest.raises(RunError, match="holds a run already"):
        create_run(run.path, run.config, run.labels, FOLDS)


def test_resuming_with_other_data_is_refused(run):
    check_resumable(run, run.config, run.labels, FOLDS)
    with pytest.raises(RunError, match="corpus or its split changed"):
        check_resumable(run, run.config, ["happy", "angry"], FOLDS)
    with pytest.raises(RunError, match="corpus or its split changed"):
        check_resumable(run, run.config, run.labels, {"test": {"speakers": ["08"]}})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", "{", "config.json is damaged"),
        ("config.json", '{"modell": 3}', "config.json: extra fields found"),
        ("labels.json", None, "cannot read .*labels.json"),
        ("labels.json", "[", "labels.json is damaged"),
    ],
)
def test_damage_is_named(run, name, content, said):
    if content is None:
        (run.path / name).unlink()
    else:
        (run.path / name).write_text(content)
    with pytest.raises(DslstmError, match=said) as caught:
        open_run(run.path)
    assert "\n" not in str(caught.value)


def test_the_temperature_is_1_until_there_is_one(run):
    assert run.read_temperature() == 1
    run.calibration.write_text('{"temperature": 2}')
    assert run.read_temperature() == 2


@pytest.mark.parametrize(
    "content", ["", "[1]", "{}", '{"temperature": 0}', '{"temperature": "hot"}', '{"temperature": NaN}']
)
def test_a_damaged_temperature_is_one_clear_error(run, content):
    run.calibration.write_text(content)
    with pytest.raises(RunError, match=r"calibration.json is damaged: ") as caught:
        run.read_temperature()
    assert "\n" not in str(caught.value)

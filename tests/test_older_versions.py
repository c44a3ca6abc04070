"""What 0.1.0 (commit fa28c09) left on disk is used as if it were ours: a run folder and an exported file."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

import dslstm_jax
from dslstm_jax.errors import RunError
from dslstm_jax.training.devices import ParallelConfig

FIXTURES = Path(__file__).parent / "fixtures" / "0.1.0"
ANSWER = {
    "happy": 0.2507607638835907,
    "neutral": 0.25497204065322876,
    "angry": 0.24734853208065033,
    "sad": 0.24691864848136902,
}
"""To 03a01Wa.wav of the tones."""


@pytest.fixture
def run(tmp_path, tones):
    """The run folder; its corpus lies elsewhere here."""
    folder = shutil.copytree(FIXTURES / "run", tmp_path / "run")
    for name in ("config.json", "folds.json"):
        path = folder / name
        path.write_text(path.read_text().replace("TONES", str(tones)))
    return folder


@pytest.mark.parametrize("name", ["run", "model.dslstm"])
def test_it_answers_as_it_did(name, tones):
    predictor = dslstm_jax.load(FIXTURES / name)
    found = predictor(*soundfile.read(tones / "wav" / "03a01Wa.wav"))
    assert found.label == "neutral"
    assert found.probabilities == pytest.approx(ANSWER, abs=1e-5)


def test_the_file_and_the_run_hold_the_same_recognizer():
    run, file = (dslstm_jax.load(FIXTURES / name) for name in ("run", "model.dslstm"))
    assert run.config == file.config
    jax.tree.map(np.testing.assert_array_equal, run.variables, file.variables)


def test_the_run_is_evaluated_and_gone_on_with(run):
    single = ParallelConfig(mode="single")
    evaluated = dslstm_jax.evaluate(run, "validation", parallel=single)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert evaluated.ua == pytest.approx(last["validation_ua"])
    assert evaluated.loss == pytest.approx(last["validation_loss"], rel=1e-5)
    config = dslstm_jax.Run(run).config
    assert dslstm_jax.train(config, run, resume=True, parallel=single).finished
    with pytest.raises(RunError, match="holds a run already"):
        dslstm_jax.train(config, run, parallel=single)

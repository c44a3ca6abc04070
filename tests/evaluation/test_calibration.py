"""Calibration: the temperature that validation asks for, in every answer of the run."""

import json
import math
import shutil

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import dslstm_jax
from dslstm_jax.data.batches import pad_waveforms
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.dataset import make_dataset
from dslstm_jax.evaluation.calibration import (
    COLDEST,
    HOTTEST,
    fit_temperature,
    negative_log_likelihood,
    with_temperature,
)
from dslstm_jax.evaluation.evaluate import evaluate
from dslstm_jax.evaluation.statistics import calibration_error
from dslstm_jax.runs.checkpoint import load_best
from dslstm_jax.runs.folder import open_run
from dslstm_jax.serving.predictor import predict
from dslstm_jax.training.devices import ParallelConfig
from dslstm_jax.training.parallel import make_parallel


def drawn(utterances: int, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and truths that are drawn from them."""
    generator = np.random.default_rng(0)
    logits = sharpness * generator.normal(size=(utterances, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truths = (probabilities.cumsum(axis=1) < generator.uniform(size=(utterances, 1))).sum(axis=1)
    return probabilities, truths


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_was_turned_is_found_again(temperature):
    probabilities, truths = drawn(20_000)
    turned = with_temperature(probabilities, 1 / temperature)
    found = fit_temperature(turned, truths)
    assert found == pytest.approx(temperature, rel=0.03)
    assert calibration_error(with_temperature(turned, found), truths) < 0.015
    if temperature != 1:
        assert calibration_error(turned, truths) > 0.05


def test_no_other_temperature_is_more_likely():
    probabilities, truths = drawn(60)
    targets = (60 * np.eye(4)[truths] + 1) / 64

    def cost(temperature: float) -> float:
        return -np.sum(targets * np.log(with_temperature(probabilities**2, temperature)))

    expected = minimize_scalar(cost, bounds=(COLDEST, HOTTEST), method="bounded", options={"xatol": 1e-6}).x
    assert fit_temperature(probabilities**2, truths) == pytest.approx(expected, abs=1e-4)


def test_few_utterances_that_are_all_right_do_not_make_it_certain():
    truths = np.arange(12) % 4
    probabilities = 0.1 + 0.6 * np.eye(4)[truths]
    answers = with_temperature(probabilities, fit_temperature(probabilities, truths))
    np.testing.assert_allclose(answers[np.arange(12), truths], 13 / 16, rtol=1e-6)


def test_a_temperature_changes_no_emotion_and_divides_all_logits():
    probabilities, truths = drawn(50)
    warm = with_temperature(probabilities, 3.0)
    np.testing.assert_allclose(warm.sum(axis=1), 1)
    np.testing.assert_array_equal(warm.argmax(axis=1), probabilities.argmax(axis=1))
    expected = np.log(probabilities[:, 1:] / probabilities[:, :1]) / 3
    np.testing.assert_allclose(np.log(warm[:, 1:] / warm[:, :1]), expected, atol=1e-12)
    each = with_temperature(probabilities, np.where(truths == 0, 3.0, 1.0))
    np.testing.assert_allclose(each, np.where(truths[:, None] == 0, warm, probabilities))


def test_the_ends_of_what_can_be_fitted():
    assert fit_temperature(np.zeros((0, 4)), np.zeros(0, int)) == 1.0
    certain = np.eye(4, dtype=np.float32)
    assert fit_temperature(certain, np.array([1, 2, 3, 0])) == pytest.approx(HOTTEST)
    faint = 0.25 + 1e-6 * (np.eye(4) - 0.25)
    assert fit_temperature(faint, np.arange(4)) == pytest.approx(COLDEST)
    assert math.isfinite(negative_log_likelihood(certain, np.array([1, 2, 3, 0])))


@pytest.fixture(scope="module")
def validation(trained):
    run = open_run(trained)
    dataset = make_dataset(load_corpus(run.config.corpus), run.config)
    return evaluate(run, dataset, "validation", make_parallel(ParallelConfig()))


def test_a_trained_run_says_what_it_was_calibrated_on(trained, validation):
    found = json.loads((trained / "calibration.json").read_text())
    assert found["temperature"] == pytest.approx(fit_temperature(validation.probabilities, validation.truths))
    assert found["temperature"] != pytest.approx(1, abs=0.05)
    speakers = json.loads((trained / "folds.json").read_text())["validation"]["speakers"]
    assert found["fitted_on"] == f"validation, 16 utterances of speakers {', '.join(speakers)}"
    np.testing.assert_array_equal(
        np.bincount(validation.truths * 4 + validation.probabilities.argmax(axis=1), minlength=16),
        validation.confusion.ravel(),
    )
    after = with_temperature(validation.probabilities, found["temperature"])
    for name, figure in (("nll", negative_log_likelihood), ("calibration_error", calibration_error)):
        assert found[name]["before"] == pytest.approx(figure(validation.probabilities, validation.truths))
        assert found[name]["after"] == pytest.approx(figure(after, validation.truths))
    assert found["nll"]["after"] < found["nll"]["before"]


def test_what_is_loaded_answers_with_the_temperature(trained):
    run = open_run(trained)
    samples = 0.3 * np.sin(0.3 * np.arange(8_000))
    raw = predict(load_best(run)[0], *pad_waveforms([samples], 1, 16_000), config=run.config)
    answer = list(dslstm_jax.load(trained)(samples, 16_000).probabilities.values())
    np.testing.assert_allclose(answer, with_temperature(np.asarray(raw), run.read_temperature())[0], atol=1e-5)
    assert np.abs(answer - np.asarray(raw)[0]).max() > 1e-3


def test_a_run_of_before_there_were_temperatures_is_loaded_as_it_is(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "calibration.json").unlink()
    found = dslstm_jax.load(tmp_path / "run").variables["params"]["mfcc_branch"]["classifier"]["bias"]
    expected = load_best(open_run(trained))[0]["params"]["mfcc_branch"]["classifier"]["bias"]
    np.testing.assert_array_equal(found, expected)

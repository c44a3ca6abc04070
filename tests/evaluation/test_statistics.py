"""Bootstrap, paired tests and calibration error against scikit-learn, SciPy and sums worked by hand."""

import itertools

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score, recall_score

from dslstm_jax.evaluation.statistics import (
    Interval,
    bootstrap,
    by_group,
    calibration_error,
    interval,
    sign_flip_test,
    two_sided,
    unit_matrices,
)
from dslstm_jax.ops.metrics import macro_f1, recalls, unweighted_accuracy, weighted_accuracy


@pytest.fixture
def answers():
    """Truths of 120 utterances, and the predictions of two seeds, of which two in three are right."""
    generator = np.random.default_rng(0)
    truths = generator.integers(0, 3, 120)
    wrong = generator.integers(0, 3, (2, 120))
    return truths, np.where(generator.random((2, 120)) < 0.5, truths, wrong)


def test_figures_of_many_matrices_at_once(answers):
    truths, predictions = answers
    pooled = unit_matrices(truths, predictions, 3).sum(axis=0)
    for seed in range(2):
        given = truths, predictions[seed]
        assert weighted_accuracy(pooled)[seed] == pytest.approx(np.mean(given[0] == given[1]))
        assert unweighted_accuracy(pooled)[seed] == pytest.approx(recall_score(*given, average="macro"))
        assert macro_f1(pooled)[seed] == pytest.approx(f1_score(*given, average="macro"))
        np.testing.assert_allclose(recalls(pooled)[seed], recall_score(*given, average=None))


def test_the_interval_is_scipys(answers):
    truths, predictions = answers
    found = interval(bootstrap(unit_matrices(truths, predictions, 3), weighted_accuracy, resamples=9000)[:, 0])
    correct = (truths == predictions[0]).astype(float)
    expected = scipy_bootstrap(
        (correct,), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_a_bootstrap_over_two_speakers_has_the_three_values_worked_by_hand():
    """One speaker is always right (3 utterances), the other never (1): resamples are one of them twice, or both."""
    matrices = unit_matrices(np.array([0, 0, 0, 1]), np.array([[0, 0, 0, 0]]), 2)
    speakers = by_group(matrices, ["b", "b", "b", "a"])
    assert speakers[:, 0].tolist() == [[[0, 0], [1, 0]], [[3, 0], [0, 0]]]  # a comes before b
    values = bootstrap(speakers, weighted_accuracy, resamples=4000)[:, 0]
    found, counts = np.unique(values, return_counts=True)
    np.testing.assert_allclose(found, [0, 0.75, 1])
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)
    assert interval(values) == Interval(0, 1)


def test_seeds_see_the_same_resamples(answers):
    truths, predictions = answers
    same = bootstrap(unit_matrices(truths, predictions[[0, 0]], 3), unweighted_accuracy, resamples=50)
    np.testing.assert_array_equal(same[:, 0], same[:, 1])
    assert len(np.unique(same)) > 10


def test_p_counts_the_rarer_side_twice():
    assert two_sided(np.arange(1, 100)) == pytest.approx(2 / 100)
    assert two_sided(np.array([-1.0, -1, 1, 1, 1, 1, 1, 1, 1])) == pytest.approx(6 / 10)
    assert two_sided(np.zeros(9)) == 1


def test_signs_are_flipped_exhaustively():
    differences = [0.03, 0.01, 0.04, -0.01, 0.05]
    means = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=5)]
    assert sign_flip_test(differences) == pytest.approx(np.mean([mean >= sum(differences) - 1e-12 for mean in means]))
    assert sign_flip_test([0.1]) == 1


def test_the_calibration_error_is_the_weighted_gap_of_scikit_learns_curve():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(4), 400)
    truths = generator.integers(0, 4, 400)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truths
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=15)
    counts = np.histogram(confidence, bins=15, range=(0, 1))[0]
    expected = np.dot(counts[counts > 0] / 400, np.abs(accuracy - mean_confidence))
    assert calibration_error(probabilities, truths) == pytest.approx(expected)
    sure = np.eye(4)[truths]
    assert calibration_error(sure, truths) == 0
    assert calibration_error(sure, (truths + 1) % 4) == 1

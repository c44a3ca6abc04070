import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dslstm_jax.ops.metrics import (
    confusion_matrix,
    macro_f1,
    recalls,
    unweighted_accuracy,
    weighted_accuracy,
)

FIGURES = (weighted_accuracy, unweighted_accuracy, recalls, macro_f1)

# Ten utterances of three classes, worked by hand: recalls 3/4, 1/2, 1/4; precisions 3/5, 1/4, 1.
MATRIX = np.array([[3.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 2.0, 1.0]])
F1 = (2 * 3 / (4 + 5), 2 * 1 / (2 + 4), 2 * 1 / (4 + 1))


def pairs(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions that make the matrix."""
    truth, prediction = np.indices(matrix.shape)
    times = matrix.astype(int).ravel()
    return truth.ravel().repeat(times), prediction.ravel().repeat(times)


def test_rows_are_the_truth_and_columns_the_prediction() -> None:
    labels, predictions = pairs(MATRIX)
    matrix = confusion_matrix(jnp.array(labels), jnp.array(predictions), jnp.ones(10), 3)
    np.testing.assert_array_equal(matrix, MATRIX)
    assert matrix.dtype == jnp.float32


def test_figures_worked_by_hand() -> None:
    assert weighted_accuracy(MATRIX) == pytest.approx(5 / 10)
    np.testing.assert_allclose(recalls(MATRIX), [3 / 4, 1 / 2, 1 / 4])
    assert unweighted_accuracy(MATRIX) == pytest.approx((3 / 4 + 1 / 2 + 1 / 4) / 3)
    assert macro_f1(MATRIX) == pytest.approx(sum(F1) / 3)


@pytest.mark.parametrize("figure", FIGURES)
def test_numpy_in_float64_out_and_the_same_inside_jit(figure) -> None:
    plain, compiled = figure(MATRIX), jax.jit(figure)(jnp.array(MATRIX, jnp.float32))
    assert np.asarray(plain).dtype == np.float64
    assert isinstance(compiled, jax.Array)
    np.testing.assert_allclose(compiled, plain, rtol=1e-6)
    np.testing.assert_allclose(figure(MATRIX.astype(int)), plain)


def test_padding_may_hold_anything() -> None:
    labels = jnp.array([0, 1, 2, 2, -1, 99, jnp.iinfo(jnp.int32).min, 0])
    logits = jnp.eye(3)[jnp.array([0, 1, 2, 0, 1, 1, 1, 1])].at[4:].set(jnp.nan)
    predictions = jnp.argmax(logits, axis=-1).at[5].set(1000).at[6].set(-7)
    weights = jnp.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    matrix = jax.jit(confusion_matrix, static_argnums=3)(labels, predictions, weights, 3)
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [0, 1, 0], [1, 0, 1]])


def test_a_class_that_does_not_exist_is_not_counted_as_another() -> None:
    matrix = confusion_matrix(jnp.array([-1, 3, 0, 0]), jnp.array([0, 0, -1, 3]), jnp.ones(4), 3)
    np.testing.assert_array_equal(matrix, np.zeros((3, 3)))


def test_matrices_of_batches_add_up_to_the_matrix_of_all() -> None:
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 4, (2, 60))
    weights = rng.integers(0, 2, 60).astype(np.float32)
    whole = confusion_matrix(jnp.array(labels), jnp.array(predictions), jnp.array(weights), 4)
    batches = zip(*(np.split(values, 3) for values in (labels, predictions, weights)), strict=True)
    merged = sum(confusion_matrix(*map(jnp.array, batch), 4) for batch in batches)
    np.testing.assert_array_equal(merged, whole)
    assert whole.sum() == weights.sum()


def test_classes_that_do_not_occur_are_left_out_of_the_means() -> None:
    matrix = np.array([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
    np.testing.assert_array_equal(recalls(matrix), [3 / 4, np.nan, 1])
    assert unweighted_accuracy(matrix) == pytest.approx((3 / 4 + 1) / 2)
    # The second class was predicted once, and wrongly: its F1 is 0 and counts.
    assert macro_f1(matrix) == pytest.approx((6 / 7 + 0 + 1) / 3)
    neither = np.diag([2.0, 0.0, 2.0])
    assert macro_f1(neither) == unweighted_accuracy(neither) == 1.0


@pytest.mark.parametrize("namespace", [np, jnp])
@pytest.mark.parametrize("figure", FIGURES)
def test_an_empty_matrix_has_no_figures(figure, namespace) -> None:
    assert np.isnan(figure(namespace.zeros((3, 3)))).all()


def test_figures_agree_with_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    labels, predictions = np.random.default_rng(1).integers(0, 5, (2, 200))
    labels = np.where(labels == 3, 0, labels)  # one class does not occur
    matrix = np.asarray(confusion_matrix(jnp.array(labels), jnp.array(predictions), jnp.ones(200), 5))
    occurring = sorted(set(labels))
    np.testing.assert_array_equal(matrix, sklearn.confusion_matrix(labels, predictions))
    assert weighted_accuracy(matrix) == pytest.approx(sklearn.accuracy_score(labels, predictions))
    recall = sklearn.recall_score(labels, predictions, average="macro", labels=occurring)
    assert unweighted_accuracy(matrix) == pytest.approx(recall)
    assert macro_f1(matrix) == pytest.approx(sklearn.f1_score(labels, predictions, average="macro"))

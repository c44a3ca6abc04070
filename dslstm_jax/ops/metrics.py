"""One masked confusion matrix, and the figures that come from it.

A matrix counts utterances: rows are the truth, columns the prediction. Matrices of batches, devices and folds are
merged by adding them, and a figure of many, [..., C, C], is [...]. Every function works inside `jit`; given a NumPy
matrix it computes in NumPy (float64).
"""

from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

Matrix = Num[Array, "*S C C"] | Num[np.ndarray, "*S C C"]


class Totals(NamedTuple):
    """Sums over utterances, so that totals of batches simply add up."""

    loss: Float[Array, ""]
    """Weighted in training; the weights of an epoch add up to its utterances."""
    utterances: Float[Array, ""]
    confusion: Float[Array, "C C"]


def confusion_matrix(
    labels: Int[Array, " B"], predictions: Int[Array, " B"], weights: Float[Array, " B"], classes: int
) -> Float[Array, "C C"]:
    """Counts the pairs (truth, prediction) of a batch.

    Args:
      labels: true classes, 0..C-1.
      predictions: predicted classes, 0..C-1.
      weights: 1 for an utterance, 0 for padding, whose label and prediction may then be anything.
      classes: C.

    Returns:
      Sums of weights, [truth, prediction], in the type of `weights` (float32 counts exactly to 16 million). A class
      outside 0..C-1 is counted nowhere.
    """
    empty = jnp.zeros((classes, classes), weights.dtype)
    return empty.at[labels, predictions].add(weights, mode="drop", wrap_negative_indices=False)


def weighted_accuracy(matrix: Matrix) -> Any:
    """WA: the share of utterances that are recognized, in [0, 1]; NaN where nothing was counted."""
    xp = _namespace(matrix)
    return _ratio(xp, xp.sum(_hits(xp, matrix), axis=-1), xp.sum(matrix, axis=(-2, -1)), xp.nan)


def recalls(matrix: Matrix) -> Any:
    """Recall of each class, [..., C], in [0, 1]; NaN for a class that does not occur."""
    xp = _namespace(matrix)
    return _ratio(xp, _hits(xp, matrix), xp.sum(matrix, axis=-1), xp.nan)


def unweighted_accuracy(matrix: Matrix) -> Any:
    """UA: the mean recall of the classes that occur, in [0, 1]; NaN where nothing was counted."""
    xp = _namespace(matrix)
    occurrences = xp.sum(matrix, axis=-1)
    recall = _ratio(xp, _hits(xp, matrix), occurrences, 0)
    return _ratio(xp, xp.sum(recall, axis=-1), xp.sum(occurrences > 0, axis=-1), xp.nan)


def macro_f1(matrix: Matrix) -> Any:
    """Mean F1 of the classes that occur or are predicted, in [0, 1] (scikit-learn's `f1_score(average="macro")`);
    NaN where nothing was counted."""
    xp = _namespace(matrix)
    occurrences_and_predictions = xp.sum(matrix, axis=-1) + xp.sum(matrix, axis=-2)
    f1 = _ratio(xp, 2 * _hits(xp, matrix), occurrences_and_predictions, 0)
    return _ratio(xp, xp.sum(f1, axis=-1), xp.sum(occurrences_and_predictions > 0, axis=-1), xp.nan)


def _hits(xp: ModuleType, matrix: Matrix) -> Any:
    return xp.diagonal(matrix, axis1=-2, axis2=-1)


def _namespace(matrix: Matrix) -> ModuleType:
    """numpy or jax.numpy, whichever the matrix belongs to."""
    namespace: ModuleType = matrix.__array_namespace__()
    return namespace


def _ratio(xp: ModuleType, part: Any, whole: Any, otherwise: float) -> Any:
    """part / whole, or `otherwise` where whole is 0; never divides by 0, so neither warns nor trips a NaN check."""
    whole = whole.astype(part.dtype)
    return xp.where(whole > 0, part / xp.where(whole > 0, whole, 1), otherwise)

"""Cross-validations over the same folds, and paired tests of their difference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dslstm_jax.errors import RunError, first_three
from dslstm_jax.evaluation.results import Predictions, read_results
from dslstm_jax.evaluation.statistics import Interval, bootstrap, interval, sign_flip_test, two_sided
from dslstm_jax.ops.metrics import unweighted_accuracy


class Difference(NamedTuple):
    """UA of the second less that of the first."""

    pooled: float
    intervals: dict[str, tuple[Interval, float]]
    """By what was resampled, utterances or speakers: the 95 % interval and p."""
    p_of_runs: float
    """By flipping the signs of the differences of folds x seeds."""
    runs: int
    """How many such differences there are."""


class Compared(NamedTuple):
    """One cross-validation."""

    path: Path
    results: Mapping[str, Any]
    predictions: Predictions


def read_comparable(paths: Sequence[Path]) -> list[Compared]:
    """The results of cross-validations over the same folds, their utterances in one order.

    Raises:
      RunError: one has none, or their classes, folds or utterances differ; the message says in what.
    """
    found = [_read(path) for path in paths]
    for other in found[1:]:
        if differs := _what_differs(found[0], other):
            raise RunError(f"{found[0].path} and {other.path} cannot be compared: {differs}")
    return found


def _read(path: Path) -> Compared:
    results = read_results(path)
    predictions = Predictions.from_dict(results["labels"], results["predictions"])
    order = sorted(range(len(predictions.paths)), key=lambda row: (predictions.folds[row], predictions.paths[row]))
    return Compared(path, results, predictions.take(order))


def _what_differs(one: Compared, other: Compared) -> str | None:
    """Why they cannot be compared, and what to do about it."""
    ours, theirs = one.predictions, other.predictions
    if ours.labels != theirs.labels:
        return f"their classes are {', '.join(ours.labels)} and {', '.join(theirs.labels)}"
    if differing := sorted(set(ours.paths) ^ set(theirs.paths)):
        return f"only one of them was tested on {first_three(differing)}; run both on the same recordings"
    if ours.paths != theirs.paths or (ours.folds != theirs.folds).any():
        found = [f"{run.results['protocol']} ({len(run.results['folds'])} folds)" for run in (one, other)]
        return f"their folds differ, {' and '.join(found)}; run both with the same --protocol and --split.seed"
    if (ours.truths != theirs.truths).any():
        path = ours.paths[int(np.flatnonzero(ours.truths != theirs.truths)[0])]
        return f"{path} has another label in each; run both on the same labels"
    if _training(one) != _training(other):
        return "the same utterances were tested, but other ones trained on; give both one --protocol"
    return None


def _training(run: Compared) -> list[Any]:
    return [[fold[side]["counts"] for side in ("train", "validation")] for fold in run.results["folds"]]


def paired_difference(one: Predictions, other: Predictions) -> Difference:
    """The difference of two predictors of the same utterances in the same order.

    A resample's UA is the mean over a predictor's seeds; both see the same resamples.
    """
    differences = {
        unit: np.subtract(*(bootstrap(each, unweighted_accuracy).mean(axis=1) for each in (theirs, ours)))
        for (unit, ours), theirs in zip(one.units.items(), other.units.values(), strict=True)
    }
    ours, theirs = (unweighted_accuracy(predictions.by_fold) for predictions in (one, other))
    seeds = min(ours.shape[1], theirs.shape[1])
    paired = (theirs[:, :seeds] - ours[:, :seeds]).ravel()
    pooled = [float(unweighted_accuracy(predictions.matrices.sum(axis=0)).mean()) for predictions in (one, other)]
    return Difference(
        pooled[1] - pooled[0],
        {unit: (interval(values), two_sided(values)) for unit, values in differences.items()},
        sign_flip_test(paired),
        len(paired),
    )

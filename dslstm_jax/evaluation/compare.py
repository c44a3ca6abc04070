"""compare: cross-validations side by side, with paired tests over the same folds."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dslstm_jax.data.corpora.base import first_three
from dslstm_jax.data.summary import align
from dslstm_jax.errors import RunError
from dslstm_jax.evaluation.results import FIGURES, NAMES, Predictions, summarize_ensemble
from dslstm_jax.evaluation.statistics import Interval, bootstrap, interval, sign_flip_test, two_sided
from dslstm_jax.ops.metrics import unweighted_accuracy
from dslstm_jax.reporting.crossval import describe_protocol, read_results
from dslstm_jax.reporting.report import format_mean, format_percent


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
        _check_same(found[0], other)
    return found


def _read(path: Path) -> Compared:
    results = read_results(path)
    predictions = Predictions.from_dict(results["labels"], results["predictions"])
    order = sorted(range(len(predictions.paths)), key=lambda row: (predictions.folds[row], predictions.paths[row]))
    return Compared(path, results, predictions.take(order))


def _check_same(one: Compared, other: Compared) -> None:
    both = f"{one.path} and {other.path} cannot be compared"
    ours, theirs = one.predictions, other.predictions
    if ours.labels != theirs.labels:
        raise RunError(f"{both}: their classes are {', '.join(ours.labels)} and {', '.join(theirs.labels)}")
    differing = sorted(set(ours.paths) ^ set(theirs.paths))
    if differing:
        raise RunError(
            f"{both}: only one of them was tested on {first_three(differing)}; run both on the same recordings"
        )
    if ours.paths != theirs.paths or (ours.folds != theirs.folds).any():
        protocols = " and ".join(
            f"{run.results['protocol']} ({len(run.results['folds'])} folds)" for run in (one, other)
        )
        raise RunError(f"{both}: their folds differ, {protocols}; run both with the same --protocol and --split.seed")
    if (ours.truths != theirs.truths).any():
        path = ours.paths[int(np.flatnonzero(ours.truths != theirs.truths)[0])]
        raise RunError(f"{both}: {path} has another label in each; run both on the same labels")
    if _training(one) != _training(other):
        raise RunError(
            f"{both}: the same utterances were tested, but other ones trained on; give both one --protocol"
        )


def _training(run: Compared) -> list[Any]:
    return [[fold[side]["counts"] for side in ("train", "validation")] for fold in run.results["folds"]]


def compare(one: Predictions, other: Predictions) -> Difference:
    """The difference of two predictors of the same utterances in the same order.

    A resample's UA is the mean over a predictor's seeds; both see the same resamples.
    """
    differences = {
        unit: _mean_ua(bootstrap(theirs, unweighted_accuracy)) - _mean_ua(bootstrap(ours, unweighted_accuracy))
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


def _mean_ua(values: np.ndarray) -> np.ndarray:
    mean: np.ndarray = values.mean(axis=1)
    return mean


def format_comparison(runs: Sequence[Compared]) -> str:
    """Tables of the figures, of each fold's UA, and of all pairs' differences; ensembles beside the runs."""
    names = [str(run.path) for run in runs]
    protocols = [describe_protocol(run.results) for run in runs]
    rows: list[tuple[str, Mapping[str, Any], str]] = []
    for run, name, protocol in zip(runs, names, protocols, strict=True):
        rows.append((name, run.results, protocol))
        ensemble = summarize_ensemble(run.predictions)  # results.json of before there were ensembles has none
        if ensemble:
            rows.append((f"{name}, {ensemble['name']}", ensemble, protocol))
    everyone = runs[0].predictions.beside([run.predictions for run in runs[1:]])
    together = summarize_ensemble(everyone, "networks, those of all runs")
    if together:
        rows.append((together["name"], together, " and ".join(dict.fromkeys(protocols))))
    whole: list[tuple[str, ...]] = [("", *NAMES.values(), "ECE", "protocol")]
    for label, row, protocol in rows:
        figures = [format_mean(row["figures"][figure]) for figure in FIGURES]
        whole.append((label, *figures, format_percent(row["calibration_error"]["mean"]), protocol))
    folds: list[tuple[str, ...]] = [("UA", *names)]
    for number in range(len(runs[0].results["folds"])):
        values = [format_percent(run.results["figures"]["ua"]["of_folds"][number]) for run in runs]
        folds.append((f"fold {number}", *values))
    pairs: list[tuple[str, ...]] = [
        ("difference of pooled UA", "points", "95 % over utterances", "95 % over speakers", "p over folds x seeds")
    ]
    for (one, ours), (other, theirs) in combinations(list(zip(runs, names, strict=True)), 2):
        pair = f"{theirs} - {ours}"
        pairs.append((pair, *_describe_difference(compare(one.predictions, other.predictions))))
        if min(len(run.predictions.probabilities) for run in (one, other)) > 1:
            found = compare(one.predictions.ensemble, other.predictions.ensemble)
            pairs.append((f"{pair}, ensembles", *_describe_difference(found)))
    return "\n\n".join(align(table, left=1) for table in (whole, folds, pairs))


def _describe_difference(found: Difference) -> tuple[str, ...]:
    cells = [_format_interval(found.intervals.get(unit)) for unit in ("utterances", "speakers")]
    return f"{100 * found.pooled:+.1f}", *cells, f"{found.p_of_runs:.3f} ({found.runs} pairs)"


def _format_interval(found: tuple[Interval, float] | None) -> str:
    if found is None:
        return "-"
    (low, high), p = found
    return f"{100 * low:+.1f} to {100 * high:+.1f} (p {p:.3f})"

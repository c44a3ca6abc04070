"""Cross-validations side by side, as tables for a terminal."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from dslstm_jax.evaluation.compare import Compared, Difference, paired_difference
from dslstm_jax.evaluation.results import METRIC_NAMES, METRICS, summarize_ensemble
from dslstm_jax.evaluation.statistics import Interval
from dslstm_jax.reporting.crossval_report import describe_protocol
from dslstm_jax.reporting.tables import align, format_mean, format_percent


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
    whole: list[tuple[str, ...]] = [("", *METRIC_NAMES.values(), "ECE", "protocol")]
    for label, row, protocol in rows:
        figures = [format_mean(row["figures"][metric]) for metric in METRICS]
        whole.append((label, *figures, format_percent(row["calibration_error"]["mean"]), protocol))
    of_folds = zip(*(run.results["figures"]["ua"]["of_folds"] for run in runs), strict=True)
    folds = [("UA", *names)]
    folds += [(f"fold {number}", *map(format_percent, found)) for number, found in enumerate(of_folds)]
    pairs: list[tuple[str, ...]] = [
        ("difference of pooled UA", "points", "95 % over utterances", "95 % over speakers", "p over folds x seeds")
    ]
    for (one, ours), (other, theirs) in combinations(list(zip(runs, names, strict=True)), 2):
        pair = f"{theirs} - {ours}"
        pairs.append((pair, *_describe_difference(paired_difference(one.predictions, other.predictions))))
        if min(len(run.predictions.probabilities) for run in (one, other)) > 1:
            found = paired_difference(one.predictions.ensemble, other.predictions.ensemble)
            pairs.append((f"{pair}, ensembles", *_describe_difference(found)))
    return "\n\n".join(align(table, left=1) for table in (whole, folds, pairs))


def _describe_difference(found: Difference) -> tuple[str, ...]:
    intervals = [_describe_interval(found.intervals.get(unit)) for unit in ("utterances", "speakers")]
    return f"{100 * found.pooled:+.1f}", *intervals, f"{found.p_of_runs:.3f} ({found.runs} pairs)"


def _describe_interval(found: tuple[Interval, float] | None) -> str:
    if found is None:
        return "-"
    (low, high), p = found
    return f"{100 * low:+.1f} to {100 * high:+.1f} (p {p:.3f})"

"""What a cross-validation says to people: report.md with its pictures, beside results.json with all figures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dslstm_jax.evaluation.results import METRIC_NAMES, METRICS, Throughput, save_results
from dslstm_jax.evaluation.statistics import BINS, RESAMPLES
from dslstm_jax.reporting.run_report import draw_confusion, draw_curves
from dslstm_jax.reporting.tables import format_interval, format_mean, format_percent, format_points, markdown_table
from dslstm_jax.runs.provenance import describe_machine
from dslstm_jax.runs.selection import EpochRecord
from dslstm_jax.util.files import make_folder, write_text


def write_results(
    folder: Path, results: Mapping[str, Any], records: Sequence[Sequence[EpochRecord]], *, title: str
) -> None:
    """Writes results.json, report.md, confusion.png and curves.png.

    Args:
      folder: is made.
      results: from `summarize`.
      records: the epochs of every run; the curves are their means.
      title: what was evaluated.

    Raises:
      RunError: a file cannot be written.
    """
    make_folder(folder)
    protocol = describe_protocol(results)
    ua = results["figures"]["ua"]
    counted = f"{protocol}\nmean UA {format_percent(ua['mean'])}; counts are sums over folds and seeds"
    draw_confusion(np.array(results["confusion"]), results["labels"], folder / "confusion.png", f"{title}\n{counted}")
    means = [_mean_record(epoch) for epoch in zip(*records, strict=False)]
    draw_curves(means, folder / "curves.png", f"{title}\n{protocol}, mean over runs")
    save_results(folder, results)
    write_text(folder / "report.md", "\n\n".join([f"# {title}", *_sections(results, protocol)]) + "\n")


def describe_protocol(results: Mapping[str, Any]) -> str:
    """Such as "speaker5, 5 folds, 3 seeds, epoch chosen by validation UA"."""
    folds, seeds = len(results["folds"]), len(results["seeds"])
    many = f"{folds} folds, {seeds} seed{'s' if seeds > 1 else ''}"
    return f"{results['protocol']}, {many}, {results['chosen']}"


def format_summary(results: Mapping[str, Any]) -> str:
    """For a terminal: the figures of the runs, those of their ensemble, and the protocol they came about by."""
    told, ensemble = [("test", results["figures"])], results["ensemble"]
    if ensemble:
        told.append((f"{ensemble['name']}, test", ensemble["figures"]))
    return "\n".join(
        f"{heading} {', '.join(f'{name} {format_mean(figures[metric])}' for metric, name in METRIC_NAMES.items())} "
        f"({describe_protocol(results)})"
        for heading, figures in told
    )


def _mean_record(epoch: Sequence[EpochRecord]) -> EpochRecord:
    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]  # what was not finite is null
        return float(np.mean(known)) if known else None

    return {name: mean([record[name] for record in epoch]) for name in epoch[0]}


def _sections(results: Mapping[str, Any], protocol: str) -> list[str]:
    environment, folds, ensemble = results["environment"], results["folds"], results["ensemble"]
    validated = any(fold["validation"]["utterances"] for fold in folds)
    refitted = results["choose"] == "refit"
    temperature = "No temperature."
    if validated:
        by = ", by the network that had not learned from it" if refitted else ""
        temperature = f"The temperature is fitted on each run's validation side{by}."
    sections = [
        f"Protocol: {protocol}.",
        _figures_table("test of", results["figures"], folds),
        f"A fold's figures are means over the seeds {', '.join(map(str, results['seeds']))}. Pooled: "
        f"{', '.join(METRIC_NAMES.values())} of the predictions of all folds together; the intervals are theirs, by "
        f"{RESAMPLES} bootstrap resamples.",
        f"Calibration error (ECE, {BINS} bins): {_describe_calibration(results, validated)}. {temperature}",
    ]
    if ensemble:
        sections += [
            _figures_table(ensemble["name"], ensemble["figures"], folds),
            "The ensemble is one predictor: the mean of the probabilities that the runs of all seeds give an "
            f"utterance. Its calibration error: {_describe_calibration(ensemble, validated)}.",
        ]
    classes = [
        (label, str(row["utterances"]), format_percent(row["mean"])) for label, row in results["recalls"].items()
    ]
    sections.append(markdown_table([("class", "utterances", "recall"), *classes]))
    if results["corpora"]:
        sections.append(_groups_table("corpus", results["corpora"], results["labels"]))
    sections += [
        _groups_table("speaker", results["speakers"], results["labels"]),
        _folds_table(folds),
        "![Confusion matrix](confusion.png)",
        "![Training curves](curves.png)",
    ]
    if refitted:
        sections.append("The curves are of the networks that said how many epochs.")
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    sections.append(
        f"Commit: {environment['commit'] or 'unknown'}.\n"
        f"Command: `{' '.join(environment['command'])}`.\n"
        f"Python {environment['python']}, {packages}; {describe_machine(environment)}."
    )
    if results["throughput"]:
        sections.append(f"Training, {Throughput(**results['throughput']).describe()}.")
    return sections


def _describe_calibration(found: Mapping[str, Any], validated: bool) -> str:
    """Such as "8.1 %, and 3.2 % with temperature"."""
    raw, calibrated = (format_percent(found[name]["mean"]) for name in ("calibration_error", "calibrated_error"))
    return f"{raw}, and {calibrated} with temperature" if validated else raw


def _figures_table(heading: str, figures: Mapping[str, Any], folds: Sequence[Mapping[str, Any]]) -> str:
    """Every fold's figures, and what they come to."""
    tested = [fold["test"]["utterances"] for fold in folds]
    found = [figures[metric] for metric in METRICS]
    rows = [
        (f"fold {number}", str(count), *(format_percent(figure["of_folds"][number]) for figure in found))
        for number, count in enumerate(tested)
    ]
    whole: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "mean ± deviation of folds": format_mean,
        "deviation of seeds": lambda figure: format_points(figure["deviation_of_seeds"]),
        "pooled": lambda figure: format_percent(figure["pooled"]),
        "95 % over utterances": lambda figure: format_interval(figure, "utterances"),
        "95 % over speakers": lambda figure: format_interval(figure, "speakers"),
    }
    rows += [(name, str(sum(tested)), *map(tell, found)) for name, tell in whole.items()]
    return markdown_table([(heading, "utterances", *METRIC_NAMES.values()), *rows])


def _groups_table(kind: str, groups: Mapping[str, Any], labels: Sequence[str]) -> str:
    rows = [
        (name, str(row["utterances"]), *map(format_percent, (row["wa"], row["ua"], *row["recalls"].values())))
        for name, row in groups.items()
    ]
    return markdown_table([(kind, "utterances", "WA", "UA", *labels), *rows])


def _folds_table(folds: Sequence[Mapping[str, Any]]) -> str:
    """Who is where in each fold."""
    rows = [
        (str(number), *(", ".join(part["speakers"]) or f"{part['utterances']} utterances" for part in fold.values()))
        for number, fold in enumerate(folds)
    ]
    return markdown_table([("fold", "train", "validation", "test"), *rows], left=range(4))

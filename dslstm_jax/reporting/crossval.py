"""What a cross-validation says to people: report.md with its pictures, beside results.json with all figures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dslstm_jax.errors import RunError
from dslstm_jax.evaluation.results import FIGURES, NAMES, Throughput
from dslstm_jax.evaluation.statistics import BINS, RESAMPLES
from dslstm_jax.reporting.report import (
    cell,
    draw_confusion,
    draw_curves,
    format_interval,
    format_mean,
    format_percent,
    format_points,
)
from dslstm_jax.runs.folder import Record, read_json
from dslstm_jax.runs.provenance import describe_machine
from dslstm_jax.util.files import make_folder, to_json, write_text


def write_results(
    folder: Path, results: Mapping[str, Any], records: Sequence[Sequence[Record]], *, title: str
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
    lines = [f"{to_json(name)}: {to_json(value)}" for name, value in results.items()]
    write_text(folder / "results.json", "{\n" + ",\n".join(lines) + "\n}\n")
    write_text(folder / "report.md", "\n".join(_report(results, title, protocol)) + "\n")


def read_results(path: Path) -> dict[str, Any]:
    """The results.json of a cross-validation's folder, or the file itself, wherever it was copied to.

    Raises:
      RunError: there is none, or it is damaged.
    """
    file = path if path.suffix == ".json" else path / "report" / "results.json"
    if not file.is_file():
        raise RunError(f"{path} holds no results of a cross-validation; dslstm crossval makes {file}")
    results: dict[str, Any] = read_json(file)
    return results


def describe_protocol(results: Mapping[str, Any]) -> str:
    """Such as "speaker5, 5 folds, 3 seeds, epoch chosen by validation UA"."""
    folds, seeds = len(results["folds"]), len(results["seeds"])
    many = f"{folds} folds, {seeds} seed{'s' if seeds > 1 else ''}"
    return f"{results['protocol']}, {many}, {results['chosen']}"


def _mean_record(epoch: Sequence[Record]) -> Record:
    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]  # what was not finite is null
        return float(np.mean(known)) if known else None

    return {name: mean([record[name] for record in epoch]) for name in epoch[0]}


def format_summary(results: Mapping[str, Any]) -> str:
    """For a terminal: the figures of the runs, those of their ensemble, and the protocol they came about by."""
    told, ensemble = [("test", results["figures"])], results["ensemble"]
    if ensemble:
        told.append((f"{ensemble['name']}, test", ensemble["figures"]))
    return "\n".join(
        f"{name} {', '.join(f'{NAMES[figure]} {format_mean(figures[figure])}' for figure in FIGURES)} "
        f"({describe_protocol(results)})"
        for name, figures in told
    )


def _report(results: Mapping[str, Any], title: str, protocol: str) -> list[str]:
    environment, folds, labels = results["environment"], results["folds"], results["labels"]
    names = ", ".join(NAMES.values())
    lines = [
        f"# {title}",
        "",
        f"Protocol: {protocol}.",
        "",
        *_table("test of", results["figures"], folds),
        "",
        f"A fold's figures are means over the seeds {', '.join(map(str, results['seeds']))}. Pooled: {names} of the "
        f"predictions of all folds together; the intervals are theirs, by {RESAMPLES} bootstrap resamples.",
        "",
        f"Calibration error (ECE, {BINS} bins): {_describe_calibration(results, folds)}. "
        + (_describe_temperature(results["choose"]) if _validated(folds) else "No temperature."),
        "",
        *(_report_ensemble(results["ensemble"], folds) if results["ensemble"] else []),
        "| class | utterances | recall |",
        "|---|---:|---:|",
        *(
            f"| {cell(label)} | {row['utterances']} | {format_percent(row['mean'])} |"
            for label, row in results["recalls"].items()
        ),
        "",
        *(_report_groups("corpus", results["corpora"], labels) if results["corpora"] else []),
        *_report_groups("speaker", results["speakers"], labels),
        "| fold | train | validation | test |",
        "|---|---|---|---|",
        *(
            f"| {number} | " + " | ".join(cell(_speakers_of(fold[side])) for side in fold) + " |"
            for number, fold in enumerate(folds)
        ),
        "",
        "![Confusion matrix](confusion.png)",
        "",
        "![Training curves](curves.png)",
        "",
        *(["The curves are of the networks that said how many epochs.", ""] if results["choose"] == "refit" else []),
        f"Commit: {environment['commit'] or 'unknown'}.",
        f"Command: `{' '.join(environment['command'])}`.",
        f"Python {environment['python']}, "
        + ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
        + f"; {describe_machine(environment)}.",
    ]
    if results["throughput"]:
        lines += ["", f"Training, {Throughput(**results['throughput']).describe()}."]
    return lines


def _report_ensemble(ensemble: Mapping[str, Any], folds: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        *_table(ensemble["name"], ensemble["figures"], folds),
        "",
        "The ensemble is one predictor: the mean of the probabilities that the runs of all seeds give an utterance. "
        f"Its calibration error: {_describe_calibration(ensemble, folds)}.",
        "",
    ]


def _validated(folds: Sequence[Mapping[str, Any]]) -> bool:
    """Whether utterances were held back for validation."""
    return any(fold["validation"]["utterances"] for fold in folds)


def _describe_temperature(choose: str) -> str:
    by = ", by the network that had not learned from it" if choose == "refit" else ""
    return f"The temperature is fitted on each run's validation side{by}."


def _describe_calibration(found: Mapping[str, Any], folds: Sequence[Mapping[str, Any]]) -> str:
    """Such as "8.1 %, and 3.2 % with temperature"."""
    raw, calibrated = (format_percent(found[name]["mean"]) for name in ("calibration_error", "calibrated_error"))
    return f"{raw}, and {calibrated} with temperature" if _validated(folds) else raw


def _report_groups(kind: str, groups: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    return [
        f"| {kind} | utterances | WA | UA | {' | '.join(map(cell, labels))} |",
        "|---|---:|---:|---:|" + "---:|" * len(labels),
        *(
            f"| {cell(name)} | {row['utterances']} | {format_percent(row['wa'])} | {format_percent(row['ua'])} | "
            + " | ".join(format_percent(row["recalls"][label]) for label in labels)
            + " |"
            for name, row in groups.items()
        ),
        "",
    ]


def _table(heading: str, figures: Mapping[str, Any], folds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every fold's figures, and what they come to."""
    tested = [fold["test"]["utterances"] for fold in folds]

    def row(name: str, utterances: int, tell: Callable[[Mapping[str, Any]], str]) -> str:
        return f"| {name} | {utterances} | {' | '.join(tell(figures[figure]) for figure in FIGURES)} |"

    def of_fold(number: int) -> Callable[[Mapping[str, Any]], str]:
        return lambda figure: format_percent(figure["of_folds"][number])

    return [
        f"| {heading} | utterances | {' | '.join(NAMES.values())} |",
        "|---|---:|---:|---:|---:|",
        *(row(f"fold {number}", count, of_fold(number)) for number, count in enumerate(tested)),
        row("mean ± deviation of folds", sum(tested), format_mean),
        row("deviation of seeds", sum(tested), lambda figure: format_points(figure["deviation_of_seeds"])),
        row("pooled", sum(tested), lambda figure: format_percent(figure["pooled"])),
        row("95 % over utterances", sum(tested), lambda figure: format_interval(figure, "utterances")),
        row("95 % over speakers", sum(tested), lambda figure: format_interval(figure, "speakers")),
    ]


def _speakers_of(part: Mapping[str, Any]) -> str:
    return ", ".join(part["speakers"]) or f"{part['utterances']} utterances"

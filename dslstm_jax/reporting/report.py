"""Figures for people: the confusion matrix as text and picture, the training curves, and a report that holds both.

A confusion matrix counts utterances, rows the truth and columns the prediction (`dslstm_jax.ops.metrics`).
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dslstm_jax.ops.metrics import Matrix, macro_f1, recalls, unweighted_accuracy, weighted_accuracy
from dslstm_jax.util.files import make_folder, whole_file, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN_COLOR = "#b8772d"
VALIDATION_COLOR = "#1f5c99"
INK = "#333333"


def format_confusion(matrix: Matrix, labels: Sequence[str]) -> str:
    """The matrix as a plain-text table: a row for each true class, its recall at the end.

    Args:
      matrix: [truth, prediction].
      labels: the names of the classes.
    """
    counts = np.asarray(matrix, np.float64)
    header = ["truth \\ predicted", *labels, "recall"]
    rows = [
        [label, *(f"{count:.0f}" for count in row), format_percent(recall)]
        for label, row, recall in zip(labels, counts, recalls(counts), strict=True)
    ]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(row: list[str]) -> str:
        numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        return "  ".join([row[0].ljust(widths[0]), *numbers])

    return "\n".join(map(line, [header, *rows]))


def draw_confusion(matrix: Matrix, labels: Sequence[str], path: str | Path, title: str) -> None:
    """Draws the matrix as a PNG: the color is the share of the true class, each cell says share and count.

    Args:
      matrix: [truth, prediction].
      labels: the names of the classes.
      path: the file, written whole or not at all.
      title: over the picture; it may have several lines.

    Raises:
      RunError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    counts = np.asarray(matrix, np.float64)
    occurrences = counts.sum(axis=1, keepdims=True)
    shares = counts / np.where(occurrences > 0, occurrences, np.nan)  # a class that does not occur has no shares
    classes = len(labels)
    side = 1.9 + 0.8 * max(classes, 4)
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for (truth, prediction), share in np.ndenumerate(shares):
        ink = "white" if share > 0.6 else INK
        place: dict[str, Any] = {"ha": "center", "color": ink, "alpha": 1.0 if share > 0 else 0.45}
        axes.text(prediction, truth - 0.06, format_percent(share, 0), va="bottom", fontsize=11, **place)
        axes.text(prediction, truth + 0.06, f"{counts[truth, prediction]:.0f}", va="top", fontsize=8, **place)

    slanted = max(len(label) for label in labels) > 9
    axes.set_xticks(
        range(classes),
        labels,
        parse_math=False,
        rotation=35 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor" if slanted else "default",
    )
    axes.set_yticks(range(classes), labels, parse_math=False)
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted", color=INK, labelpad=8)
    axes.set_ylabel("truth", color=INK, labelpad=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.85, aspect=28, format=lambda share, _: format_percent(share, 0))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=INK)
    bar.set_label("share of the true class", fontsize=9, color=INK)
    _save(figure, path, title)


def draw_curves(
    records: Sequence[Mapping[str, Any]], path: str | Path, title: str, best_epoch: int | None = None
) -> None:
    """Draws loss, and WA and UA, over the epochs, as a PNG of two panels.

    Args:
      records: the rows of metrics.jsonl, with `epoch` and any of `train_loss`, `train_wa`, `train_ua`,
        `validation_loss`, `validation_wa`, `validation_ua`; what a row lacks (or is null) is left out of the curve.
      path: the file, written whole or not at all.
      title: over the picture; it may have several lines.
      best_epoch: the epoch that was chosen, to be marked.

    Raises:
      RunError: the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for side, color in (("train", TRAIN_COLOR), ("validation", VALIDATION_COLOR)):
        _draw_curve(loss, records, f"{side}_loss", side, color, "-")
        _draw_curve(accuracy, records, f"{side}_ua", f"{side} UA", color, "-")
        _draw_curve(accuracy, records, f"{side}_wa", f"{side} WA", color, "--")
    loss.set_ylabel("loss (cross-entropy)", color=INK)
    loss.set_ylim(0, 1.05 * loss.get_ylim()[1])
    accuracy.set_ylabel("accuracy", color=INK)
    accuracy.set_ylim(0, 1.02)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    for axes in (loss, accuracy):
        if best_epoch is not None:
            axes.axvline(best_epoch, color=INK, linewidth=1, linestyle=":", label=f"chosen epoch ({best_epoch})")
        axes.set_xlabel("epoch", color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#999999")
        axes.tick_params(color="#999999", labelcolor=INK, labelsize=9)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    _save(figure, path, title)


def write_report(
    folder: str | Path,
    *,
    title: str,
    protocol: str,
    matrix: Matrix,
    labels: Sequence[str],
    records: Sequence[Mapping[str, Any]] = (),
    best_epoch: int | None = None,
) -> None:
    """Writes report.md, confusion.png and curves.png into `folder`, which is created.

    Args:
      title: what was evaluated.
      protocol: how, in words (such as "speaker5, fold 0, epoch chosen on validation"); it stands beside every figure.
      matrix: [truth, prediction], of the test utterances.
      labels: the names of the classes.
      records: the rows of metrics.jsonl; without any there is no curves.png.
      best_epoch: the epoch that was chosen, if one was.

    Raises:
      RunError: a file cannot be written.
    """
    folder = make_folder(folder)
    protocol = protocol.strip().rstrip(".")
    counts = np.asarray(matrix, np.float64)
    wa, ua = format_percent(weighted_accuracy(counts)), format_percent(unweighted_accuracy(counts))
    draw_confusion(counts, labels, folder / "confusion.png", f"{title}\n{protocol}: WA {wa}, UA {ua}")
    if records:
        draw_curves(records, folder / "curves.png", f"{title}\n{protocol}", best_epoch)
    lines = [
        f"# {title}",
        "",
        f"Protocol: {protocol}.",
        *([f"Epoch used: {best_epoch}."] if best_epoch is not None else []),
        "",
        "| protocol | utterances | WA | UA | macro-F1 |",
        "|---|---:|---:|---:|---:|",
        f"| {cell(protocol)} | {counts.sum():.0f} | {wa} | {ua} | {format_percent(macro_f1(counts))} |",
        "",
        "WA is the share of all utterances that are recognized, UA the mean of the recalls of the classes.",
        "",
        "| class | utterances | recall |",
        "|---|---:|---:|",
        *(
            f"| {cell(label)} | {occurrences:.0f} | {format_percent(recall)} |"
            for label, occurrences, recall in zip(labels, counts.sum(axis=1), recalls(counts), strict=True)
        ),
        "",
        "![Confusion matrix](confusion.png)",
        *(["", "![Training curves](curves.png)"] if records else []),
    ]
    # Last, so that a report never points at pictures that are not there.
    write_text(folder / "report.md", "\n".join(lines) + "\n")


def _draw_curve(
    axes: "Axes", records: Sequence[Mapping[str, Any]], key: str, label: str, color: str, style: str
) -> None:
    points = [(row["epoch"], row[key]) for row in records if row.get(key) is not None]
    if points:
        epochs, values = zip(*points, strict=True)
        marker = "o" if len(points) == 1 else None  # one point makes no line
        axes.plot(epochs, values, color=color, linestyle=style, linewidth=1.6, marker=marker, label=label)


def _save(figure: "Figure", path: str | Path, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    letters = int(11 * figure.get_figwidth())  # as many of this size fit into a line
    wrapped = "\n".join(textwrap.fill(line, letters) for line in title.splitlines())
    figure.suptitle(wrapped, fontsize=11, color=INK, parse_math=False)
    with whole_file(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary, format="png", dpi=150)


def format_percent(share: float, decimals: int = 1) -> str:
    """Such as "61.3 %"; a dash for NaN."""
    return "-" if math.isnan(share) else f"{100 * share:.{decimals}f} %"


def format_mean(figure: Mapping[str, Any]) -> str:
    """A figure of a cross-validation, such as "61.3 % ± 4.2": the mean over runs and the deviation of the folds."""
    deviation = figure["deviation_of_folds"]
    return format_percent(figure["mean"]) + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def format_interval(figure: Mapping[str, Any], unit: str) -> str:
    """Such as "58.0 to 64.1 %"; a dash where the unit, utterances or speakers, was not resampled."""
    found = figure["intervals"].get(unit)
    return "-" if found is None else f"{100 * found[0]:.1f} to {100 * found[1]:.1f} %"


def format_points(deviation: float | None) -> str:
    """Percentage points; a dash for None."""
    return "-" if deviation is None else f"{100 * deviation:.1f}"


def cell(text: str) -> str:
    """Text that may stand in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")

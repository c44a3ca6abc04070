"""What a run says to people: report.md, the confusion matrix as a picture, and the training curves.

A confusion matrix counts utterances, rows the truth and columns the prediction (`dslstm_jax.ops.metrics`).
"""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from dslstm_jax.ops.metrics import Matrix, macro_f1, recalls, unweighted_accuracy, weighted_accuracy
from dslstm_jax.reporting.style import BLUE, INK, ORANGE, picture
from dslstm_jax.reporting.tables import format_percent, markdown_table
from dslstm_jax.util.files import make_folder, write_text


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
    counts = np.asarray(matrix, np.float64)
    occurrences = counts.sum(axis=1, keepdims=True)
    shares = counts / np.where(occurrences > 0, occurrences, np.nan)  # a class that does not occur has no shares
    classes = len(labels)
    side = 1.9 + 0.8 * max(classes, 4)
    with picture(path, title, side + 0.9, side) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        for (truth, prediction), share in np.ndenumerate(shares):
            color, alpha = "white" if share > 0.6 else INK, 1.0 if share > 0 else 0.45
            place: dict[str, Any] = {"ha": "center", "color": color, "alpha": alpha}
            axes.text(prediction, truth - 0.06, format_percent(share, 0), va="bottom", fontsize=11, **place)
            axes.text(prediction, truth + 0.06, f"{counts[truth, prediction]:.0f}", va="top", fontsize=8, **place)

        slant: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(classes), labels, **(slant if max(map(len, labels)) > 9 else {}))
        axes.set_yticks(range(classes), labels)
        axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=2)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted", labelpad=8)
        axes.set_ylabel("truth", labelpad=8)
        bar = figure.colorbar(image, ax=axes, shrink=0.85, aspect=28, label="share of the true class")
        bar.ax.yaxis.set_major_formatter(lambda share, _: format_percent(share, 0))
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8)


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
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    with picture(path, title, 10, 4) as figure:
        loss, accuracy = figure.subplots(1, 2)
        sides = ("train", ORANGE), ("validation", BLUE)
        curves = ("loss", loss, "", "-"), ("ua", accuracy, " UA", "-"), ("wa", accuracy, " WA", "--")
        for (side, color), (name, axes, label, line) in product(sides, curves):
            known = [row for row in records if row.get(f"{side}_{name}") is not None]
            if known:
                epochs, values = zip(*((row["epoch"], row[f"{side}_{name}"]) for row in known), strict=True)
                marker = "o" if len(known) == 1 else None  # one point makes no line
                axes.plot(epochs, values, color=color, ls=line, lw=1.6, marker=marker, label=side + label)
        loss.set(ylabel="loss (cross-entropy)", ylim=(0, 1.05 * loss.get_ylim()[1]))
        accuracy.set(ylabel="accuracy", ylim=(0, 1.02))
        accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        for axes in (loss, accuracy):
            if best_epoch is not None:
                axes.axvline(best_epoch, color=INK, linewidth=1, linestyle=":", label=f"chosen epoch ({best_epoch})")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
            axes.grid(axis="y")
            if axes.get_legend_handles_labels()[0]:
                axes.legend()


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
    wa, ua, f1 = (format_percent(metric(counts)) for metric in (weighted_accuracy, unweighted_accuracy, macro_f1))
    draw_confusion(counts, labels, folder / "confusion.png", f"{title}\n{protocol}: WA {wa}, UA {ua}")
    if records:
        draw_curves(records, folder / "curves.png", f"{title}\n{protocol}", best_epoch)
    classes = [
        (label, f"{occurrences:.0f}", format_percent(recall))
        for label, occurrences, recall in zip(labels, counts.sum(axis=1), recalls(counts), strict=True)
    ]
    used = f"\nEpoch used: {best_epoch}." if best_epoch is not None else ""
    sections = [
        f"# {title}",
        f"Protocol: {protocol}.{used}",
        markdown_table(
            [("protocol", "utterances", "WA", "UA", "macro-F1"), (protocol, f"{counts.sum():.0f}", wa, ua, f1)]
        ),
        "WA is the share of all utterances that are recognized, UA the mean of the recalls of the classes.",
        markdown_table([("class", "utterances", "recall"), *classes]),
        "![Confusion matrix](confusion.png)",
        *(["![Training curves](curves.png)"] if records else []),
    ]
    # Last, so that a report never points at pictures that are not there.
    write_text(folder / "report.md", "\n\n".join(sections) + "\n")

"""Tables as plain text and as Markdown, and how figures are written in them."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from dslstm_jax.ops.metrics import Matrix, recalls


def align(rows: Sequence[Sequence[str]], left: int) -> str:
    """Rows of cells as lines with aligned columns; the first `left` columns are flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Rows of cells as a Markdown table; the first row is the header.

    Args:
      rows: of any text: what Markdown would take for a new cell or line is escaped.
      left: places of the columns that are flush left; the others are flush right.
    """
    ruler = ["---" if place in left else "---:" for place in range(len(rows[0]))]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], ruler, *cells[1:]])


def format_confusion(matrix: Matrix, labels: Sequence[str]) -> str:
    """The matrix as a plain-text table: a row for each true class, its recall at the end.

    Args:
      matrix: [truth, prediction].
      labels: the names of the classes.
    """
    counts = np.asarray(matrix, np.float64)
    rows = [
        [label, *(f"{count:.0f}" for count in row), format_percent(recall)]
        for label, row, recall in zip(labels, counts, recalls(counts), strict=True)
    ]
    return align([["truth \\ predicted", *labels, "recall"], *rows], left=1)


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

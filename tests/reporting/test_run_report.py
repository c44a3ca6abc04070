"""A run's report: the confusion matrix and the curves as pictures, and report.md."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from dslstm_jax.errors import RunError
from dslstm_jax.reporting.run_report import draw_confusion, draw_curves, write_report

MATRIX = np.array([[6.0, 2.0, 0.0], [0.0, 12.0, 0.0], [0.0, 0.0, 0.0]])
LABELS = ("anger", "happiness", "neutral")
RECORDS: list[dict[str, Any]] = [
    {"epoch": 1, "train_loss": 1.2, "train_wa": 0.0, "train_ua": 0.3},
    {"epoch": 2, "train_loss": 0.8, "train_wa": 0.6, "validation_loss": 1.0, "validation_ua": None},
    {"epoch": 3, "train_loss": 0.6, "validation_loss": 0.9, "validation_wa": 0.5, "validation_ua": 0.5},
]
PROTOCOL = "speaker5, fold 0, epoch chosen on validation"


def curves(figure: Figure, panel: int) -> dict[str, list[tuple[float, float]]]:
    return {
        str(line.get_label()): [(float(x), float(y)) for x, y in line.get_xydata()]
        for line in figure.axes[panel].lines
    }


def test_the_matrix_is_drawn_with_shares_and_counts(figures: list[Figure], tmp_path: Path) -> None:
    draw_confusion(MATRIX, LABELS, tmp_path / "confusion.png", "a title")
    axes = figures[0].axes[0]
    cells: dict[tuple[float, float], list[str]] = {}
    for text in axes.texts:
        x, y = text.get_position()
        cells.setdefault((round(y), round(x)), []).append(text.get_text())
    assert cells[0, 0] == ["75 %", "6"]
    assert cells[0, 1] == ["25 %", "2"]
    assert cells[1, 1] == ["100 %", "12"]
    assert cells[2, 1] == ["-", "0"]  # the third class does not occur
    colors = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(colors, [[0.75, 0.25, 0], [0, 1, 0], [np.nan] * 3])
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("truth", "predicted")
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == list(LABELS)
    assert figures[0].get_suptitle() == "a title"


@pytest.mark.parametrize("classes", [2, 4, 8])
def test_every_cell_has_room_for_its_text(classes: int, figures: list[Figure], tmp_path: Path) -> None:
    labels = [f"emotion {number}" for number in range(classes)]
    draw_confusion(np.full((classes, classes), 1000.0), labels, tmp_path / "confusion.png", "a long title " * 20)
    figure = figures[0]
    figure.draw_without_rendering()
    cell = figure.axes[0].get_window_extent().width / classes
    assert max(text.get_window_extent().width for text in figure.axes[0].texts) < 0.9 * cell
    ticks = [tick.get_window_extent() for tick in figure.axes[0].get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(ticks))
    titles = [text.get_window_extent() for text in figure.texts]
    assert all(title.x0 > 0 and title.x1 < figure.bbox.width for title in titles)


def test_labels_and_titles_are_text_and_not_formulas(figures: list[Figure], tmp_path: Path) -> None:
    labels = (r"$\joy$", r"a_$x^{$", "rather happy and excited")
    draw_confusion(MATRIX, labels, tmp_path / "confusion.png", r"$\frac$")
    assert all(tick.get_rotation() > 0 for tick in figures[0].axes[0].get_xticklabels())  # long ones are slanted
    draw_curves(RECORDS, tmp_path / "curves.png", r"$\frac$")


def test_pictures_are_pictures(tmp_path: Path) -> None:
    draw_confusion(MATRIX, LABELS, tmp_path / "confusion.png", "a title")
    draw_curves(RECORDS, tmp_path / "curves.png", "a title")
    for name in ("confusion.png", "curves.png"):
        image = imread(tmp_path / name)
        assert min(image.shape[:2]) >= 500
        assert image[0, 0, :3].min() == 1.0  # white paper
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion.png", "curves.png"]


def test_curves_leave_out_what_a_row_lacks(figures: list[Figure], tmp_path: Path) -> None:
    draw_curves(RECORDS, tmp_path / "curves.png", "a title", best_epoch=2)
    mark = [(2.0, 0.0), (2.0, 1.0)]
    assert curves(figures[0], 0) == {
        "train": [(1, 1.2), (2, 0.8), (3, 0.6)],
        "validation": [(2, 1.0), (3, 0.9)],
        "chosen epoch (2)": mark,
    }
    assert curves(figures[0], 1) == {
        "train UA": [(1, 0.3)],
        "train WA": [(1, 0.0), (2, 0.6)],
        "validation UA": [(3, 0.5)],
        "validation WA": [(3, 0.5)],
        "chosen epoch (2)": mark,
    }
    # A single point has no line, so it must have a marker.
    markers = {line.get_label(): line.get_marker() for line in figures[0].axes[1].lines}
    assert markers["train UA"] == "o"
    assert markers["train WA"] == "None"


def test_curves_of_a_run_that_went_wrong(figures: list[Figure], tmp_path: Path) -> None:
    records = [{"epoch": 1, "train_loss": float("nan")}, {"epoch": 2, "train_loss": float("inf")}]
    draw_curves(records, tmp_path / "curves.png", "diverged")
    draw_curves([{"epoch": 1}], tmp_path / "curves.png", "nothing measured")
    assert curves(figures[1], 0) == curves(figures[1], 1) == {}


def test_the_report_names_the_protocol_beside_every_figure(figures: list[Figure], tmp_path: Path) -> None:
    folder = tmp_path / "run" / "report"
    write_report(
        folder,
        title="EmoDB, dual level",
        protocol=PROTOCOL + ".",
        matrix=jnp.array(MATRIX),
        labels=LABELS,
        records=RECORDS,
        best_epoch=2,
    )
    assert sorted(path.name for path in folder.iterdir()) == ["confusion.png", "curves.png", "report.md"]
    lines = (folder / "report.md").read_text().splitlines()
    assert lines[0] == "# EmoDB, dual level"
    assert f"Protocol: {PROTOCOL}." in lines
    assert "Epoch used: 2." in lines
    # WA 18/20; UA (6/8 + 12/12) / 2; macro-F1 (12/14 + 24/26) / 2.
    assert f"| {PROTOCOL} | 20 | 90.0 % | 87.5 % | 89.0 % |" in lines
    assert "| anger | 8 | 75.0 % |" in lines
    assert "| neutral | 0 | - |" in lines
    assert "![Confusion matrix](confusion.png)" in lines
    assert "![Training curves](curves.png)" in lines
    for figure in figures:
        assert PROTOCOL in " ".join(figure.get_suptitle().split())
    assert "WA 90.0 %, UA 87.5 %" in figures[0].get_suptitle()


def test_a_report_without_training_has_no_curves(tmp_path: Path) -> None:
    write_report(tmp_path, title="Pooled", protocol="speaker5", matrix=MATRIX, labels=("a|b", "c", "d"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion.png", "report.md"]
    text = (tmp_path / "report.md").read_text()
    assert "curves.png" not in text
    assert "Epoch" not in text
    assert "| a\\|b | 8 | 75.0 % |" in text


def test_a_report_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*missing/confusion\.png"):
        draw_confusion(MATRIX, LABELS, tmp_path / "missing" / "confusion.png", "a title")
    (tmp_path / "report").write_text("a file where the folder should be")
    with pytest.raises(RunError, match=r"cannot make the folder .*report: File exists"):
        write_report(tmp_path / "report", title="", protocol="speaker5", matrix=MATRIX, labels=LABELS)


def test_matplotlib_is_loaded_only_to_draw_and_pyplot_never(tmp_path: Path) -> None:
    code = f"""
import sys
from dslstm_jax.reporting.run_report import draw_curves
assert "matplotlib" not in sys.modules
draw_curves([{{"epoch": 1, "train_loss": 1.0}}], {str(tmp_path / "curves.png")!r}, "a title")
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)

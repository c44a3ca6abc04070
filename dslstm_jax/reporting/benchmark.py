"""A benchmark's rows as JSON, as a Markdown table and as a picture: ours against each peer, and how near to the
peaks."""

import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dslstm_jax.errors import RunError
from dslstm_jax.reporting.style import BLUE, INK, PALE, picture
from dslstm_jax.reporting.tables import markdown_table
from dslstm_jax.runs.provenance import describe_environment, describe_machine
from dslstm_jax.util.files import make_folder, write_json, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
"""One measured line: its columns by name; None where a column does not apply."""
PEERS = ("torch", "librosa", "opensmile")
"""Packages of the extra `bench`, whose versions belong to the figures."""
MOST_CASES = 12
"""More than these are drawn as lines, for nobody reads so many bars."""


class Report(NamedTuple):
    """A table of measured rows."""

    name: str
    notes: Sequence[str]
    """Sentences that the figures need."""
    rows: Sequence[Row]


def format_rows(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table; their columns are those of the first."""
    text = [place for place, value in enumerate(rows[0].values()) if isinstance(value, str)]
    return markdown_table([list(rows[0]), *([_cell(row[name]) for name in rows[0]] for row in rows)], left=text)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}".replace(",", " ")
    return "" if value is None else str(value)


def publish(report: Report, json: Path | None, update: Path | None) -> None:
    """Writes the rows with their environment as JSON, and into their own block of a Markdown file, where asked.

    Raises:
      RunError: the Markdown file has no block of that name, or a file cannot be written.
    """
    about = describe_environment()
    for peer in PEERS:
        with suppress(PackageNotFoundError):
            about["packages"][peer] = version(peer)
    if json is not None:
        write_json(json, {"benchmark": report.name, "environment": about, "notes": report.notes, "rows": report.rows})
    if update is not None:
        _rewrite_block(update, report.name, [_describe(about), format_rows(report.rows), *report.notes])


def _describe(about: Mapping[str, Any]) -> str:
    """The command, the commit, the machine and the packages, as one sentence."""
    command = shlex.join(["dslstm", *about["command"][1:]])
    named = [name for name in ("jax", "flax", "numpy", "grain", *PEERS) if name in about["packages"]]
    packages = ", ".join(f"{name} {about['packages'][name]}" for name in named)
    commit = re.sub(r"^(\w{7})\w+", r"\1", about["commit"] or "an unknown commit")
    return f"`{command}` at {commit}; {describe_machine(about)}; Python {about['python']}, {packages}."


def _rewrite_block(path: Path, name: str, content: Sequence[str]) -> None:
    begin, end = (f"<!-- {mark}: benchmark {name} -->" for mark in ("begin", "end"))
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise RunError(f"{path}: no block for it; put the lines {begin} and {end} where it belongs")
    write_text(path, "\n\n".join([before + begin, *content, end + after]))


def draw_rows(name: str, rows: Sequence[Row], path: Path) -> None:
    """Bars of the median times, grouped by case, whiskers from p10 to p90; beside them the roofline. Of many cases,
    lines of the median times.

    Raises:
      RunError: the rows have no times of ours against others'.
    """
    if "implementation" not in rows[0]:
        raise RunError(f"--plot: benchmark {name} has nothing to draw")
    cases: dict[str, list[Row]] = {}
    for row in rows:
        cases.setdefault(_named(row, _case_columns(row)), []).append(row)
    make_folder(path.parent)
    with picture(path, "", 14, 2 + 0.28 * (len(rows) + 2 * len(cases)), formulas=True) as figure:
        if len(cases) > MOST_CASES:
            _draw_lines(figure, rows)
        else:
            _draw_bars(figure, cases)


def _case_columns(row: Row) -> list[str]:
    columns = list(row)
    return columns[: columns.index("implementation")]


def _named(row: Row, columns: list[str]) -> str:
    """The values of some columns, with their names where they are numbers."""
    return ", ".join(str(row[name]) if isinstance(row[name], str) else f"{name} {row[name]}" for name in columns)


def _contender(row: Row) -> str:
    """The implementation and what it was run with."""
    columns = list(row)
    options = columns[columns.index("implementation") : columns.index("median ms")]
    return _named(row, [name for name in options if row[name] is not None])


def _draw_lines(figure: "Figure", rows: Sequence[Row]) -> None:
    """The median times over the number that was varied most, in one panel for each combination of all else: ours in
    one color and several dashes, each peer with a color and a marker of its own."""
    values = {name: list(dict.fromkeys(row[name] for row in rows)) for name in _case_columns(rows[0])}
    numbers = [name for name, found in values.items() if not isinstance(found[0], str)]
    along = max(numbers, key=lambda name: len(values[name]))
    down = [name for name in values if name not in numbers]
    across = [name for name in numbers if name != along and len(values[name]) > 1]
    lines: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        lines.setdefault((_contender(row), _named(row, down), _named(row, across)), []).append(row)
    names, downs, acrosses = (list(dict.fromkeys(found)) for found in zip(*lines, strict=True))
    figure.set_size_inches(2 + 2.2 * len(acrosses), 1.5 + 2.2 * len(downs))
    axes = figure.subplots(len(downs), len(acrosses), squeeze=False, sharex=True, sharey="row")
    ours = [name for name in names if name.startswith("dslstm_jax")]
    peers = [name for name in names if name not in ours]
    dashes = ("-", "--", ":", "-.")
    styles = {name: {"color": BLUE, "ls": dashes[i % 4], "marker": "o"} for i, name in enumerate(ours)}
    styles |= {name: {"color": f"C{1 + i}", "marker": "sv^Dx"[i % 5], "lw": 1} for i, name in enumerate(peers)}
    handles: dict[str, Any] = {}
    for (name, named_down, named_across), points in lines.items():
        panel = axes[downs.index(named_down)][acrosses.index(named_across)]
        times, places = [point["median ms"] for point in points], [point[along] for point in points]
        (handles[name],) = panel.plot(places, times, ms=4, **styles[name])
    for panel in axes.flat:
        panel.set(xscale="log", yscale="log")
        panel.set_xticks(values[along], map(str, values[along]), minor=False)
        panel.set_xticks([], minor=True)
        panel.grid()
    for panel, name in zip(axes[:, 0], downs, strict=True):
        panel.set_ylabel(f"{name}\nmilliseconds", size=8)
    for panel, name in zip(axes[0], acrosses, strict=True):
        panel.set_title(name.replace(", ", "\n"))
    for panel in axes[-1]:
        panel.set_xlabel(along)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(len(handles), len(acrosses)))


def _draw_bars(figure: "Figure", cases: Mapping[str, Sequence[Row]]) -> None:
    bars, roof = figure.subplots(1, 2, width_ratios=(3, 2))
    height, ticks, names = 0.0, [], []
    for case, rows in cases.items():
        bars.text(0, height, case, transform=bars.get_yaxis_transform(), va="center", weight="bold", size=8)
        for row in rows:
            height += 1
            ours = row is rows[0]
            median, low, high = (row[name] for name in ("median ms", "p10 ms", "p90 ms"))
            bars.barh(height, median, color=BLUE if ours else PALE)
            bars.errorbar(median, height, xerr=[[median - low], [high - median]], color=INK, capsize=2, lw=0.8)
            ratio = "" if ours else f"  {row['ours is faster by']:.2g}x"
            bars.text(high, height, ratio, va="center", size=8)
            ticks.append(height)
            names.append(_contender(row))
        height += 1.5
    bars.set_yticks(ticks, names, size=8)
    bars.set(xscale="log", xlabel="milliseconds (median, p10 to p90); how much faster ours is", ylim=(height, -1))
    bars.margins(x=0.12)
    _draw_roofline(roof, [row for rows in cases.values() for row in rows])


def _draw_roofline(axes: "Axes", rows: Sequence[Row]) -> None:
    """Operations a second over operations a byte, under what memory and arithmetic allow."""
    points = [row for row in rows if row["GFLOP/s"] and row["GB/s"]]
    if not points:
        axes.set_axis_off()
        return
    gemm = points[0]["GFLOP/s"] / points[0]["share of GEMM peak"]
    copy = points[0]["GB/s"] / points[0]["share of copy peak"]
    intensities = [row["GFLOP/s"] / row["GB/s"] for row in points]
    low, high = min(*intensities, gemm / copy) / 3, max(*intensities, gemm / copy) * 3
    axes.plot([low, gemm / copy, high], [low * copy, gemm, gemm], color=INK, lw=1)
    for row, intensity in zip(points, intensities, strict=True):
        ours = row["implementation"].startswith("dslstm_jax")
        axes.plot(intensity, row["GFLOP/s"], "o", color=BLUE if ours else PALE)
    axes.set(xscale="log", yscale="log", xlabel="operations / byte", ylabel="GFLOP/s")
    axes.set_title("ours (blue) and other JAX programs under this machine's peaks")

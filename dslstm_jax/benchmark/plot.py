"""A benchmark's rows as a picture: ours against each peer, and how near to the machine's peaks."""

from pathlib import Path
from typing import Any

from dslstm_jax.benchmark.harness import Report, Row
from dslstm_jax.errors import RunError
from dslstm_jax.util.files import make_folder

OURS, PEERS = "#2563a8", "#b9bfc7"
MOST_CASES = 12
"""More than these are drawn as lines, for nobody reads so many bars."""


def draw_report(report: Report, path: Path) -> None:
    """Bars of the median times, grouped by case, whiskers from p10 to p90; beside them the roofline. Of many cases,
    lines of the median times.

    Raises:
      RunError: the benchmark has no times of ours against others'.
    """
    if "implementation" not in report.rows[0]:
        raise RunError(f"--plot: benchmark {report.name} has nothing to draw")
    from matplotlib.figure import Figure

    cases: dict[str, list[int]] = {}
    for place, row in enumerate(report.rows):
        cases.setdefault(_named(row, _case_columns(report)), []).append(place)
    figure = Figure(layout="constrained")
    if len(cases) > MOST_CASES:
        _draw_lines(figure, report)
    else:
        _draw_bars(figure, report, cases)
    make_folder(path.parent)
    figure.savefig(path, dpi=120)


def _case_columns(report: Report) -> list[str]:
    columns = list(report.rows[0])
    return columns[: columns.index("implementation")]


def _named(row: Row, columns: list[str]) -> str:
    """The values of some columns, with their names where they are numbers."""
    return ", ".join(str(row[name]) if isinstance(row[name], str) else f"{name} {row[name]}" for name in columns)


def _contender(row: Row) -> str:
    """The implementation and what it was run with."""
    columns = list(row)
    options = columns[columns.index("implementation") : columns.index("median ms")]
    return _named(row, [name for name in options if row[name] is not None])


def _draw_lines(figure: Any, report: Report) -> None:
    """The median times over the number that was varied most, in one panel for each combination of all else."""
    values = {name: list(dict.fromkeys(row[name] for row in report.rows)) for name in _case_columns(report)}
    numbers = [name for name, found in values.items() if not isinstance(found[0], str)]
    along = max(numbers, key=lambda name: len(values[name]))
    down = [name for name in values if name not in numbers]
    across = [name for name in numbers if name != along and len(values[name]) > 1]
    lines: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in report.rows:
        lines.setdefault((_named(row, down), _named(row, across)), {}).setdefault(_contender(row), []).append(row)
    rows, columns = (list(dict.fromkeys(key[place] for key in lines)) for place in (0, 1))
    figure.set_size_inches(2 + 2.2 * len(columns), 1.5 + 2.2 * len(rows))
    axes = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey="row")
    names = dict.fromkeys(name for found in lines.values() for name in found)
    ours = [name for name in names if name.startswith("dslstm_jax")]
    peers = [name for name in names if name not in ours]
    styles: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(ours):
        styles[name] = {"color": OURS, "ls": ("-", "--", ":", "-.")[place % 4], "marker": "o"}
    for place, name in enumerate(peers):
        styles[name] = {"color": f"C{1 + place}", "marker": "sv^Dx"[place % 5], "lw": 1}
    handles: dict[str, Any] = {}
    for (named_down, named_across), found in lines.items():
        panel = axes[rows.index(named_down)][columns.index(named_across)]
        for name, points in found.items():
            times, places = [point["median ms"] for point in points], [point[along] for point in points]
            (handles[name],) = panel.plot(places, times, ms=4, **styles[name])
        panel.set(xscale="log", yscale="log")
        panel.set_xticks(values[along], map(str, values[along]), minor=False)
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.3)
    for panel, name in zip(axes[:, 0], rows, strict=True):
        panel.set_ylabel(f"{name}\nmilliseconds", size=8)
    for panel, name in zip(axes[0], columns, strict=True):
        panel.set_title(name.replace(", ", "\n"), size=8)
    for panel in axes[-1]:
        panel.set_xlabel(along)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(len(handles), len(columns)))


def _draw_bars(figure: Any, report: Report, cases: dict[str, list[int]]) -> None:
    figure.set_size_inches(14, 2 + 0.28 * (len(report.rows) + 2 * len(cases)))
    bars, roof = figure.subplots(1, 2, width_ratios=(3, 2))
    height, ticks, names = 0.0, [], []
    for case, places in cases.items():
        bars.text(0, height, case, transform=bars.get_yaxis_transform(), va="center", weight="bold", size=8)
        for place in places:
            height += 1
            row = report.rows[place]
            ours = place == places[0]
            median, low, high = (row[name] for name in ("median ms", "p10 ms", "p90 ms"))
            bars.barh(height, median, color=OURS if ours else PEERS)
            bars.errorbar(median, height, xerr=[[median - low], [high - median]], color="black", capsize=2, lw=0.8)
            ratio = "" if ours else f"  {row['ours is faster by']:.2g}x"
            bars.text(high, height, ratio, va="center", size=8)
            ticks.append(height)
            names.append(_contender(row))
        height += 1.5
    bars.set_yticks(ticks, names, size=8)
    bars.set(xscale="log", xlabel="milliseconds (median, p10 to p90); how much faster ours is", ylim=(height, -1))
    bars.margins(x=0.12)
    _draw_roofline(roof, report)


def _draw_roofline(axes: Any, report: Report) -> None:
    """Operations a second over operations a byte, under what memory and arithmetic allow."""
    points = [row for row in report.rows if row["GFLOP/s"] and row["GB/s"]]
    if not points:
        axes.set_axis_off()
        return
    gemm = points[0]["GFLOP/s"] / points[0]["share of GEMM peak"]
    copy = points[0]["GB/s"] / points[0]["share of copy peak"]
    intensities = [row["GFLOP/s"] / row["GB/s"] for row in points]
    low, high = min(*intensities, gemm / copy) / 3, max(*intensities, gemm / copy) * 3
    axes.plot([low, gemm / copy, high], [low * copy, gemm, gemm], color="black", lw=1)
    for row, intensity in zip(points, intensities, strict=True):
        ours = row["implementation"].startswith("dslstm_jax")
        axes.plot(intensity, row["GFLOP/s"], "o", color=OURS if ours else PEERS)
    axes.set(xscale="log", yscale="log", xlabel="operations / byte", ylabel="GFLOP/s")
    axes.set_title("ours (blue) and other JAX programs under this machine's peaks", size=9)

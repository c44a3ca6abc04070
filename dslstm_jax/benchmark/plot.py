"""A benchmark's rows as a picture: ours against each peer, and how near to the machine's peaks."""

from pathlib import Path
from typing import Any

from dslstm_jax.benchmark.harness import Report
from dslstm_jax.errors import RunError
from dslstm_jax.files import make_folder

OURS, PEERS = "#2563a8", "#b9bfc7"


def draw_report(report: Report, path: Path) -> None:
    """Bars of the median times, grouped by case, whiskers from p10 to p90; beside them the roofline.

    Raises:
      RunError: the benchmark has no times of ours against others'.
    """
    if "implementation" not in report.rows[0]:
        raise RunError(f"--plot: benchmark {report.name} has nothing to draw")
    from matplotlib.figure import Figure

    cases: dict[str, list[int]] = {}
    for place, row in enumerate(report.rows):
        names = list(row)[: list(row).index("implementation")]
        case = ", ".join(str(row[name]) if isinstance(row[name], str) else f"{name} {row[name]}" for name in names)
        cases.setdefault(case, []).append(place)
    figure = Figure(figsize=(14, 2 + 0.28 * (len(report.rows) + 2 * len(cases))), layout="constrained")
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
            names.append(row["implementation"])
        height += 1.5
    bars.set_yticks(ticks, names, size=8)
    bars.set(xscale="log", xlabel="milliseconds (median, p10 to p90); how much faster ours is", ylim=(height, -1))
    bars.margins(x=0.12)
    _draw_roofline(roof, report)
    make_folder(path.parent)
    figure.savefig(path, dpi=120)


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

"""What every benchmark shares: warm, blocked timings, the machine they were taken on, and the places they go to."""

import importlib.metadata
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from dslstm_jax.errors import RunError
from dslstm_jax.runs.provenance import describe_environment, describe_machine
from dslstm_jax.util.files import write_json, write_text

Row = Mapping[str, Any]
"""One measured line: its columns by name; None where a column does not apply."""
PEERS = ("torch", "librosa", "opensmile")
"""Packages of the extra `bench`, whose versions belong to the figures."""


@dataclass(frozen=True)
class Timing:
    """Seconds."""

    first: float
    """The first call, compilation included."""
    median: float
    p10: float
    p90: float
    best: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """The first call, and the statistics of the others."""
        p10, median, p90 = np.percentile(seconds[1:], [10, 50, 90])
        return cls(seconds[0], float(median), float(p10), float(p90), min(seconds[1:]))


def clock(call: Callable[[], Any], repeats: int) -> Timing:
    """Times a call that was made once before, waiting for all arrays it returns."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - started)
    return Timing.of(seconds)


@dataclass(frozen=True)
class Report:
    """A table of measured rows, and all that is needed to measure them again."""

    name: str
    notes: tuple[str, ...]
    """Sentences that the figures need."""
    rows: tuple[Row, ...]

    def table(self) -> str:
        """The rows as a Markdown table."""
        columns = list(self.rows[0])
        lines = [columns, ["---" if isinstance(self.rows[0][column], str) else "---:" for column in columns]]
        lines += [[_cell(row[column]) for column in columns] for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}".replace(",", " ")
    return "" if value is None else str(value)


def environment() -> dict[str, Any]:
    """describe_environment, with the versions of the peers that are installed."""
    found = describe_environment()
    peers = {name: version for name in PEERS if (version := _version(name))}
    return {**found, "packages": {**found["packages"], **peers}}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_report(report: Report, json: Path | None, update: Path | None) -> None:
    """Writes the rows with their environment as JSON, and into their own block of a Markdown file, where asked.

    Raises:
      RunError: the Markdown file has no block of that name.
    """
    about = environment()
    if json is not None:
        write_json(json, {"benchmark": report.name, "environment": about, "notes": report.notes, "rows": report.rows})
    if update is not None:
        write_text(update, _with_block(update, report, about))


def _with_block(path: Path, report: Report, about: Mapping[str, Any]) -> str:
    begin, end = (f"<!-- {mark}: benchmark {report.name} -->" for mark in ("begin", "end"))
    text = path.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise RunError(f"{path}: no block for it; put the lines {begin} and {end} where it belongs")
    command = shlex.join(["dslstm", *about["command"][1:]])
    named = [name for name in ("jax", "flax", "numpy", "grain", *PEERS) if name in about["packages"]]
    packages = ", ".join(f"{name} {about['packages'][name]}" for name in named)
    commit = re.sub(r"^(\w{7})\w+", r"\1", about["commit"] or "an unknown commit")
    machine = f"{describe_machine(about)}; Python {about['python']}, {packages}"
    said = [f"`{command}` at {commit}; {machine}.", report.table(), *report.notes]
    return "\n\n".join([before + begin, *said, end + after])


def print_report(report: Report) -> None:
    """The table and its notes on stdout."""
    print(report.table())
    for note in report.notes:
        print(note)

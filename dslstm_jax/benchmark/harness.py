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

from dslstm_jax.reporting.benchmark import Row, format_rows, rewrite_block
from dslstm_jax.runs.provenance import describe_environment, describe_machine
from dslstm_jax.util.files import write_json

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


def publish(report: Report, json: Path | None, update: Path | None) -> None:
    """Writes the rows with their environment as JSON, and into their own block of a Markdown file, where asked.

    Raises:
      RunError: the Markdown file has no block of that name.
    """
    about = environment()
    if json is not None:
        write_json(json, {"benchmark": report.name, "environment": about, "notes": report.notes, "rows": report.rows})
    if update is not None:
        rewrite_block(update, report.name, [_describe(about), format_rows(report.rows), *report.notes])


def _describe(about: Mapping[str, Any]) -> str:
    """The command, the commit, the machine and the packages, as one sentence."""
    command = shlex.join(["dslstm", *about["command"][1:]])
    named = [name for name in ("jax", "flax", "numpy", "grain", *PEERS) if name in about["packages"]]
    packages = ", ".join(f"{name} {about['packages'][name]}" for name in named)
    commit = re.sub(r"^(\w{7})\w+", r"\1", about["commit"] or "an unknown commit")
    return f"`{command}` at {commit}; {describe_machine(about)}; Python {about['python']}, {packages}."

"""dslstm benchmark."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dslstm_jax.benchmark.sweep import SweepConfig
from dslstm_jax.config import Config, TrainingConfig

if TYPE_CHECKING:
    from dslstm_jax.benchmark.harness import Report


@dataclass(frozen=True)
class Benchmark:
    """Time what we ship on this machine, and print, keep or publish the rows."""

    what: Annotated[
        tyro.conf.Positional[Literal["recurrence", "features", "train", "predict", "data", "scaling"]],
        tyro.conf.arg(metavar="WHAT"),
    ]
    """recurrence, features, train, predict, data or scaling. recurrence: LSTM and DS-LSTM; features: of some
    utterances; train: one step; predict: one recording (these four beside their peers, where the extra `bench` is
    installed); data: recordings to batches, against what the training step consumes; scaling: a step on many chips,
    by arithmetic on the compiled program."""
    repeats: int = 15
    """Times that each is timed. Where that takes long there are fewer, at least 3."""
    sweep: SweepConfig = SweepConfig()
    json: Path | None = None
    """Write the rows and the environment there."""
    update: Path | None = None
    """Rewrite this benchmark's block of a Markdown file."""
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Draw ours against the peers, and how near to the machine's peaks."""
    config: Annotated[Config, tyro.conf.arg(name="")] = Config(training=TrainingConfig(batch_size=32))


def _benchmark_recurrence(arguments: Benchmark, _: Path) -> "Report":
    from dslstm_jax.benchmark.recurrence import benchmark_recurrence

    return benchmark_recurrence(arguments.sweep, arguments.repeats)


def _benchmark_features(arguments: Benchmark, _: Path) -> "Report":
    from dslstm_jax.benchmark.features import benchmark_features

    return benchmark_features(arguments.config, arguments.sweep.batch, arguments.repeats)


def _benchmark_train(arguments: Benchmark, _: Path) -> "Report":
    from dslstm_jax.benchmark.train import benchmark_train

    return benchmark_train(arguments.config, arguments.repeats)


def _benchmark_predict(arguments: Benchmark, folder: Path) -> "Report":
    from dslstm_jax.benchmark.predict import benchmark_predict

    return benchmark_predict(arguments.config, arguments.repeats, folder)


def _benchmark_data(arguments: Benchmark, folder: Path) -> "Report":
    from dslstm_jax.benchmark.data import benchmark_data

    return benchmark_data(arguments.config, folder)


def _benchmark_scaling(arguments: Benchmark, _: Path) -> "Report":
    from dslstm_jax.benchmark.scaling import benchmark_scaling

    return benchmark_scaling(arguments.config)


BENCHMARKS: dict[str, Callable[[Benchmark, Path], "Report"]] = {
    "recurrence": _benchmark_recurrence,
    "features": _benchmark_features,
    "train": _benchmark_train,
    "predict": _benchmark_predict,
    "data": _benchmark_data,
    "scaling": _benchmark_scaling,
}


def benchmark(arguments: Benchmark) -> int:
    """dslstm benchmark"""
    from dslstm_jax.benchmark.harness import publish
    from dslstm_jax.reporting.benchmark import draw_rows, format_rows

    with tempfile.TemporaryDirectory(prefix="dslstm-benchmark-") as folder:
        report = BENCHMARKS[arguments.what](arguments, Path(folder))
    print(format_rows(report.rows), *report.notes, sep="\n")
    publish(report, arguments.json, arguments.update)
    if arguments.plot is not None:
        draw_rows(report.name, report.rows, arguments.plot)
    return 0

"""dslstm benchmark."""

import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dslstm_jax.benchmark.sweep import SweepConfig
from dslstm_jax.config import Config, TrainingConfig


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


def benchmark(arguments: Benchmark) -> int:
    """dslstm benchmark"""
    from dslstm_jax.reporting.benchmark import draw_rows, format_rows, publish

    what, config, sweep, repeats = arguments.what, arguments.config, arguments.sweep, arguments.repeats
    module = import_module(f"dslstm_jax.benchmark.{what}")
    with tempfile.TemporaryDirectory(prefix="dslstm-benchmark-") as folder:
        inputs = {
            "recurrence": (sweep, repeats),
            "features": (config, sweep.batch, repeats),
            "train": (config, repeats),
            "predict": (config, repeats, Path(folder)),
            "data": (config, Path(folder)),
            "scaling": (config,),
        }
        report = getattr(module, f"benchmark_{what}")(*inputs[what])
    print(format_rows(report.rows), *report.notes, sep="\n")
    publish(report, arguments.json, arguments.update)
    if arguments.plot is not None:
        draw_rows(report.name, report.rows, arguments.plot)
    return 0

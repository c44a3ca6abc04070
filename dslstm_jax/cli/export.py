"""dslstm export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Export:
    """Write a trained recognizer, or an ensemble of several, as one file."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """Run folder of a trained recognizer. Several: their ensemble, the mean of their probabilities."""
    output: Annotated[Path, tyro.conf.arg(metavar="FILE.dslstm")]
    """The file to write. dslstm_jax.load reads it, and so does any program that has JAX (docs/export.md)."""


def export_run(arguments: Export) -> int:
    """dslstm export"""
    from dslstm_jax.serving.predictor import load

    load(arguments.runs).export(arguments.output)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.1f} MB")
    return 0

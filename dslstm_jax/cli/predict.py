"""dslstm predict."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dslstm_jax.errors import AudioError


@dataclass(frozen=True)
class Predict:
    """Recognize the emotion in sound files."""

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PATH")]
    """Sound files, and folders that are searched for them."""
    model: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Run folder of a trained recognizer, or a file of dslstm export."""
    format: Literal["table", "json", "csv"] = "table"
    """json: one object a line."""


def predict_files(arguments: Predict) -> int:
    """dslstm predict"""
    from dslstm_jax.data.audio import find_audio
    from dslstm_jax.serving.formats import FORMATS
    from dslstm_jax.serving.predictor import keep_programs, load

    keep_programs()
    predictor = load(arguments.model)
    found: list[tuple[Path, AudioError | None]] = []
    for path in arguments.paths:
        try:
            found += [(file, None) for file in find_audio(path)]
        except AudioError as error:
            found.append((path, error))
    answers = predictor.files(path for path, error in found if error is None)
    writer = FORMATS[arguments.format](sys.stdout, predictor.labels, [str(path) for path, _ in found])
    failures = 0
    for path, missing in found:
        answer = missing or next(answers)
        if isinstance(answer, AudioError):
            failures += 1
            print(f"dslstm predict: {answer}", file=sys.stderr)
        writer.write(str(path), answer)
    return 1 if failures else 0

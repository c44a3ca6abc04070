"""dslstm predict."""

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dslstm_jax.errors import AudioError, ConfigError

_LOG_EVERY = 30.0
"""Seconds between two lines about the progress in a log."""


@dataclass(frozen=True)
class Predict:
    """Recognize the emotion in sound files.

    Exit code 0: all answered; 1: some files could not be used, each is named on stderr and the others are answered;
    2: nothing could be done.
    """

    paths: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATH...")]
    """Sound files, folders, quoted patterns such as "recordings/**/*.wav", or - for a list on stdin. Folders are
    searched for sound files. On stdin there is one path a line, or they are separated by NUL as `find -print0`
    does."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder of a trained recognizer, or a file of dslstm export; by default the package's model."""
    format: Annotated[Literal["table", "json", "csv"] | None, tyro.conf.arg(metavar="table|json|csv")] = None
    """table, json (one object a line) or csv; by default what the ending of --output says, else table. The endings
    are .json, .jsonl, .csv and .txt. A table has bars on a terminal and is plain in a pipe; csv has a row a file."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the answers there and not to stdout, whole or not at all. Until then they are kept in FILE.part."""
    resume: bool = False
    """Go on from FILE.part, which a killed job left beside --output. FILE becomes what it would have been."""
    timeline: bool = False
    """Also recognize windows that slide over each recording, which may have any length. The windows are in the json
    and the table; one of digital silence has no label. The answer for a recording over ten minutes is the mean over
    its windows."""
    window: float = 3.0
    """Seconds of each window of the timeline."""
    hop: float = 1.0
    """Seconds from one window of the timeline to the next. The last window ends with the recording."""
    pictures: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where a picture of each timeline is drawn; by default beside --output. It is NAME.timeline.png; without
    --output and --pictures there is none."""


def predict(arguments: Predict) -> int:
    """dslstm predict"""
    from rich.console import Console

    from dslstm_jax.serving.job import answer_files, find_inputs
    from dslstm_jax.serving.predictor import load
    from dslstm_jax.util.programs import keep_programs
    from dslstm_jax.util.progress import progress_bar

    format_name, output = _check(arguments), arguments.output
    keep_programs()
    predictor = load(arguments.model)
    inputs = find_inputs(arguments.paths)
    answers = answer_files(
        predictor,
        inputs,
        format_name,
        output,
        resume=arguments.resume,
        window=arguments.window if arguments.timeline else None,
        hop=arguments.hop,
        pictures=arguments.pictures,
    )
    shown = progress_bar(Console(stderr=True), "files answered", len(inputs), log_every=_LOG_EVERY)
    failures = 0
    with shown if output or not sys.stdout.isatty() else nullcontext(lambda: None) as advance:
        for answer in answers:
            if isinstance(answer, AudioError):
                failures += 1
                print(f"dslstm predict: {answer}", file=sys.stderr)
            advance()
    if output:
        unusable = f" ({failures} of {len(inputs)} files could not be used)" if failures else ""
        print(f"answers: {output}{unusable}")
    return 1 if failures else 0


def _check(arguments: Predict) -> str:
    """Refuses flags that do not go together; returns the format."""
    from dslstm_jax.serving.formats import ENDINGS

    output = arguments.output
    if not arguments.paths:
        raise ConfigError("give the files: PATH..., or - for a list on stdin")
    if arguments.resume and output is None:
        raise ConfigError("--resume needs the --output FILE of the job that was stopped")
    if arguments.pictures and not arguments.timeline:
        raise ConfigError("--pictures are drawn of timelines; add --timeline")
    if output is None:
        return arguments.format or "table"
    if output.exists() and not output.is_file():
        raise ConfigError(f"--output {output} is no file; without --output the answers go to stdout")
    if arguments.format is None and output.suffix.lower() not in ENDINGS:
        raise ConfigError(f"--output {output}: give --format, or one of the endings {', '.join(ENDINGS)}")
    return arguments.format or ENDINGS[output.suffix.lower()]

"""dslstm predict."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dslstm_jax.errors import AudioError, ConfigError

if TYPE_CHECKING:
    from dslstm_jax.serving.formats import Answer
    from dslstm_jax.serving.predictor import Predictor

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


def predict_files(arguments: Predict) -> int:
    """dslstm predict"""
    format_name = _check(arguments)
    from dslstm_jax.serving.formats import FORMATS
    from dslstm_jax.serving.job import answer_and_keep, job_identity, read_kept
    from dslstm_jax.serving.predictor import load
    from dslstm_jax.util.files import make_folder, whole_file
    from dslstm_jax.util.programs import keep_programs

    keep_programs()
    predictor = load(arguments.model)
    inputs = _find_inputs(arguments.paths)
    names = [name for name, _ in inputs]
    pictures = arguments.pictures or (arguments.output and arguments.output.parent)

    def answer(start: int) -> "Iterator[Answer]":
        sources = [source for _, source in inputs[start:]]
        window = arguments.window if arguments.timeline else None
        answers = predictor.files(sources, window=window, hop=arguments.hop)
        if not arguments.timeline or not pictures:
            return answers
        return _draw(predictor, names[start:], answers, _picture_paths(pictures, names)[start:])

    answers = answer(0)  # finds a window without sense before anything is written
    if arguments.timeline and pictures:
        make_folder(pictures)
    if arguments.output is None:
        failures = 0
        writer = FORMATS[format_name](sys.stdout, predictor.labels, names)
        for name, found in zip(names, _report(answers, len(names), bar=not sys.stdout.isatty()), strict=True):
            writer.write(name, found)
            failures += isinstance(found, AudioError)
        return 1 if failures else 0
    kept = arguments.output.with_name(f"{arguments.output.name}.part")
    identity = job_identity(predictor, names, (arguments.window, arguments.hop) if arguments.timeline else ())
    answers = answer_and_keep(kept, identity, names, answer, resume=arguments.resume)
    failures = sum(isinstance(found, AudioError) for found in _report(answers, len(names), bar=True))
    with (
        whole_file(arguments.output) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream,
    ):
        writer = FORMATS[format_name](stream, predictor.labels, names)
        for name, found in zip(names, read_kept(kept), strict=True):
            writer.write(name, found)
    kept.unlink()
    unusable = f" ({failures} of {len(names)} files could not be used)" if failures else ""
    print(f"answers: {arguments.output}{unusable}")
    return 1 if failures else 0


def _report(answers: "Iterator[Answer]", total: int, *, bar: bool) -> "Iterator[Answer]":
    """The answers; what failed is named on stderr, and with `bar` the progress is shown there."""
    from rich.console import Console

    from dslstm_jax.util.progress import progress_bar

    shown = progress_bar(Console(stderr=True), "files answered", total, log_every=_LOG_EVERY)
    with shown if bar else nullcontext(lambda: None) as advance:
        for found in answers:
            if isinstance(found, AudioError):
                print(f"dslstm predict: {found}", file=sys.stderr)
            yield found
            advance()


def _check(arguments: Predict) -> str:
    """Finds flags that do not go together; returns the format."""
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


def _find_inputs(paths: Sequence[str]) -> list[tuple[str, Path | AudioError]]:
    """The name and place of each sound file that is meant, or why there is none."""
    from dslstm_jax.data.audio import find_audio

    found: list[tuple[str, Path | AudioError]] = []
    for path in paths:
        listed = _read_list() if path == "-" else [path]
        if not listed:
            found.append((path, AudioError("-: no path on stdin")))
        for name in (match for each in listed for match in _expand(each)):
            try:
                found += [(str(file), file) for file in find_audio(name)]
            except AudioError as error:
                found.append((name, error))
    return found


def _read_list() -> list[str]:
    content = sys.stdin.buffer.read()
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(line) for line in lines if line]


def _expand(path: str) -> list[str]:
    """What a pattern stands for, sorted, as a shell does it; whatever exists or matches nothing is itself."""
    if not glob.has_magic(path) or os.path.lexists(path):
        return [path]
    return sorted(glob.glob(path, recursive=True)) or [path]  # noqa: PTH207 (Path.glob wants a folder to start from)


def _picture_paths(folder: Path, names: Sequence[str]) -> list[Path]:
    """A picture for each file; where several have the same name, the later ones are numbered."""
    paths: dict[str, Path] = {}
    used: Counter[str] = Counter()
    for name in names:
        stem = given = Path(name).stem[:100]
        while stem.lower() in paths:  # as a file system sees it that ignores case
            used[given.lower()] += 1
            stem = f"{given}-{used[given.lower()] + 1}"
        paths[stem.lower()] = folder / f"{stem}.timeline.png"
    return list(paths.values())


def _draw(
    predictor: "Predictor", names: Sequence[str], answers: "Iterator[Answer]", pictures: Sequence[Path]
) -> "Iterator[Answer]":
    from dslstm_jax.data.audio import read_blocks
    from dslstm_jax.reporting.timeline import draw_timeline

    for name, answer, picture in zip(names, answers, pictures, strict=True):
        if not isinstance(answer, AudioError) and answer.windows:
            blocks = read_blocks(name, predictor.sample_rate)
            draw_timeline(
                blocks, predictor.sample_rate, answer.windows, predictor.labels, f"{name}: {answer.label}", picture
            )
        yield answer

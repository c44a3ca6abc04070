"""dslstm predict, export, serve."""

import socket
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dslstm_jax.errors import AudioError, ConfigError, DslstmError


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
    from dslstm_jax.util.progress import progress_bar

    format_name, output = _check(arguments), arguments.output
    predictor = load(arguments.model)
    inputs = find_inputs(arguments.paths)
    answers = answer_files(
        predictor,
        inputs,
        format_name,
        output,
        resume=arguments.resume,
        timeline=(arguments.window, arguments.hop) if arguments.timeline else None,
        pictures=arguments.pictures,
    )
    shown = progress_bar(Console(stderr=True), "files answered", len(inputs), log_every=30.0)
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


@dataclass(frozen=True)
class Serve:
    """Try a recognizer on a web page of this machine."""

    model: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder of a trained recognizer, or a file of dslstm export; by default the package's model."""
    host: str = "127.0.0.1"
    """Address to listen on. The default is reached from this machine alone, 0.0.0.0 from all others too."""
    port: int = 8000
    """Port to listen on; 0: any that is free."""


def serve_page(arguments: Serve) -> int:
    """dslstm serve"""
    try:
        import uvicorn

        from dslstm_jax.serving.web import make_app
    except ModuleNotFoundError as error:
        raise DslstmError('the page needs starlette and uvicorn: pip install "dslstm-jax[serve]"') from error
    from dslstm_jax.serving.predictor import load

    with _listen(arguments.host, arguments.port) as listener:
        predictor = load(arguments.model)
        host, port = listener.getsockname()[:2]
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}/  (Ctrl+C ends)", flush=True)
        app = make_app(predictor, arguments.model.resolve().name if arguments.model else "pretrained")
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, which uvicorn would end the process for not getting."""
    if not 0 <= port < 1 << 16:  # getaddrinfo takes the rest of a division
        raise ConfigError(f"--port {port}: give 0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        reason = str(getattr(error, "strerror", error)).partition(" (")[0]
        raise ConfigError(f"cannot listen on {host}, port {port}: {reason}; try another --host or --port") from error

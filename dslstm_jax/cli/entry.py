"""dslstm: parse, call one function, print.

Exit codes: 0 all done; 1 some inputs failed, the others are done, each failure named on stderr; 2 nothing could be
done (usage, config, missing model).
"""

import contextlib
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from dslstm_jax import __version__
from dslstm_jax.cli import benchmark, data, serving, training
from dslstm_jax.cli.flags import FILE_ONLY, registry
from dslstm_jax.config import load_config
from dslstm_jax.errors import DslstmError

COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "train": (training.Train, training.train),
    "crossval": (training.Crossval, training.crossval),
    "compare": (training.Compare, training.compare_runs),
    "evaluate": (training.Evaluate, training.evaluate_run),
    "predict": (serving.Predict, serving.predict),
    "export": (serving.Export, serving.export_run),
    "serve": (serving.Serve, serving.serve_page),
    "corpora": (data.Corpora, data.describe_corpora),
    "prepare": (data.Prepare, data.prepare_records),
    "import-torch": (training.ImportTorch, training.import_torch),
    "benchmark": (benchmark.Benchmark, benchmark.benchmark),
}
INTERRUPTED = dict.fromkeys(("train", "crossval"), "; go on with --resume") | {
    "prepare": "; the same command goes on from here",
    "predict": "; with --output, go on with --resume",
}


def _usage() -> str:
    commands = [f"  {name:14}{(kind.__doc__ or '').splitlines()[0]}\n" for name, (kind, _) in COMMANDS.items()]
    return f"usage: dslstm COMMAND ...\n\ncommands:\n{''.join(commands)}\ndslstm COMMAND --help says more."


def _parse(command: str, argv: Sequence[str]) -> Any:
    """The command's dataclass filled from the flags; a mistake becomes one line and exit code 2."""
    arguments: Any = COMMANDS[command][0]
    default: Any = tyro.MISSING_NONPROP
    if command in ("train", "crossval") and argv and not argv[0].startswith("-"):
        workdir = {"workdir": tyro.MISSING} if command == "train" else {}
        default = arguments(tyro.MISSING, **workdir, config=load_config(argv[0]))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(arguments, prog=f"dslstm {command}", args=list(argv), default=default, registry=registry)
    except SystemExit as stop:
        if stop.code:
            print(_one_line(command, said.getvalue()), file=sys.stderr)
        raise


def _one_line(command: str, box: str) -> str:
    """tyro's boxed message as one line: what is wrong, and the nearest flag if it names one."""
    text = "\n".join(line.strip("│╭╮╰╯─ ") for line in box.splitlines()[1:])
    parts = re.split(r"^-*$", text, flags=re.MULTILINE)  # of dashes, where the terminal knows no boxes
    message = " ".join(next(filter(str.strip, parts), "").split())
    near = re.search(r"Perhaps you meant:.*?(--[\w.-]+)", text, re.DOTALL)
    hint = f"; did you mean {near[1]}?" if near else ""
    if any(flag.replace("-", "_").startswith(FILE_ONLY) for flag in re.findall(r"--([\w.-]+)", message)):
        hint = "; set it in the config file"
    return f"dslstm {command}: {message}{hint} (dslstm {command} --help lists all)"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(__version__)
        return 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may hold bytes that are no text
            stream.reconfigure(errors="backslashreplace")
    command = argv[0]
    if command not in COMMANDS:
        print(f"dslstm: unknown command {command!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        arguments = _parse(command, argv[1:])
        if command in ("train", "crossval", "evaluate", "predict", "serve"):
            from dslstm_jax.util.programs import keep_programs

            keep_programs()
        return COMMANDS[command][1](arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    except DslstmError as error:
        if os.environ.get("DSLSTM_DEBUG"):
            traceback.print_exc()
        print(f"dslstm {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"dslstm {command}: interrupted{INTERRUPTED.get(command, '')}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has had enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1

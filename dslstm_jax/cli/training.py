"""dslstm train, crossval, compare, evaluate, import-torch."""

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dslstm_jax.config import Config, load_config
from dslstm_jax.training.devices import ParallelConfig
from dslstm_jax.util.files import to_json

if TYPE_CHECKING:
    from dslstm_jax.api import Run
    from dslstm_jax.evaluation.evaluate import Evaluation


@dataclass(frozen=True)
class Train:
    """Train a recognizer, choose the epoch on validation speakers, report on test speakers.

    A flag overrides the value of the config file.
    """

    config_file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG.py")]
    """Config file: FILE.py, or FILE.py:NAME for one of several in it."""
    workdir: Path
    """Run folder, where config, split, metrics, checkpoints and report go."""
    resume: bool = False
    """Go on from the newest checkpoint of the run folder."""
    parallel: ParallelConfig = ParallelConfig()
    config: Annotated[Config, tyro.conf.arg(name="")] = Config()


@dataclass(frozen=True)
class CrossvalConfig:
    """How the runs of a cross-validation are trained."""

    vmap: bool = False
    """Train all folds and seeds at once, in one program on one device. It is for an accelerator that a single run
    leaves idle; on a CPU it is no faster."""
    shard: tuple[int, int] = (1, 1)
    """Train one share of the runs: `1 4` is the first of four. The shares may run on any machines that see --workdir.
    Each goes on where it was stopped; the one that ends last writes the report."""


@dataclass(frozen=True)
class Crossval:
    """Train and test every fold of a protocol under several seeds, and report on all together.

    A flag overrides the value of the config file.
    """

    config_file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG.py")]
    """Config file: FILE.py, or FILE.py:NAME for one of several in it."""
    workdir: Path | None = None
    """Folder of all runs and of the report. Default: runs/crossval-CORPUS-PROTOCOL."""
    protocol: str | None = None
    """split.protocol, which says more, by a shorter name."""
    seeds: int = 3
    """Runs of each fold, from training.seed on; the folds are the same for all."""
    resume: bool = False
    """Go on in a folder that holds a part of the runs."""
    crossval: CrossvalConfig = CrossvalConfig()
    parallel: ParallelConfig = ParallelConfig()
    config: Annotated[Config, tyro.conf.arg(name="")] = Config()


@dataclass(frozen=True)
class Compare:
    """Put cross-validations over the same folds side by side, with paired tests."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """Folders of dslstm crossval, or copies of their results.json; at least two."""


@dataclass(frozen=True)
class Evaluate:
    """Run a trained recognizer over one side of its split."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    split: Literal["train", "validation", "test"] = "test"
    """Which side."""
    json: bool = False
    """Print one JSON object instead of the table."""
    parallel: ParallelConfig = ParallelConfig()


@dataclass(frozen=True)
class ImportTorch:
    """Turn a state dict of the authors' PyTorch code into a run folder that predicts."""

    state_dict: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STATE_DICT.pt")]
    """File made by torch.save(model.state_dict(), FILE)."""
    config_file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG.py")]
    """Config file: what the tensors do not show (sample rate, frame sizes)."""
    workdir: Path
    """Run folder to be made."""
    labels: tuple[str, ...] = ("happy", "neutral", "angry", "sad")
    """The classes in the order of the logits."""


def train(arguments: Train) -> int:
    """dslstm train"""
    from dslstm_jax import api

    run = api.train(arguments.config, arguments.workdir, resume=arguments.resume, parallel=arguments.parallel)
    if not run.is_main:
        return 0
    if not run.finished:
        return _stopped(arguments.resume)
    print(f"run folder: {run.path}")
    example = run.dataset.corpus.utterances[run.dataset.split.test[0]]
    if example.record is None:
        print("try:", shlex.join(["dslstm", "predict", "--model", str(run.path), example.path]))
    _print_evaluation(run, run.evaluate("test"))
    return 0


def crossval(arguments: Crossval) -> int:
    """dslstm crossval"""
    from dslstm_jax import api
    from dslstm_jax.reporting.crossval_report import format_summary

    config = arguments.config
    if arguments.protocol:
        config = replace(config, split=replace(config.split, protocol=arguments.protocol))
    workdir = arguments.workdir or api.default_folder(config)
    options = {"seeds": arguments.seeds, "resume": arguments.resume, **vars(arguments.crossval)}
    results = api.crossval(config, workdir, parallel=arguments.parallel, **options)
    if arguments.parallel.process:  # the first one speaks for all
        return 0
    if not isinstance(results, api.Unfinished):
        print(f"report: {workdir / 'report' / 'report.md'}")
        print(format_summary(results))
    elif results.preempted:
        return _stopped(arguments.resume)
    else:
        print(f"this shard is done; the report comes with the last of the {results.runs} runs left to others")
    return 0


def compare_runs(arguments: Compare) -> int:
    """dslstm compare"""
    from dslstm_jax import api

    print(api.compare(arguments.runs))
    return 0


def evaluate_run(arguments: Evaluate) -> int:
    """dslstm evaluate"""
    from dslstm_jax import api

    run = api.Run(arguments.run, parallel=arguments.parallel)
    result = run.evaluate(arguments.split)
    if arguments.json:
        print(to_json(result.to_dict()))
    else:
        _print_evaluation(run, result)
    return 0


def import_torch(arguments: ImportTorch) -> int:
    """dslstm import-torch"""
    from dslstm_jax.interop.torch import import_run, read_state_dict

    config = load_config(arguments.config_file)
    run = import_run(read_state_dict(arguments.state_dict), config, arguments.labels, arguments.workdir)
    print(f"run folder: {run.path}")
    print(f"try: dslstm predict --model {run.path} FILE.wav")
    return 0


def _print_evaluation(run: "Run", result: "Evaluation") -> None:
    from dslstm_jax.reporting.tables import format_confusion

    print(format_confusion(result.confusion, result.labels))
    if result.split == "test":
        print(f"report: {run.report}")
    print(f"{result.split} WA={result.wa:.4f} UA={result.ua:.4f} ({result.protocol})")


def _stopped(resumed: bool) -> int:
    """Says how a run that was preempted goes on; returns the exit code."""
    print("stopped; resume with:", shlex.join(["dslstm", *sys.argv[1:], *([] if resumed else ["--resume"])]))
    return 0

"""dslstm train, crossval, compare, evaluate."""

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dslstm_jax.cli.common import read_dataset, with_absolute_paths
from dslstm_jax.config import Config
from dslstm_jax.errors import ConfigError
from dslstm_jax.training.devices import ParallelConfig
from dslstm_jax.util.files import to_json

if TYPE_CHECKING:
    from rich.console import Console

    from dslstm_jax.evaluation.evaluate import Evaluation
    from dslstm_jax.runs.folder import Run


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


def print_evaluation(run: "Run", result: "Evaluation") -> None:
    from dslstm_jax.reporting.tables import format_confusion

    print(format_confusion(result.confusion, result.labels))
    if result.split == "test":
        print(f"report: {run.report / 'report.md'}")
    print(f"{result.split} WA={result.wa:.4f} UA={result.ua:.4f} ({result.protocol})")


def _stopped(console: "Console", resumed: bool) -> int:
    """Says how a run that was told to end goes on; returns the exit code."""
    resume = [] if resumed else ["--resume"]
    console.print("stopped; resume with:", shlex.join(["dslstm", *sys.argv[1:], *resume]), soft_wrap=True)
    return 0


def train(arguments: Train) -> int:
    """dslstm train"""
    from dslstm_jax.training.parallel import joined_processes
    from dslstm_jax.util.programs import keep_programs

    keep_programs()
    with joined_processes(arguments.parallel):
        return _train(arguments)


def _train(arguments: Train) -> int:
    from rich.console import Console

    from dslstm_jax.data.splits import describe
    from dslstm_jax.evaluation.calibration import calibrate
    from dslstm_jax.evaluation.evaluate import evaluate
    from dslstm_jax.models.recognizer import variable_shapes
    from dslstm_jax.runs.folder import check_resumable, create_run, open_run
    from dslstm_jax.training.loop import fit
    from dslstm_jax.training.parallel import make_parallel

    config = with_absolute_paths(arguments.config)
    parallel = make_parallel(arguments.parallel, config.training)
    console = Console(quiet=not parallel.leads)
    dataset = read_dataset(config)
    corpus, split = dataset.corpus, dataset.split
    folds = describe(corpus.utterances, split)
    variable_shapes(config, len(corpus.labels))  # a model that cannot be built is refused before anything is written
    goes_on = arguments.resume and (arguments.workdir / "config.json").exists()
    parallel.wait("run folder looked at")  # by all processes, before one of them makes it
    if goes_on:
        check_resumable(open_run(arguments.workdir), config, corpus.labels, folds)
    elif parallel.leads:
        create_run(arguments.workdir, config, corpus.labels, folds)
    parallel.wait("run folder made")
    run = open_run(arguments.workdir)
    for side, part in folds.items():
        if not part["utterances"]:
            continue
        speakers = f" of speakers {', '.join(part['speakers'])}" if part["speakers"] else ""
        console.print(f"{side}: {len(part['utterances'])} utterances{speakers}", highlight=False, soft_wrap=True)
    if not fit(run, dataset, parallel=parallel, console=console):
        return _stopped(console, arguments.resume)
    result = evaluate(run, dataset, "test", parallel)
    temperature = calibrate(run, dataset, parallel)
    fitted = "no temperature" if temperature is None else f"temperature {temperature:.2f}, fitted on validation"
    console.print(fitted, highlight=False)
    if parallel.leads:
        print(f"run folder: {run.path}")
        example = corpus.utterances[split.test[0]]
        if example.record is None:
            print("try:", shlex.join(["dslstm", "predict", "--model", str(run.path), example.path]))
        print_evaluation(run, result)
    return 0


def crossval(arguments: Crossval) -> int:
    """dslstm crossval"""
    from rich.console import Console

    from dslstm_jax.evaluation.crossval import Unfinished, crossvalidate
    from dslstm_jax.models.recognizer import variable_shapes
    from dslstm_jax.reporting.crossval_report import format_summary
    from dslstm_jax.training.parallel import joined_processes, make_parallel
    from dslstm_jax.util.programs import keep_programs

    keep_programs()
    if arguments.seeds < 1:
        raise ConfigError(f"seeds is {arguments.seeds}; it must be at least 1")
    share, shares = arguments.crossval.shard
    if not 1 <= share <= shares:
        raise ConfigError(f"crossval.shard is {share} {shares}; the first of four is 1 4, the last 4 4")
    config = arguments.config
    config = replace(
        config,
        split=replace(config.split, protocol=arguments.protocol or config.split.protocol, fold=0),
    )
    names = [part.name for part in config.corpus.parts] or [config.corpus.name]
    name = f"crossval-{'-'.join(names)}-{Path(config.split.protocol).stem}"
    path, config = arguments.workdir or Path("runs") / name, with_absolute_paths(config)
    settings = arguments.parallel
    if arguments.crossval.vmap and settings.mode == "auto":
        settings = replace(settings, mode="single")
    with joined_processes(settings):
        parallel = make_parallel(settings, config.training)
        console = Console(quiet=not parallel.leads)
        dataset = read_dataset(config)
        variable_shapes(config, len(dataset.corpus.labels))
        results = crossvalidate(
            path,
            config,
            dataset,
            seeds=arguments.seeds,
            resume=arguments.resume,
            vmap=arguments.crossval.vmap,
            shard=arguments.crossval.shard,
            parallel=parallel,
            console=console,
        )
        if isinstance(results, Unfinished):
            if results.told_to_end:
                return _stopped(console, arguments.resume)
            console.print(
                f"this shard is done; the report comes with the last of the {results.runs} runs left to others"
            )
            return 0
        if parallel.leads:
            print(f"report: {path / 'report' / 'report.md'}")
            print(format_summary(results))
        return 0


def compare_runs(arguments: Compare) -> int:
    """dslstm compare"""
    from dslstm_jax.evaluation.compare import read_comparable
    from dslstm_jax.reporting.comparison import format_comparison

    if len(arguments.runs) < 2:
        raise ConfigError("give at least two folders of dslstm crossval")
    print(format_comparison(read_comparable(arguments.runs)))
    return 0


def evaluate_run(arguments: Evaluate) -> int:
    """dslstm evaluate"""
    from dslstm_jax.data.splits import describe
    from dslstm_jax.evaluation.evaluate import evaluate
    from dslstm_jax.runs.folder import check_resumable, open_run
    from dslstm_jax.training.parallel import make_parallel
    from dslstm_jax.util.programs import keep_programs

    keep_programs()
    run = open_run(arguments.run)
    dataset = read_dataset(run.config)
    check_resumable(run, run.config, dataset.corpus.labels, describe(dataset.corpus.utterances, dataset.split))
    result = evaluate(run, dataset, arguments.split, make_parallel(arguments.parallel))
    if arguments.json:
        print(to_json(result.to_dict()))
    else:
        print_evaluation(run, result)
    return 0

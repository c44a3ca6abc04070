"""dslstm: parse, call one function, print.

Exit codes: 0 all done; 1 some inputs failed, the others are done, each failure named on stderr; 2 nothing could be
done (usage, config, missing model).
"""

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dslstm_jax.config import Config, CorpusConfig, ParallelConfig, SweepConfig, TrainingConfig, load_config
from dslstm_jax.errors import AudioError, ConfigError, DslstmError
from dslstm_jax.files import to_json

if TYPE_CHECKING:
    from rich.console import Console

    from dslstm_jax.benchmark.harness import Report
    from dslstm_jax.data.dataset import Dataset
    from dslstm_jax.evaluation.evaluate import Evaluation
    from dslstm_jax.training.run import Run


@dataclass(frozen=True)
class Train:
    """Train a recognizer, choose the epoch on validation speakers, report on test speakers.

    Every value of the config can be overridden by a flag.
    """

    config_file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG.py")]
    """Config file: FILE.py, or FILE.py:NAME for one of several in it."""
    workdir: Path
    """Run folder: config, split, metrics, checkpoints and report go there."""
    resume: bool = False
    """Go on from the newest checkpoint of the run folder."""
    parallel: ParallelConfig = ParallelConfig()  # noqa: RUF009 (frozen)
    config: Annotated[Config, tyro.conf.arg(name="")] = Config()  # noqa: RUF009 (frozen)


Choose = Literal["validation-best", "last", "test-best"]


@dataclass(frozen=True)
class CrossvalConfig:
    """How the runs of a cross-validation are trained."""

    choose: Choose | None = None
    """Which epoch is tested, training.choose of all runs. test-best is peeking, and called so beside every figure."""
    vmap: bool = False
    """Train all folds and seeds at once, in one program on one device: for an accelerator that a single run leaves
    idle. On a CPU it is no faster."""


@dataclass(frozen=True)
class Crossval:
    """Train and test every fold of a protocol under several seeds, and report on all together.

    Every value of the config can be overridden by a flag.
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
    parallel: ParallelConfig = ParallelConfig()  # noqa: RUF009 (frozen)
    config: Annotated[Config, tyro.conf.arg(name="")] = Config()  # noqa: RUF009 (frozen)


@dataclass(frozen=True)
class Compare:
    """Put cross-validations over the same folds side by side, with paired tests."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """Folders of dslstm crossval, at least two."""


@dataclass(frozen=True)
class Evaluate:
    """Run a trained recognizer over one side of its split."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    split: Literal["train", "validation", "test"] = "test"
    """Which side."""
    json: bool = False
    """Print one JSON object instead of the table."""
    parallel: ParallelConfig = ParallelConfig()  # noqa: RUF009 (frozen)


@dataclass(frozen=True)
class Predict:
    """Recognize the emotion in sound files."""

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PATH")]
    """Sound files, and folders that are searched for them."""
    model: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Run folder of a trained recognizer."""
    format: Literal["table", "json", "csv"] = "table"
    """json: one object a line."""


@dataclass(frozen=True)
class Corpora:
    """List the known corpora, or count and draw what a local copy of one holds."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")] = ""
    """Corpus to count; without it, all are listed."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Picture of the labels of each speaker and of the durations. Default: NAME.png in the current folder."""
    corpus: CorpusConfig = CorpusConfig(name="")  # noqa: RUF009 (frozen)


@dataclass(frozen=True)
class Prepare:
    """Write a corpus as records (tensorflow-datasets, ArrayRecord), which are read without decoding.

    The corpus `records` reads them: dslstm train CONFIG.py --corpus.name records --corpus.root FOLDER.
    """

    output: Path
    """Where the folder of the records is made; tensorflow-datasets calls it data_dir."""
    sample_rate: int = 16_000
    """Hertz; recordings at other rates are resampled to it."""
    longest: float = 60.0
    """Seconds; a longer recording cannot be used: cut it into utterances."""
    on_error: Literal["stop", "skip"] = "stop"
    """When recordings cannot be used, all of them are named. stop: no records are made; skip: they are left out."""
    beam_runner: str | None = None
    """Decode in Apache Beam's workers under this runner, such as DirectRunner."""
    corpus: CorpusConfig = CorpusConfig()  # noqa: RUF009 (frozen)
    """Which recordings to write."""


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


@dataclass(frozen=True)
class Benchmark:
    """Time what we ship on this machine, and print, keep or publish the rows."""

    what: Annotated[
        tyro.conf.Positional[Literal["recurrence", "features", "train", "predict", "data", "scaling"]],
        tyro.conf.arg(metavar="WHAT"),
    ]
    """recurrence: LSTM and DS-LSTM; features: of some utterances; train: one step; predict: one recording (these four
    beside their peers, where the extra `bench` is installed); data: recordings to batches, against what the training
    step consumes; scaling: a step on many chips, by arithmetic on the compiled program."""
    repeats: int = 15
    """Times that each is timed; fewer (at least 3) where that takes long."""
    sweep: SweepConfig = SweepConfig()  # noqa: RUF009 (frozen)
    json: Path | None = None
    """Write the rows and the environment there."""
    update: Path | None = None
    """Rewrite this benchmark's block of a Markdown file."""
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Draw ours against the peers, and how near to the machine's peaks."""
    config: Annotated[Config, tyro.conf.arg(name="")] = Config(training=TrainingConfig(batch_size=32))  # noqa: RUF009


def _load_dataset(config: Config) -> "Dataset":
    """The dataset of a run; each recording that cannot be used is named on stderr."""
    from rich.console import Console

    from dslstm_jax.data.corpora import load_corpus
    from dslstm_jax.data.dataset import make_dataset
    from dslstm_jax.progress import progress_bar

    corpus = load_corpus(config.corpus)
    with progress_bar(Console(stderr=True), "reading", len(corpus.utterances)) as done:
        return make_dataset(corpus, config, done=done, report=lambda error: print(error, file=sys.stderr))


def _absolute(path: str | None) -> str | None:
    return path and str(Path(path).expanduser().resolve())


def _with_absolute_paths(config: Config) -> Config:
    """The config with its files named so that the run folder can be used from anywhere."""
    corpus = replace(
        config.corpus,
        root=_absolute(config.corpus.root),
        roots=tuple(str(_absolute(root)) for root in config.corpus.roots),
        manifest=_absolute(config.corpus.manifest),
    )
    protocol = config.split.protocol
    if protocol.endswith(".json"):
        protocol = str(_absolute(protocol))
    return replace(config, corpus=corpus, split=replace(config.split, protocol=protocol))


def _print_evaluation(run: "Run", result: "Evaluation") -> None:
    from dslstm_jax.evaluation.report import format_confusion

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

    with joined_processes(arguments.parallel):
        return _train(arguments)


def _train(arguments: Train) -> int:
    from rich.console import Console

    from dslstm_jax.data.folds import describe
    from dslstm_jax.evaluation.evaluate import evaluate
    from dslstm_jax.models.recognizer import variable_shapes
    from dslstm_jax.training.loop import fit
    from dslstm_jax.training.parallel import make_parallel
    from dslstm_jax.training.run import check_resumable, create_run, open_run

    config = _with_absolute_paths(arguments.config)
    parallel = make_parallel(arguments.parallel, config.training)
    console = Console(quiet=not parallel.leads)
    dataset = _load_dataset(config)
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
        speakers = f" of speakers {', '.join(part['speakers'])}" if part["speakers"] else ""
        console.print(f"{side}: {len(part['utterances'])} utterances{speakers}", highlight=False, soft_wrap=True)
    if not fit(run, dataset, parallel=parallel, console=console):
        return _stopped(console, arguments.resume)
    result = evaluate(run, dataset, "test", parallel)
    if parallel.leads:
        print(f"run folder: {run.path}")
        example = corpus.utterances[split.test[0]]
        if example.record is None:
            print("try:", shlex.join(["dslstm", "predict", "--model", str(run.path), example.path]))
        _print_evaluation(run, result)
    return 0


def crossval(arguments: Crossval) -> int:
    """dslstm crossval"""
    from rich.console import Console

    from dslstm_jax.evaluation.crossval import crossvalidate
    from dslstm_jax.evaluation.results import format_summary
    from dslstm_jax.models.recognizer import variable_shapes
    from dslstm_jax.training.parallel import joined_processes, make_parallel

    if arguments.seeds < 1:
        raise ConfigError(f"seeds is {arguments.seeds}; it must be at least 1")
    config = arguments.config
    config = replace(
        config,
        split=replace(config.split, protocol=arguments.protocol or config.split.protocol, fold=0),
        training=replace(config.training, choose=arguments.crossval.choose or config.training.choose),
    )
    name = f"crossval-{'-'.join(config.corpus.names) or config.corpus.name}-{Path(config.split.protocol).stem}"
    path, config = arguments.workdir or Path("runs") / name, _with_absolute_paths(config)
    settings = arguments.parallel
    if arguments.crossval.vmap and settings.mode == "auto":
        settings = replace(settings, mode="single")
    with joined_processes(settings):
        parallel = make_parallel(settings, config.training)
        console = Console(quiet=not parallel.leads)
        dataset = _load_dataset(config)
        variable_shapes(config, len(dataset.corpus.labels))
        results = crossvalidate(
            path,
            config,
            dataset,
            seeds=arguments.seeds,
            resume=arguments.resume,
            vmap=arguments.crossval.vmap,
            parallel=parallel,
            console=console,
        )
        if results is None:
            return _stopped(console, arguments.resume)
        if parallel.leads:
            print(f"report: {path / 'report' / 'report.md'}")
            print(format_summary(results))
        return 0


def compare_runs(arguments: Compare) -> int:
    """dslstm compare"""
    from dslstm_jax.evaluation.compare import format_comparison, read_comparable

    if len(arguments.runs) < 2:
        raise ConfigError("give at least two folders of dslstm crossval")
    print(format_comparison(read_comparable(arguments.runs)))
    return 0


def evaluate_run(arguments: Evaluate) -> int:
    """dslstm evaluate"""
    from dslstm_jax.data.folds import describe
    from dslstm_jax.evaluation.evaluate import evaluate
    from dslstm_jax.training.parallel import make_parallel
    from dslstm_jax.training.run import check_resumable, open_run

    run = open_run(arguments.run)
    dataset = _load_dataset(run.config)
    check_resumable(run, run.config, dataset.corpus.labels, describe(dataset.corpus.utterances, dataset.split))
    result = evaluate(run, dataset, arguments.split, make_parallel(arguments.parallel))
    if arguments.json:
        print(to_json(result.to_dict()))
    else:
        _print_evaluation(run, result)
    return 0


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


def describe_corpora(arguments: Corpora) -> int:
    """dslstm corpora"""
    from dslstm_jax.data.corpora import CORPORA, load_corpus
    from dslstm_jax.data.summary import (
        align,
        draw_corpus,
        find_duplicates,
        format_counts,
        format_sound,
        read_headers,
    )

    config = replace(arguments.corpus, name=arguments.name or arguments.corpus.name)
    if not config.name and not config.names:
        if config != CorpusConfig(name=""):
            raise ConfigError("which corpus? give its name: dslstm corpora NAME --corpus.root DIR")
        abouts = [(name, module.ABOUT) for name, module in CORPORA.items()]
        rows = [(name, about.license, about.source, about.root) for name, about in abouts]
        print(align([("name", "license", "source", "--corpus.root"), *rows], left=4))
        return 0
    corpus = load_corpus(config)
    sound = read_headers(corpus.utterances)
    print(format_counts(corpus))
    print(format_sound(sound))
    problems = [*map(str, sound.errors), *find_duplicates(sound.readable)]
    print(f"problems: {len(problems) or 'none'}", flush=True)
    for problem in problems:
        print(f"dslstm corpora: {problem}", file=sys.stderr)
    picture = arguments.output or Path(f"{corpus.name}.png")
    draw_corpus(corpus, sound, picture)
    print(f"picture: {picture}")
    return 1 if problems else 0


def prepare_records(arguments: Prepare) -> int:
    """dslstm prepare"""
    from rich.console import Console

    from dslstm_jax.data.records import prepare

    prepared = prepare(
        arguments.corpus,
        arguments.output,
        console=Console(stderr=True),
        sample_rate=arguments.sample_rate,
        longest=arguments.longest,
        on_error=arguments.on_error,
        beam_runner=arguments.beam_runner,
    )
    left_out = f", {len(prepared.errors)} left out" if prepared.errors else ""
    print(f"{prepared.utterances} utterances{left_out}" + ("" if prepared.made else "; nothing to do"))
    print(f"records: {prepared.folder}")
    flags = ["--corpus.name", "records", "--corpus.root", str(prepared.folder)]
    if arguments.sample_rate != 16_000:
        flags += ["--features.sample-rate", str(arguments.sample_rate)]
    print("try:", shlex.join(["dslstm", "train", "configs/dual_level.py", *flags, "--workdir", "runs/records"]))
    return 1 if prepared.errors else 0


def import_torch(arguments: ImportTorch) -> int:
    """dslstm import-torch"""
    from dslstm_jax.interop.torch import import_run, read_state_dict

    config = load_config(arguments.config_file)
    run = import_run(read_state_dict(arguments.state_dict), config, arguments.labels, arguments.workdir)
    print(f"run folder: {run.path}")
    print(f"try: dslstm predict --model {run.path} FILE.wav")
    return 0


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
    from dslstm_jax.benchmark.harness import print_report, write_report
    from dslstm_jax.benchmark.plot import draw_report

    with tempfile.TemporaryDirectory(prefix="dslstm-benchmark-") as folder:
        report = BENCHMARKS[arguments.what](arguments, Path(folder))
    print_report(report)
    write_report(report, arguments.json, arguments.update)
    if arguments.plot is not None:
        draw_report(report, arguments.plot)
    return 0


COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "train": (Train, train),
    "crossval": (Crossval, crossval),
    "compare": (Compare, compare_runs),
    "evaluate": (Evaluate, evaluate_run),
    "predict": (Predict, predict_files),
    "corpora": (Corpora, describe_corpora),
    "prepare": (Prepare, prepare_records),
    "import-torch": (ImportTorch, import_torch),
    "benchmark": (Benchmark, benchmark),
}


def _usage() -> str:
    lines = ["usage: dslstm COMMAND ...", "", "commands:"]
    for name, (arguments, _) in COMMANDS.items():
        lines.append(f"  {name:14}{(arguments.__doc__ or '').splitlines()[0]}")
    return "\n".join([*lines, "", "dslstm COMMAND --help says more."])


def _parse(command: str, argv: Sequence[str]) -> Any:
    """The command's dataclass filled from the flags; a mistake becomes one line and exit code 2."""
    arguments: Any = COMMANDS[command][0]
    default: Any = tyro.MISSING_NONPROP
    if argv and not argv[0].startswith("-"):
        if arguments is Train:
            default = Train(tyro.MISSING, tyro.MISSING, config=load_config(argv[0]))
        elif arguments is Crossval:
            default = Crossval(tyro.MISSING, config=load_config(argv[0]))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(arguments, prog=f"dslstm {command}", args=list(argv), default=default)
    except SystemExit as stop:
        if stop.code:
            print(_one_line(command, said.getvalue()), file=sys.stderr)
        raise


def _one_line(command: str, box: str) -> str:
    """tyro's boxed message as one line: what is wrong, and the nearest flag if it names one."""
    text = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()[1:]]
    rules = [index for index, line in enumerate(text) if not line] or [len(text)]
    message = " ".join(text[: rules[0]])
    near = re.search(r"Perhaps you meant:.*?(--[\w.-]+)", " ".join(text))
    hint = f"; did you mean {near[1]}?" if near else ""
    return f"dslstm {command}: {message}{hint} (dslstm {command} --help lists all)"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        from dslstm_jax import __version__

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
        return COMMANDS[command][1](_parse(command, argv[1:]))
    except SystemExit as stop:
        return int(stop.code or 0)
    except DslstmError as error:
        if os.environ.get("DSLSTM_DEBUG"):
            traceback.print_exc()
        print(f"dslstm {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hints = dict.fromkeys(("train", "crossval"), "; go on with --resume")
        hints |= {"prepare": "; the same command goes on from here"}
        print(f"dslstm {command}: interrupted{hints.get(command, '')}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has had enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1

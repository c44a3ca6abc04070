"""What one does with the recognizer from Python, and what the commands of `dslstm` call: train, evaluate, crossval,
compare."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from dslstm_jax.config import Config, load_config
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.dataset import Dataset, make_dataset
from dslstm_jax.data.splits import describe
from dslstm_jax.errors import ConfigError
from dslstm_jax.evaluation.calibration import calibrate
from dslstm_jax.evaluation.compare import Compared, Difference, paired_difference, read_comparable
from dslstm_jax.evaluation.crossval import Unfinished, crossvalidate, read_curves
from dslstm_jax.evaluation.evaluate import Evaluation, Side
from dslstm_jax.evaluation.evaluate import evaluate as evaluate_side
from dslstm_jax.models.recognizer import variable_shapes
from dslstm_jax.reporting.comparison import format_comparison
from dslstm_jax.reporting.crossval_report import write_results
from dslstm_jax.reporting.run_report import write_report
from dslstm_jax.runs.folder import RunFolder, check_resumable, open_run
from dslstm_jax.runs.selection import EpochRecord
from dslstm_jax.serving.predictor import Predictor, load
from dslstm_jax.training.devices import ParallelConfig
from dslstm_jax.training.loop import fit
from dslstm_jax.training.parallel import joined_processes, make_parallel
from dslstm_jax.training.stages import stages
from dslstm_jax.training.trainer import display_on
from dslstm_jax.util.progress import progress_bar


class Run:
    """A run folder: evaluate what was trained, or predict with it. `train` gives one, `Run(PATH)` opens one."""

    def __init__(
        self, path: str | Path, *, parallel: ParallelConfig | None = None, dataset: Dataset | None = None
    ) -> None:
        """
        Args:
          path: the run folder.
          parallel: on which devices it is evaluated; by default all of this process.
          dataset: the run's own, if it is at hand; else it is read when it is needed.

        Raises:
          RunError: no such folder, not a run folder, or a damaged file in it.
        """
        self._folder = open_run(Path(path))
        self._parallel, self._dataset = make_parallel(parallel or ParallelConfig()), dataset
        self._evaluated: dict[str, Evaluation] = {}

    @property
    def path(self) -> Path:
        """The run folder."""
        return self._folder.path

    @property
    def config(self) -> Config:
        """All that was set."""
        return self._folder.config

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in their order."""
        return self._folder.labels

    @property
    def finished(self) -> bool:
        """Whether it was trained to the last epoch; if not, `train` with resume=True goes on."""
        return self._folder.finished

    @property
    def records(self) -> list[EpochRecord]:
        """Loss, WA and UA of each epoch: the lines of metrics.jsonl."""
        return self._folder.read_records()

    @property
    def report(self) -> Path:
        """The report of the test, once there is one."""
        return self._folder.report / "report.md"

    @property
    def is_main(self) -> bool:
        """Whether this process writes what only one of several may write."""
        return self._parallel.is_main

    @property
    def dataset(self) -> Dataset:
        """The corpus and who is on which side of its split.

        Raises:
          CorpusError, RunError: the corpus is not there, or is another one now.
        """
        if self._dataset is None:
            dataset = read_dataset(self.config)
            folds = describe(dataset.corpus.utterances, dataset.split)
            check_resumable(self._folder, self.config, dataset.corpus.labels, folds)
            self._dataset = dataset
        return self._dataset

    def evaluate(self, split: Side = "test") -> Evaluation:
        """Runs the chosen epoch's network over one side of the split; of the test it writes the report.

        Args:
          split: train, validation or test.

        Raises:
          RunError: there is no usable checkpoint, or no utterance on that side.
          CorpusError, AudioError: the recordings are not there, or not as they were.
        """
        if split not in self._evaluated:
            result = evaluate_side(self._folder, self.dataset, split, self._parallel)
            self._evaluated[split] = result
            if split == "test" and self.is_main:
                _report(self._folder, self.dataset, result)
        return self._evaluated[split]

    def predictor(self) -> Predictor:
        """The recognizer, as `dslstm_jax.load` gives it.

        Raises:
          RunError: there is no usable checkpoint.
        """
        return load(self.path)


def train(
    config: Config | str | Path,
    workdir: str | Path,
    *,
    resume: bool = False,
    parallel: ParallelConfig | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> Run:
    """Trains a recognizer, fits its temperature on the validation side, and tests it.

    The progress goes to stdout. SIGTERM saves all and returns a run that is not finished.

    Args:
      config: what to train, or the config file: `FILE.py` or `FILE.py:NAME`.
      workdir: the run folder, which is made. It needs nothing outside itself, but the recordings.
      resume: go on with a run that is there.
      parallel: on which devices; by default all of this process.
      on_epoch: called after each epoch with its line of metrics.jsonl.

    Raises:
      ConfigError: the config makes no sense.
      CorpusError: the corpus is not there, cannot be split, or has recordings that cannot be used.
      RunError: there is a run in the folder, or one that cannot be gone on with; or the loss is no longer finite.
    """
    config, path, settings = _read_config(config), Path(workdir), parallel or ParallelConfig()
    with joined_processes(settings):
        devices = make_parallel(settings, config.training)
        console = Console(quiet=not devices.is_main)
        display = display_on(console, on_epoch)
        dataset = read_dataset(config)
        variable_shapes(config.recognizer, len(dataset.corpus.labels))  # refuses what cannot be built
        for line in _describe_sides(dataset):
            display.tell(line)
        with devices.watch_preemption() as preempted:
            for folder, own in stages(path, config, dataset, devices, display.tell, resume=resume):
                if not fit(folder, own, parallel=devices, display=display, preempted=preempted):
                    return Run(folder.path, parallel=settings, dataset=own)
        trained = Run(path, parallel=settings, dataset=own)
        trained.evaluate("test")
        temperature = calibrate(folder, dataset, devices)
        fitted = "no temperature" if temperature is None else f"temperature {temperature:.2f}, fitted on validation"
        display.tell(fitted)
        return trained


def evaluate(run: Run | str | Path, split: Side = "test", *, parallel: ParallelConfig | None = None) -> Evaluation:
    """`Run.evaluate` of a run folder."""
    return (run if isinstance(run, Run) else Run(run, parallel=parallel)).evaluate(split)


def crossval(
    config: Config | str | Path,
    workdir: str | Path | None = None,
    *,
    seeds: int = 3,
    resume: bool = False,
    vmap: bool = False,
    shard: tuple[int, int] = (1, 1),
    parallel: ParallelConfig | None = None,
) -> Mapping[str, Any] | Unfinished:
    """Trains and tests every fold of config.split.protocol under several seeds, and reports on all together.

    Args:
      config: of all runs, or the config file; split.fold plays no part, training.seed is the first of the seeds.
      workdir: folder of all runs and of the report; by default `default_folder(config)`.
      seeds: runs of each fold.
      resume: go on in a folder that holds a part of the runs.
      vmap: train all runs at once, in one program on one device.
      shard: (1, 4) trains the first of four shares of the runs; other processes, over the same folder, train the
        rest, and the one that ends last reports.
      parallel: on which devices; by default all of this process.

    Returns:
      What `workdir`/report/results.json holds; or, after SIGTERM or a shard that is not the last, what is left to do.

    Raises:
      ConfigError, CorpusError, RunError: as `train`; the message names the run.
    """
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; it must be at least 1")
    share, shares = shard
    if not 1 <= share <= shares:
        raise ConfigError(f"crossval.shard is {share} {shares}; the first of four is 1 4, the last 4 4")
    config = _read_config(config)
    config = replace(config, split=replace(config.split, fold=0))
    path, settings = Path(workdir or default_folder(config)), parallel or ParallelConfig()
    if vmap and settings.mode == "auto":
        settings = replace(settings, mode="single")
    with joined_processes(settings):
        devices = make_parallel(settings, config.training)
        console = Console(quiet=not devices.is_main)
        dataset = read_dataset(config)
        variable_shapes(config.recognizer, len(dataset.corpus.labels))
        options: dict[str, Any] = {"seeds": seeds, "resume": resume, "vmap": vmap, "shard": shard}
        results = crossvalidate(path, config, dataset, **options, parallel=devices, console=console, tested=_report)
        if not isinstance(results, Unfinished) and devices.is_main:
            title = f"{dataset.corpus.name}, cross-validation {path.name}"
            write_results(path / "report", results, read_curves(path, results), title=title)
        return results


def default_folder(config: Config) -> Path:
    """Where a cross-validation goes that is given no folder: runs/crossval-CORPUS-PROTOCOL."""
    corpora = "-".join(part.name for part in config.corpus.parts) or config.corpus.name
    return Path("runs") / f"crossval-{corpora}-{Path(config.split.protocol).stem}"


@dataclass(frozen=True)
class Comparison:
    """Cross-validations over the same folds, side by side; `str` gives their tables."""

    runs: tuple[Compared, ...]

    def difference(self, one: int = 0, other: int = 1) -> Difference:
        """UA of one of the runs less that of another one, with intervals and p."""
        return paired_difference(self.runs[one].predictions, self.runs[other].predictions)

    def __str__(self) -> str:
        return format_comparison(self.runs)


def compare(runs: Sequence[str | Path]) -> Comparison:
    """Puts cross-validations over the same folds side by side.

    Args:
      runs: their folders, or copies of their results.json; at least two.

    Raises:
      ConfigError: fewer than two.
      RunError: one has no results, or their classes, folds or utterances differ.
    """
    if len(runs) < 2:
        raise ConfigError("give at least two folders of dslstm crossval")
    return Comparison(tuple(read_comparable([Path(run) for run in runs])))


def read_dataset(config: Config) -> Dataset:
    """The dataset of a run; each recording that cannot be used is named on stderr.

    Raises:
      CorpusError: the corpus is not there, cannot be split, or has recordings that cannot be used.
    """
    corpus = load_corpus(config.corpus)
    with progress_bar(Console(stderr=True), "reading", len(corpus.utterances)) as done:
        return make_dataset(corpus, config, done=done, report=lambda error: print(error, file=sys.stderr))


def _read_config(config: Config | str | Path) -> Config:
    """The config with its files named so that the run folder can be used from anywhere."""
    config = config if isinstance(config, Config) else load_config(str(config))
    protocol = config.split.protocol
    if protocol.endswith(".json"):
        protocol = _absolute(protocol)
    corpus = config.corpus.with_paths(lambda path: path and _absolute(path))
    return replace(config, corpus=corpus, split=replace(config.split, protocol=protocol))


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def _describe_sides(dataset: Dataset) -> list[str]:
    """Such as "train: 5 437 utterances of 87 speakers"; folds.json has the names."""
    lines = []
    for side, part in describe(dataset.corpus.utterances, dataset.split).items():
        utterances, speakers = len(part["utterances"]), len(part["speakers"])
        if utterances:
            of = f" of {speakers} speaker{'s' if speakers > 1 else ''}" if speakers else ""
            lines.append(f"{side}: {f'{utterances:,}'.replace(',', ' ')} utterances{of}")
    return lines


def _report(run: RunFolder, dataset: Dataset, result: Evaluation) -> None:
    write_report(
        run.path / "report",
        title=f"{dataset.corpus.name}, run {run.path.name}",
        protocol=result.protocol,
        matrix=result.confusion,
        labels=run.labels,
        records=(run.selected_by or run).read_records(),
        best_epoch=result.epoch,
    )

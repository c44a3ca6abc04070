"""crossvalidate: every fold of a protocol and every seed as runs of their own, and one report of all of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dslstm_jax.config import Config, from_dict, to_dict
from dslstm_jax.data.dataset import Dataset
from dslstm_jax.data.splits import describe, make_folds
from dslstm_jax.errors import RunError
from dslstm_jax.evaluation.calibration import calibrate
from dslstm_jax.evaluation.evaluate import Evaluation, evaluate
from dslstm_jax.evaluation.results import Outcome, Throughput, summarize
from dslstm_jax.runs.folder import RunFolder, check_resumable, check_same_settings, open_run, read_json
from dslstm_jax.runs.provenance import describe_environment
from dslstm_jax.runs.selection import EpochRecord
from dslstm_jax.training.loop import fit
from dslstm_jax.training.parallel import Parallel
from dslstm_jax.training.stages import count_utterances, first_stage, stages
from dslstm_jax.training.trainer import Display
from dslstm_jax.training.vmapped import fit_in_lockstep
from dslstm_jax.util.files import make_folder, to_json, write_json, write_text
from dslstm_jax.util.progress import progress_bar

_PREDICTIONS = "predictions.json"
"""Of the test utterances; written last into a run's folder, it says that the run is finished."""


@dataclass(frozen=True)
class _Job:
    """One fold under one seed."""

    path: Path
    config: Config
    dataset: Dataset
    folds: dict[str, Any]
    """Who is where, for folds.json."""

    @property
    def finished(self) -> bool:
        return (self.path / _PREDICTIONS).exists()

    @property
    def utterances(self) -> int:
        """Most that are learned from, over all epochs: with training.choose refit there may be fewer."""
        return self.config.training.epochs * sum(self._stages.values())

    @property
    def learned(self) -> int:
        """Of `utterances`, those that lie behind."""
        if self.finished:
            return self.utterances
        files = {folder / "metrics.jsonl": epoch for folder, epoch in self._stages.items()}
        return sum(file.read_bytes().count(b"\n") * epoch for file, epoch in files.items() if file.exists())

    @property
    def _stages(self) -> dict[Path, int]:
        return count_utterances(self.path, self.config, self.dataset.split)

    def stages(self, parallel: Parallel, display: Display) -> Iterator[tuple[RunFolder, Dataset]]:
        """The runs that are trained for it, one after the other."""
        return stages(self.path, self.config, self.dataset, parallel, display.tell, resume=True)


@dataclass(frozen=True)
class Unfinished:
    """A cross-validation some of whose runs are left to do; the others are saved."""

    preempted: bool
    """Whether this process was; if not, it has done its shard."""
    runs: int
    """How many are left."""


def crossvalidate(
    path: Path,
    config: Config,
    dataset: Dataset,
    *,
    seeds: int,
    resume: bool,
    vmap: bool,
    shard: tuple[int, int],
    parallel: Parallel,
    console: Console,
    tested: Callable[[RunFolder, Dataset, Evaluation], None] = lambda *_: None,
) -> dict[str, Any] | Unfinished:
    """What `dslstm_jax.crossval` does with a dataset.

    `path`/fold0_seed0 and so on are run folders as `dslstm train` makes them. Finished ones are left as they are, and
    half-done ones gone on with.

    Args:
      path: the folder of the cross-validation.
      config, seeds, resume, vmap, shard: as there.
      dataset: of config, all its recordings measured; its split plays no part.
      parallel: the devices.
      console: where the progress goes.
      tested: called with each run, its dataset and its test, in the one process that may write.

    Returns:
      What results.json holds, or what is left to do.

    Raises:
      RunError: the folder holds something else, or a run failed; the message names it.
      CorpusError: the protocol does not fit the corpus.
    """
    split = config.split
    splits = make_folds(dataset.corpus.utterances, split.protocol, split.seed, validation=split.validation)
    jobs = []
    for fold, of_fold in enumerate(splits):
        folds = describe(dataset.corpus.utterances, of_fold)
        for seed in range(config.training.seed, config.training.seed + seeds):
            of_run = replace(config, split=replace(split, fold=fold), training=replace(config.training, seed=seed))
            jobs.append(_Job(_run_folder(path, fold, seed), of_run, replace(dataset, split=of_fold), folds))
    share, shares = shard
    own = jobs[share - 1 :: shares]
    # Another shard may have begun the folder.
    _begin(path, config, dataset, own, seeds, resume or shares > 1, parallel)
    throughput = Throughput("vmap" if vmap else "one by one")
    with parallel.watch_preemption() as preempted, _displays(own, console, throughput) as displays:
        left = [(job, display) for job, display in zip(own, displays, strict=True) if not job.finished]
        for job, display in _train(left, vmap, parallel, throughput, preempted):
            _test(job, display, parallel, tested)
    stopped = any(not job.finished for job in own)
    if throughput.utterances and not stopped:
        console.print(throughput.describe(), highlight=False, soft_wrap=True)
    if runs := sum(not job.finished for job in jobs):
        return Unfinished(stopped, runs)
    outcomes, sides = [_outcome(job) for job in jobs], [job.folds for job in jobs[::seeds]]
    measured = throughput if throughput.utterances else None
    return summarize(dataset.corpus, sides, outcomes, config, describe_environment(), measured)


def read_curves(path: Path, results: Mapping[str, Any]) -> list[list[EpochRecord]]:
    """The epochs of all runs of a cross-validation; of a refitted run those of the one that was validated.

    Args:
      path: the folder of the cross-validation.
      results: what it gave.

    Raises:
      RunError: a run folder is missing or damaged.
    """
    runs = [open_run(_run_folder(path, run["fold"], run["seed"])) for run in results["runs"]]
    return [(run.selected_by or run).read_records() for run in runs]


def _run_folder(path: Path, fold: int, seed: int) -> Path:
    return path / f"fold{fold}_seed{seed}"


def _begin(
    path: Path, config: Config, dataset: Dataset, jobs: Sequence[_Job], seeds: int, resume: bool, parallel: Parallel
) -> None:
    """Writes what all runs share, or makes sure that the folder was begun with the same."""
    file = path / "crossval.json"
    config = replace(config, split=replace(config.split, fold=0))
    settings = {**to_dict(config), "seeds": seeds}
    if resume and file.exists():
        begun = read_json(file)
        kept = {name: value for name, value in begun.items() if name != "seeds"}
        # Read as a config, it has the settings that there were not yet when it was begun.
        check_same_settings(path, {**to_dict(from_dict(kept, str(file))), "seeds": begun["seeds"]}, settings)
    elif parallel.is_main:
        if file.exists():
            raise RunError(f"{path} holds a cross-validation already; go on with --resume or give another --workdir")
        if (path / "config.json").exists():
            raise RunError(f"{path} holds a run already; give another --workdir")
        make_folder(path)
        write_json(file, settings)
    for job in jobs:
        first, own = first_stage(job.path, job.config)
        if (first / "config.json").exists():
            check_resumable(open_run(first), own, dataset.corpus.labels, job.folds)
    parallel.wait("cross-validation")


def _train(
    left: Sequence[tuple[_Job, Display]],
    vmap: bool,
    parallel: Parallel,
    throughput: Throughput,
    preempted: Callable[[], bool],
) -> Iterator[tuple[_Job, Display]]:
    """Yields each job that is trained, to be tested; ends early where this process is preempted."""
    for group in [left] if vmap else [[one] for one in left]:
        if preempted():
            return
        own = [display for _, display in group]
        try:
            for stage in zip(*(job.stages(parallel, display) for job, display in group), strict=True):
                with throughput.measuring():
                    if vmap:
                        runs, datasets = zip(*stage, strict=True)
                        on = fit_in_lockstep(runs, datasets, parallel=parallel, displays=own, preempted=preempted)
                    else:
                        on = fit(*stage[0], parallel=parallel, display=own[0], preempted=preempted)
                if not on:
                    return
        except RunError as error:
            if vmap:  # it names the run itself
                raise
            raise RunError(f"{group[0][0].path.name}: {error}") from error
        yield from group


def _test(
    job: _Job, display: Display, parallel: Parallel, tested: Callable[[RunFolder, Dataset, Evaluation], None]
) -> None:
    with display.bar("to be tested", 0, job.utterances - job.learned):  # what was not to be learned is behind, too
        pass
    run = open_run(job.path)
    temperature = calibrate(run, job.dataset, parallel)
    result = evaluate(run, job.dataset, "test", parallel)
    display.tell(f"test WA={result.wa:.4f} UA={result.ua:.4f} ({result.protocol})")
    if parallel.is_main:
        tested(run, job.dataset, result)
        predictions = {
            "epoch": result.epoch,
            "temperature": 1.0 if temperature is None else temperature,
            "labels": list(result.labels),
            "paths": job.folds["test"]["utterances"],
            "probabilities": np.round(result.probabilities.astype(np.float64), 7).tolist(),
        }
        write_text(job.path / _PREDICTIONS, to_json(predictions) + "\n")
    parallel.wait(f"predictions of {job.path.name}")


def _outcome(job: _Job) -> Outcome:
    found = read_json(job.path / _PREDICTIONS)
    if found["paths"] != job.folds["test"]["utterances"]:
        raise RunError(f"{job.path / _PREDICTIONS} is of other utterances; remove the file to test the run anew")
    return Outcome(
        job.config.split.fold,
        job.config.training.seed,
        found["epoch"],
        job.dataset.split.test,
        np.asarray(found["probabilities"], np.float64),
        found.get("temperature", 1.0),  # there was none in older versions
    )


@contextmanager
def _displays(jobs: Sequence[_Job], console: Console, throughput: Throughput) -> Iterator[list[Display]]:
    """A display for each run, which share one bar: it counts the utterances of all epochs of all runs."""
    whole, before = sum(job.utterances for job in jobs), sum(job.learned for job in jobs)
    with progress_bar(console, f"{len(jobs)} runs", whole, before) as advance:

        def display(number: int, job: _Job) -> Display:
            name = f"{job.path.name} ({number}/{len(jobs)})"

            def tell(line: str) -> None:
                console.print(f"{name}: {line}", highlight=False, soft_wrap=True)

            @contextmanager
            def bar(epoch: str, _: int, done: int) -> Iterator[Callable[..., None]]:
                shown = f"{len(jobs)} runs, {epoch}" if throughput.mode == "vmap" else f"{name}, {epoch}"
                advance(done, shown)

                def learned(utterances: int = 1) -> None:
                    throughput.utterances += utterances
                    advance(utterances, shown)

                yield learned

            return Display(tell, bar)

        yield [display(number, job) for number, job in enumerate(jobs, start=1)]

"""What is trained for a run: itself, or with training.choose refit two ordinary runs, one after the other.

refit: validation says how many epochs there are to be; then a new network learns for so long from training and
validation utterances together. The first run lies in the folder `selection` of the second.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from dslstm_jax.config import Config
from dslstm_jax.data.dataset import Dataset
from dslstm_jax.data.splits import Split, describe, let_validation_train
from dslstm_jax.errors import RunError
from dslstm_jax.runs.checkpoint import load_best
from dslstm_jax.runs.folder import SELECTION, RunFolder, check_resumable, create_run, open_run
from dslstm_jax.runs.selection import refitted
from dslstm_jax.training.parallel import Parallel


def open_or_begin(path: Path, config: Config, dataset: Dataset, parallel: Parallel, *, resume: bool) -> RunFolder:
    """The run in a folder, made if there is none.

    Args:
      path: the folder.
      config: of the run.
      dataset: its own.
      parallel: the processes; the main one makes the folder.
      resume: go on with a run that is there; else it is refused.

    Raises:
      RunError: there is a run that is not to be gone on with, or one of other settings or other data.
    """
    labels, folds = dataset.corpus.labels, describe(dataset.corpus.utterances, dataset.split)
    there = (path / "config.json").exists()
    parallel.wait(f"{path.name} looked at")  # by all processes, before one of them makes it
    if there and resume:
        check_resumable(open_run(path), config, labels, folds)
    elif parallel.is_main:
        create_run(path, config, labels, folds)
    parallel.wait(f"{path.name} made")
    return open_run(path)


def first_stage(path: Path, config: Config) -> tuple[Path, Config]:
    """Folder and config of the run that is trained first."""
    if config.training.choose != "refit":
        return path, config
    return path / SELECTION, replace(config, training=replace(config.training, choose="validation-best"))


def stages(
    path: Path, config: Config, dataset: Dataset, parallel: Parallel, tell: Callable[[str], None], *, resume: bool
) -> Iterator[tuple[RunFolder, Dataset]]:
    """The runs that are trained for a config, with their datasets; that of `path` is the last one.

    The next one may be asked for when the one before has reached its last epoch. Nothing is kept of how far they are:
    the folders know it themselves.

    Args:
      path: the run folder.
      config: what is asked for.
      dataset: its own.
      parallel: the devices.
      tell: takes a line.
      resume: go on with runs that are there.

    Raises:
      RunError: as in `open_or_begin`.
    """
    first, own = first_stage(path, config)
    if first != path and not resume and (path / "config.json").exists():
        raise RunError(f"{path} holds a run already; go on with --resume or give another --workdir")
    run = open_or_begin(first, own, dataset, parallel, resume=resume)
    if first == path:
        yield run, dataset
        return
    tell("validation says how many epochs there are to be")
    yield run, dataset
    _, epochs = load_best(run)
    tell(f"a new network for {epochs} epochs, from training and validation utterances together")
    dataset = replace(dataset, split=let_validation_train(dataset.split))
    yield open_or_begin(path, refitted(config, epochs), dataset, parallel, resume=True), dataset


def count_utterances(path: Path, config: Config, split: Split) -> dict[Path, int]:
    """The folders of the runs that are trained for a config, and the utterances of an epoch of each."""
    first, _ = first_stage(path, config)
    together = {} if first == path else {path: len(split.train + split.validation)}
    return {first: len(split.train)} | together

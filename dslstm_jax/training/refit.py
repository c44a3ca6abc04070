"""refit: validation says how many epochs there are to be, then all that may be learned from is learned from."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from dslstm_jax.config import Config
from dslstm_jax.data.dataset import Dataset
from dslstm_jax.data.splits import let_validation_train
from dslstm_jax.runs.checkpoint import load_best
from dslstm_jax.runs.folder import Run, check_resumable, create_run, open_run
from dslstm_jax.training.parallel import Parallel


def stages(
    run: Run, dataset: Dataset, parallel: Parallel, tell: Callable[[str], None]
) -> Iterator[tuple[Run, Dataset]]:
    """What is trained for a run: itself, or where training.choose is refit its selection and then itself.

    The next one may be asked for when the one before has reached its last epoch. Nothing is kept of how far they are:
    both folders know it themselves.

    Args:
      run: the run folder; the selection is a run folder in it.
      dataset: its own.
      parallel: the devices.
      tell: takes a line.

    Raises:
      RunError: the selection cannot be written, read or gone on with.
    """
    if run.config.training.choose != "refit":
        yield run, dataset
        return
    selection = _open_selection(run, parallel)
    tell("validation says how many epochs there are to be")
    yield selection, dataset
    _, epochs = load_best(selection)
    tell(f"a new network for {epochs} epochs, from training and validation utterances together")
    yield (
        replace(run, config=_shorten(run.config, epochs)),
        replace(dataset, split=let_validation_train(dataset.split)),
    )


def _open_selection(run: Run, parallel: Parallel) -> Run:
    config = replace(run.config, training=replace(run.config.training, choose="validation-best"))
    there = (run.selection / "config.json").exists()
    parallel.wait(f"selection of {run.path.name} looked at")  # by all processes, before one of them makes it
    if there:
        check_resumable(open_run(run.selection), config, run.labels, run.read_folds())
    elif parallel.leads:
        create_run(run.selection, config, run.labels, run.read_folds())
    parallel.wait(f"selection of {run.path.name}")
    return open_run(run.selection)


def _shorten(config: Config, epochs: int) -> Config:
    """As many epochs, of which warm-up takes the same share, and the last one is taken."""
    training = config.training
    warmup = training.warmup * epochs / training.epochs
    return replace(
        config,
        split=replace(config.split, validation=False),
        training=replace(training, epochs=epochs, warmup=warmup, choose="last"),
    )

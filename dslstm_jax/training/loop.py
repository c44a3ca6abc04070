"""fit: epochs of training, validation after each, a checkpoint of each; the best validation UA chooses."""

from collections.abc import Callable

from dslstm_jax.data.dataset import Dataset
from dslstm_jax.runs.folder import RunFolder
from dslstm_jax.training.parallel import Parallel
from dslstm_jax.training.totals import add
from dslstm_jax.training.trainer import Display, Trainer


def fit(
    run: RunFolder, dataset: Dataset, *, parallel: Parallel, display: Display, preempted: Callable[[], bool]
) -> bool:
    """Trains to the last epoch, from the newest checkpoint if there is one.

    Each epoch's order depends on the seed and the epoch alone, and all draws on the seed and the step, so that a run
    that was stopped and resumed ends as one that never was.

    Args:
      run: the folder that takes metrics.jsonl, TensorBoard events and checkpoints.
      dataset: its split's `train` is learned from, `validation` chooses the epoch, `test` is not touched;
        training.choose may say otherwise.
      parallel: the devices; where a run was stopped on others, it goes on with the same figures but for rounding.
      display: where the progress goes.
      preempted: asked after each step whether this process is to stop.

    Returns:
      Whether the last epoch was reached. If not, this process was preempted, and all is saved.

    Raises:
      RunError: the loss is no longer finite, or a checkpoint cannot be restored or written.
    """
    with Trainer(run, dataset, parallel, display) as trainer:
        trainer.start()
        while not trainer.finished:
            stop = False
            with trainer.epoch() as epoch:
                for batch in epoch.batches():
                    epoch.learned(trainer.learn(batch))
                    stop = preempted()
                    if epoch.left and (stop or epoch.checkpoint_due):
                        trainer.save(epoch)
                    if epoch.left and stop:
                        return False
            totals = {"train": epoch.total()}
            for side in trainer.sides:
                totals[side] = add(map(trainer.examine, trainer.batches(side)))
            trainer.end(epoch, totals)
            if stop and not trainer.finished:
                return False
    return True

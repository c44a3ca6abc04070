"""Which epoch of a run is evaluated and predicts."""

from collections.abc import Sequence
from statistics import fmean

from dslstm_jax.config import Config, TrainingConfig
from dslstm_jax.runs.folder import Record

FIGURES = {"validation-best": "validation_ua", "refit": "epoch", "last": "epoch", "test-best": "test_ua"}
"""Of an epoch's record, what training.choose looks at."""


def score(records: Sequence[Record], training: TrainingConfig) -> float:
    """What chooses among the epochs, for the newest one: the checkpoints of the best two are kept."""
    return fmean(record[FIGURES[training.choose]] for record in records[-training.choose_over :])


def describe_choice(config: Config) -> str:
    """Which epoch is used, for reports; and that nothing validated, where that is so."""
    return _describe(config.training) + ("" if config.split.validation else ", nothing held back for validation")


def _describe(training: TrainingConfig) -> str:
    if training.choose == "last":
        return "last epoch"
    mean = f", mean of {training.choose_over} epochs" if training.choose_over > 1 else ""
    if training.choose == "test-best":
        return f"peeking: test chooses the epoch{mean}"
    if training.choose == "refit":
        return f"number of epochs chosen by validation UA{mean}, then trained anew with the validation utterances"
    return f"epoch chosen by validation UA{mean}"

"""Which epoch of a run is evaluated and predicts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from dslstm_jax.config import Config, TrainingConfig

EpochRecord = Mapping[str, Any]
"""One epoch's line of metrics.jsonl."""

SCORED_BY = {"validation-best": "validation_ua", "refit": "epoch", "last": "epoch", "test-best": "test_ua"}
"""Of an epoch's record, what training.choose looks at."""


def score(records: Sequence[EpochRecord], training: TrainingConfig) -> float:
    """What chooses among the epochs, for the newest one: the checkpoints of the best two are kept."""
    return fmean(record[SCORED_BY[training.choose]] for record in records[-training.choose_over :])


def refitted(config: Config, epochs: int) -> Config:
    """What training.choose refit asks for, once validation has said how many epochs: as many, of which warm-up takes
    the same share, with nothing held back for validation; the last one is taken."""
    training = config.training
    warmup = training.warmup * epochs / training.epochs
    return replace(
        config,
        split=replace(config.split, validation=False),
        training=replace(training, epochs=epochs, warmup=warmup, choose="last"),
    )


def describe_choice(config: Config, selected_by: Config | None = None) -> str:
    """Which epoch is used, for reports; and that nothing validated, where that is so.

    Args:
      config: of a run, or what is asked for.
      selected_by: of the run that said how many epochs there are to be, if one did.
    """
    if selected_by is not None:
        return _describe(replace(selected_by.training, choose="refit"))
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

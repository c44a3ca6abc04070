"""evaluate: a run's best checkpoint on one side of its split, as figures and probabilities."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from dslstm_jax.data.corpora import Utterance
from dslstm_jax.data.dataset import Dataset
from dslstm_jax.data.pipeline import make_loader
from dslstm_jax.errors import RunError
from dslstm_jax.ops.metrics import macro_f1, recalls, unweighted_accuracy, weighted_accuracy
from dslstm_jax.runs.checkpoint import load_best
from dslstm_jax.runs.folder import RunFolder
from dslstm_jax.training.parallel import Parallel
from dslstm_jax.training.placement import placing
from dslstm_jax.training.totals import RunningTotals
from dslstm_jax.training.trainer import EVALUATION_ROWS

Side = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Evaluation:
    """What came out, and how it was asked for."""

    split: Side
    protocol: str
    """Folds, who is shared, what chose the epoch, in words."""
    epoch: int
    utterances: int
    loss: float
    confusion: Float[np.ndarray, "C C"]
    labels: tuple[str, ...]
    probabilities: Float[np.ndarray, "N C"]
    """Of each utterance, in the order of the split."""
    truths: Int[np.ndarray, " N"]
    """The true classes."""

    @property
    def wa(self) -> float:
        return float(weighted_accuracy(self.confusion))

    @property
    def ua(self) -> float:
        return float(unweighted_accuracy(self.confusion))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "split": self.split,
            "protocol": self.protocol,
            "epoch": self.epoch,
            "utterances": self.utterances,
            "loss": self.loss,
            "wa": self.wa,
            "ua": self.ua,
            "macro_f1": float(macro_f1(self.confusion)),
            "recalls": dict(zip(self.labels, map(float, recalls(self.confusion)), strict=True)),
            "labels": list(self.labels),
            "confusion": self.confusion.tolist(),
        }


def _protocol(run: RunFolder, utterances: Sequence[Utterance], side: Side) -> str:
    """Such as "speaker5 fold 0 of seed 0, 2 unseen speakers, epoch chosen by validation UA"."""
    config = run.config.split
    dealt = re.fullmatch(r"(speaker|random)[0-9]+|corpus", config.protocol)  # the others do not use the seed
    seed = f" of seed {config.seed}" if dealt else ""
    speakers = {utterance.speaker for utterance in utterances if utterance.speaker}
    if side == "train":
        who = "the utterances it was trained on"
    elif dealt and dealt[1] == "random":
        who = "speakers shared with training"
    else:
        who = f"{len(speakers)} unseen speaker{'s' if len(speakers) > 1 else ''}"
    return f"{config.protocol} fold {config.fold}{seed}, {who}, {run.choice}"


def evaluate(run: RunFolder, dataset: Dataset, side: Side, parallel: Parallel) -> Evaluation:
    """Runs the chosen checkpoint over every utterance of one side.

    Args:
      run: the run folder.
      dataset: the run's own.
      side: train, validation or test.
      parallel: the devices.

    Raises:
      RunError: there is no usable checkpoint, or no utterance on that side.
      AudioError: a recording cannot be decoded.
    """
    config = run.config
    members = getattr(dataset.split, side)
    if not members:
        raise RunError(f"{run.path} held nothing back for {side} (split.validation is off); evaluate train or test")
    variables, epoch = load_best(run)
    loader = make_loader(dataset, members, config, EVALUATION_ROWS, len(parallel.devices))
    predict, variables = parallel.predict_step(config.recognizer), parallel.spread(variables)
    running, answers = RunningTotals(), []
    for batch in loader.batches(share=parallel.share, place=placing(dataset, config, parallel)):
        found, rows = parallel.gather(predict(variables, batch))
        running.push(found)
        answers.append(rows)
    totals = running.read()
    assert totals is not None  # there is an utterance, so a batch
    probabilities = np.zeros((len(dataset.corpus.utterances), len(run.labels)), np.float32)
    for planned, rows in zip(loader.plan(), answers, strict=True):
        probabilities[list(planned.members)] = np.asarray(rows)[: len(planned.members)]
    return Evaluation(
        split=side,
        protocol=_protocol(run, [dataset.corpus.utterances[member] for member in members], side),
        epoch=epoch,
        utterances=int(totals.utterances),
        loss=float(totals.loss / totals.utterances),
        confusion=np.asarray(totals.confusion),
        labels=run.labels,
        probabilities=probabilities[list(members)],
        truths=np.array([run.labels.index(dataset.corpus.utterances[member].label) for member in members], int),
    )

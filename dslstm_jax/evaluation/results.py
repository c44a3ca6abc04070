"""What a cross-validation found: all its predictions, their figures, and results.json, which holds both."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dslstm_jax.config import Config, to_dict
from dslstm_jax.data.corpora import Corpus
from dslstm_jax.errors import RunError
from dslstm_jax.evaluation.calibration import with_temperature
from dslstm_jax.evaluation.statistics import bootstrap, by_group, calibration_error, interval, unit_matrices
from dslstm_jax.ops.metrics import Matrix, macro_f1, recalls, unweighted_accuracy, weighted_accuracy
from dslstm_jax.runs.folder import read_json
from dslstm_jax.runs.selection import describe_choice
from dslstm_jax.util.files import to_json, write_text

METRICS = {"wa": weighted_accuracy, "ua": unweighted_accuracy, "macro_f1": macro_f1}
METRIC_NAMES = {"wa": "WA", "ua": "UA", "macro_f1": "macro-F1"}


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one run says of the utterances it was tested on."""

    fold: int
    seed: int
    epoch: int
    members: tuple[int, ...]
    """Indices of utterances."""
    probabilities: Float[np.ndarray, "N C"]
    """Before calibration."""
    temperature: float = 1.0
    """That which validation asked for."""


@dataclass
class Throughput:
    """What the training of all runs took in one process: compiling, validation and checkpoints included."""

    mode: str
    """vmap or one by one."""
    utterances: int = 0
    """Learned from, over all epochs and runs."""
    seconds: float = 0.0

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Counts the seconds of a `with` block."""
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started

    def describe(self) -> str:
        """One line."""
        learned = f"{self.mode}: {self.utterances} utterances learned from in {self.seconds:.1f} s"
        return f"{learned}, {self.utterances / self.seconds:.1f} utterances/s over all runs"


@dataclass(frozen=True, eq=False)
class Predictions:
    """All test predictions, fold after fold; every seed's are of the same utterances."""

    labels: tuple[str, ...]
    paths: tuple[str, ...]
    speakers: tuple[str, ...]
    """Empty where it is unknown."""
    corpora: tuple[str, ...]
    """Empty where there is one alone."""
    folds: Int[np.ndarray, " N"]
    truths: Int[np.ndarray, " N"]
    probabilities: Float[np.ndarray, "S N C"]
    """Before calibration."""
    temperatures: Float[np.ndarray, "S N"]
    """Each utterance's: that of the run it was tested by."""

    @property
    def matrices(self) -> Float[np.ndarray, "N S C C"]:
        """Each utterance's confusion matrix under each seed."""
        return unit_matrices(self.truths, self.probabilities.argmax(axis=-1), len(self.labels))

    @property
    def ensemble(self) -> "Predictions":
        """Those of all seeds together, as of a single one: the mean of their probabilities."""
        mean = self.probabilities.mean(axis=0, keepdims=True)
        return replace(self, probabilities=mean, temperatures=np.ones(mean.shape[:2]))

    def beside(self, others: Sequence["Predictions"]) -> "Predictions":
        """The seeds of others, whose utterances are the same in the same order, after these."""
        several = [self, *others]
        probabilities = np.concatenate([each.probabilities for each in several])
        temperatures = np.concatenate([each.temperatures for each in several])
        return replace(self, probabilities=probabilities, temperatures=temperatures)

    @property
    def calibrated(self) -> "Predictions":
        """As `dslstm_jax.load` would give them."""
        found = with_temperature(self.probabilities, self.temperatures)
        return replace(self, probabilities=found, temperatures=np.ones_like(self.temperatures))

    def take(self, rows: Sequence[int]) -> "Predictions":
        """Those of some utterances, in the order of `rows`."""
        names = (self.paths, self.speakers, self.corpora)
        paths, speakers, corpora = (tuple(values[row] for row in rows) for values in names)
        by_seed = (self.probabilities[:, rows], self.temperatures[:, rows])
        return Predictions(self.labels, paths, speakers, corpora, self.folds[rows], self.truths[rows], *by_seed)

    @property
    def by_fold(self) -> Float[np.ndarray, "K S C C"]:
        """Confusion matrix of each fold and seed, in the order of the folds' numbers."""
        return by_group(self.matrices, self.folds)

    @property
    def units(self) -> dict[str, Float[np.ndarray, "U S C C"]]:
        """What is drawn from in a bootstrap: utterances, and speakers where all are known and there are two."""
        units = {"utterances": self.matrices}
        if all(self.speakers) and len(set(self.speakers)) > 1:
            units["speakers"] = by_group(self.matrices, self.speakers)
        return units

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        values = {name: np.asarray(value).tolist() for name, value in vars(self).items() if name != "labels"}
        return values | {"truths": [self.labels[truth] for truth in self.truths]}

    @classmethod
    def from_dict(cls, labels: Sequence[str], values: Mapping[str, Any]) -> "Predictions":
        """The inverse of `to_dict`; what older versions did not write has one corpus and no temperature."""
        probabilities = np.array(values["probabilities"], np.float64)
        return cls(
            tuple(labels),
            tuple(values["paths"]),
            tuple(values["speakers"]),
            tuple(values.get("corpora", [""] * len(values["paths"]))),
            np.array(values["folds"]),
            np.array([labels.index(label) for label in values["truths"]]),
            probabilities,
            np.array(values.get("temperatures", np.ones(probabilities.shape[:2]))),
        )


def gather_predictions(corpus: Corpus, outcomes: Sequence[Outcome]) -> Predictions:
    """The outcomes of every fold under every seed, side by side."""
    seeds = sorted({outcome.seed for outcome in outcomes})
    of = {(outcome.fold, outcome.seed): outcome for outcome in outcomes}
    folds = sorted({outcome.fold for outcome in outcomes})
    tested = [(fold, corpus.utterances[member]) for fold in folds for member in of[fold, seeds[0]].members]
    return Predictions(
        tuple(corpus.labels),
        tuple(utterance.path for _, utterance in tested),
        tuple(utterance.speaker or "" for _, utterance in tested),
        tuple(utterance.corpus or "" for _, utterance in tested),
        np.array([fold for fold, _ in tested]),
        np.array([corpus.labels.index(utterance.label) for _, utterance in tested]),
        np.stack([np.concatenate([of[fold, seed].probabilities for fold in folds]) for seed in seeds]),
        np.array([[of[fold, seed].temperature for fold, _ in tested] for seed in seeds]),
    )


def summarize(
    corpus: Corpus,
    folds: Sequence[Mapping[str, Any]],
    outcomes: Sequence[Outcome],
    config: Config,
    environment: Mapping[str, Any],
    throughput: Throughput | None,
) -> dict[str, Any]:
    """All figures of a cross-validation, ready for JSON.

    Args:
      corpus: the utterances.
      folds: who is where in each, as `folds.describe` gives it.
      outcomes: of every fold under every seed.
      config: of all runs.
      environment: versions, commit and command.
      throughput: None where nothing was trained.
    """
    predictions = gather_predictions(corpus, outcomes)
    pooled = predictions.matrices.sum(axis=0)
    recall = recalls(pooled)
    of_runs = predictions.by_fold
    tested, seeds = np.unique(predictions.folds).tolist(), sorted({outcome.seed for outcome in outcomes})
    return {
        "corpus": corpus.name,
        "protocol": config.split.protocol,
        "choose": config.training.choose,
        "chosen": describe_choice(config),
        "labels": list(corpus.labels),
        "seeds": seeds,
        **_figures(predictions, predictions.calibrated),
        "ensemble": summarize_ensemble(predictions),
        "recalls": {
            label: {"utterances": int(np.sum(predictions.truths == index)), "mean": float(recall[:, index].mean())}
            for index, label in enumerate(corpus.labels)
        },
        "corpora": _groups(predictions, predictions.corpora),
        "speakers": _groups(predictions, predictions.speakers),
        "confusion": pooled.sum(axis=0).astype(int).tolist(),
        "runs": [
            {name: getattr(outcome, name) for name in ("fold", "seed", "epoch", "temperature")}
            | _values(of_runs[tested.index(outcome.fold), seeds.index(outcome.seed)])
            for outcome in outcomes
        ],
        "folds": [{side: _who(part) for side, part in fold.items()} for fold in folds],
        "throughput": None if throughput is None else asdict(throughput),
        "environment": dict(environment),
        "config": to_dict(config),
        "predictions": predictions.to_dict(),
    }


def summarize_ensemble(predictions: Predictions, members: str = "seeds") -> dict[str, Any] | None:
    """The figures of the seeds' ensemble, with its name; None where there is one seed."""
    seeds = len(predictions.probabilities)
    if seeds == 1:
        return None
    figures = _figures(predictions.ensemble, predictions.calibrated.ensemble)
    return {"name": f"ensemble of {seeds} {members}", **figures}


def save_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Writes results.json, one line for each part.

    Raises:
      RunError: it cannot be written.
    """
    lines = [f"{to_json(name)}: {to_json(value)}" for name, value in results.items()]
    write_text(folder / "results.json", "{\n" + ",\n".join(lines) + "\n}\n")


def read_results(path: Path) -> dict[str, Any]:
    """The results.json of a cross-validation's folder, or the file itself, wherever it was copied to; gzip may have
    made it a .json.gz.

    Raises:
      RunError: there is none, or it is damaged.
    """
    file = path if path.name.endswith((".json", ".json.gz")) else path / "report" / "results.json"
    if not file.is_file():
        raise RunError(f"{path} holds no results of a cross-validation; dslstm crossval makes {file}")
    return read_json(file)


def _values(matrices: Matrix) -> dict[str, float]:
    """Each metric, its mean where there are several matrices."""
    return {name: float(metric(matrices).mean()) for name, metric in METRICS.items()}


def _figures(predictions: Predictions, calibrated: Predictions) -> dict[str, Any]:
    return {
        "figures": {name: _figure(metric, predictions) for name, metric in METRICS.items()},
        "calibration_error": _calibration_error(predictions),
        "calibrated_error": _calibration_error(calibrated),
    }


def _calibration_error(predictions: Predictions) -> dict[str, Any]:
    errors = [calibration_error(seed, predictions.truths) for seed in predictions.probabilities]
    return {"mean": float(np.mean(errors)), "of_seeds": errors}


def _figure(metric: Callable[[Matrix], Any], predictions: Predictions) -> dict[str, Any]:
    """One metric: mean over seeds of each fold, mean and deviations over runs, and that of the pooled predictions."""
    values = metric(predictions.by_fold)
    return {
        "of_folds": values.mean(axis=1).tolist(),
        "mean": float(values.mean()),
        "deviation_of_folds": _deviation(values.mean(axis=1)),
        "deviation_of_seeds": _deviation(values.mean(axis=0)),
        "pooled": float(metric(predictions.matrices.sum(axis=0)).mean()),
        "intervals": {
            unit: list(interval(bootstrap(found, metric).mean(axis=1))) for unit, found in predictions.units.items()
        },
    }


def _deviation(values: Float[np.ndarray, " N"]) -> float | None:
    """Of the sample (n - 1); None for a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _groups(predictions: Predictions, names: Sequence[str]) -> dict[str, Any]:
    """The figures of each speaker or corpus: means over the seeds, of the predictions of all folds together."""
    found = {}
    for group in sorted({name for name in names if name}):
        own = [row for row, name in enumerate(names) if name == group]
        matrices = predictions.take(own).matrices.sum(axis=0)
        recall = recalls(matrices).mean(axis=0)
        found[group] = {
            "utterances": len(own),
            **_values(matrices),
            "recalls": dict(zip(predictions.labels, recall.tolist(), strict=True)),
        }
    return found


def _who(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"speakers": part["speakers"], "utterances": len(part["utterances"]), "counts": part["counts"]}

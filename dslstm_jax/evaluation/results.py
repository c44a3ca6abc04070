"""What a cross-validation says: results.json with all figures and predictions, and report.md for people."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dslstm_jax.config import Config, to_dict
from dslstm_jax.data.corpora import Corpus
from dslstm_jax.errors import RunError
from dslstm_jax.evaluation.report import (
    cell,
    draw_confusion,
    draw_curves,
    format_interval,
    format_mean,
    format_percent,
    format_points,
)
from dslstm_jax.evaluation.statistics import (
    RESAMPLES,
    bootstrap,
    by_group,
    calibration_error,
    interval,
    unit_matrices,
)
from dslstm_jax.files import make_folder, to_json, write_text
from dslstm_jax.training.choice import describe_choice
from dslstm_jax.training.metrics import Matrix, macro_f1, recalls, unweighted_accuracy, weighted_accuracy
from dslstm_jax.training.run import Record, read_json

FIGURES = {"wa": weighted_accuracy, "ua": unweighted_accuracy, "macro_f1": macro_f1}
NAMES = {"wa": "WA", "ua": "UA", "macro_f1": "macro-F1"}


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one run says of the utterances it was tested on."""

    fold: int
    seed: int
    epoch: int
    members: tuple[int, ...]
    """Indices of utterances."""
    probabilities: Float[np.ndarray, "N C"]


@dataclass(frozen=True)
class Throughput:
    """What the training of all runs took in one process: compiling, validation and checkpoints included."""

    mode: str
    """vmap or one by one."""
    utterances: int
    """Learned from, over all epochs and runs."""
    seconds: float

    def describe(self) -> str:
        """One line."""
        speed = self.utterances / self.seconds
        return (
            f"{self.mode}: {self.utterances} utterances learned from in {self.seconds:.1f} s, "
            f"{speed:.1f} utterances/s over all runs"
        )


@dataclass(frozen=True, eq=False)
class Predictions:
    """All test predictions, fold after fold; every seed's are of the same utterances."""

    labels: tuple[str, ...]
    paths: tuple[str, ...]
    speakers: tuple[str, ...]
    """Empty where it is unknown."""
    folds: Int[np.ndarray, " N"]
    truths: Int[np.ndarray, " N"]
    probabilities: Float[np.ndarray, "S N C"]

    @property
    def matrices(self) -> Float[np.ndarray, "N S C C"]:
        """Each utterance's confusion matrix under each seed."""
        return unit_matrices(self.truths, self.probabilities.argmax(axis=-1), len(self.labels))

    @property
    def ensemble(self) -> "Predictions":
        """Those of all seeds together, as of a single one: the mean of their probabilities."""
        return replace(self, probabilities=self.probabilities.mean(axis=0, keepdims=True))

    @property
    def by_fold(self) -> Float[np.ndarray, "K S C C"]:
        """Confusion matrix of each fold and seed, in the order of the folds' numbers."""
        matrices = self.matrices
        return np.stack([matrices[self.folds == fold].sum(axis=0) for fold in np.unique(self.folds)])

    @property
    def units(self) -> dict[str, Float[np.ndarray, "U S C C"]]:
        """What is drawn from in a bootstrap: utterances, and speakers where all are known and there are two."""
        units = {"utterances": self.matrices}
        if all(self.speakers) and len(set(self.speakers)) > 1:
            units["speakers"] = by_group(self.matrices, self.speakers)
        return units

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "paths": list(self.paths),
            "speakers": list(self.speakers),
            "folds": self.folds.tolist(),
            "truths": [self.labels[truth] for truth in self.truths],
            "probabilities": self.probabilities.tolist(),
        }

    @classmethod
    def from_dict(cls, labels: Sequence[str], values: Mapping[str, Any]) -> "Predictions":
        """The inverse of `to_dict`."""
        place = {label: index for index, label in enumerate(labels)}
        return cls(
            tuple(labels),
            tuple(values["paths"]),
            tuple(values["speakers"]),
            np.array(values["folds"]),
            np.array([place[label] for label in values["truths"]]),
            np.array(values["probabilities"], np.float64),
        )


def gather_predictions(corpus: Corpus, outcomes: Sequence[Outcome]) -> Predictions:
    """The outcomes of every fold under every seed, side by side."""
    seeds = sorted({outcome.seed for outcome in outcomes})
    of = {(outcome.fold, outcome.seed): outcome for outcome in outcomes}
    folds = sorted({outcome.fold for outcome in outcomes})
    tested = [(fold, corpus.utterances[member]) for fold in folds for member in of[fold, seeds[0]].members]
    place = {label: index for index, label in enumerate(corpus.labels)}
    return Predictions(
        tuple(corpus.labels),
        tuple(utterance.path for _, utterance in tested),
        tuple(utterance.speaker or "" for _, utterance in tested),
        np.array([fold for fold, _ in tested]),
        np.array([place[utterance.label] for _, utterance in tested]),
        np.stack([np.concatenate([of[fold, seed].probabilities for fold in folds]) for seed in seeds]),
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
    values = {name: figure(predictions.by_fold) for name, figure in FIGURES.items()}
    seeds = sorted({outcome.seed for outcome in outcomes})
    places = {fold: place for place, fold in enumerate(np.unique(predictions.folds).tolist())}
    recall = recalls(pooled)
    return {
        "corpus": corpus.name,
        "protocol": config.split.protocol,
        "choose": config.training.choose,
        "chosen": describe_choice(config.training),
        "labels": list(corpus.labels),
        "seeds": seeds,
        **_figures(predictions),
        "ensemble": summarize_ensemble(predictions),
        "recalls": {
            label: {"utterances": int(np.sum(predictions.truths == index)), "mean": float(recall[:, index].mean())}
            for index, label in enumerate(corpus.labels)
        },
        "speakers": _speakers(predictions),
        "confusion": pooled.sum(axis=0).astype(int).tolist(),
        "runs": [
            {"fold": outcome.fold, "seed": outcome.seed, "epoch": outcome.epoch}
            | {name: float(value[places[outcome.fold], seeds.index(outcome.seed)]) for name, value in values.items()}
            for outcome in outcomes
        ],
        "folds": [{side: _who(part) for side, part in fold.items()} for fold in folds],
        "throughput": None if throughput is None else asdict(throughput),
        "environment": dict(environment),
        "config": to_dict(config),
        "predictions": predictions.to_dict(),
    }


def summarize_ensemble(predictions: Predictions) -> dict[str, Any] | None:
    """The figures of the seeds' ensemble, with its name; None where there is one seed."""
    seeds = len(predictions.probabilities)
    return {"name": f"ensemble of {seeds} seeds", **_figures(predictions.ensemble)} if seeds > 1 else None


def _figures(predictions: Predictions) -> dict[str, Any]:
    errors = [calibration_error(seed, predictions.truths) for seed in predictions.probabilities]
    return {
        "figures": {name: _figure(figure, predictions) for name, figure in FIGURES.items()},
        "calibration_error": {"mean": float(np.mean(errors)), "of_seeds": errors},
    }


def _figure(figure: Callable[[Matrix], Any], predictions: Predictions) -> dict[str, Any]:
    """One figure: mean over seeds of each fold, mean and deviations over runs, and that of the pooled predictions."""
    values = figure(predictions.by_fold)
    return {
        "of_folds": values.mean(axis=1).tolist(),
        "mean": float(values.mean()),
        "deviation_of_folds": _deviation(values.mean(axis=1)),
        "deviation_of_seeds": _deviation(values.mean(axis=0)),
        "pooled": float(figure(predictions.matrices.sum(axis=0)).mean()),
        "intervals": {
            unit: list(interval(bootstrap(of_units, figure).mean(axis=1)))
            for unit, of_units in predictions.units.items()
        },
    }


def _deviation(values: Float[np.ndarray, " N"]) -> float | None:
    """Of the sample (n - 1); None for a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _speakers(predictions: Predictions) -> dict[str, Any]:
    found = {}
    for speaker in sorted({name for name in predictions.speakers if name}):
        own = np.array([name == speaker for name in predictions.speakers])
        matrices = predictions.matrices[own].sum(axis=0)
        recall = recalls(matrices).mean(axis=0)
        found[speaker] = {
            "utterances": int(own.sum()),
            **{name: float(figure(matrices).mean()) for name, figure in FIGURES.items()},
            "recalls": dict(zip(predictions.labels, recall.tolist(), strict=True)),
        }
    return found


def _who(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"speakers": part["speakers"], "utterances": len(part["utterances"]), "counts": part["counts"]}


def write_results(
    folder: Path, results: Mapping[str, Any], records: Sequence[Sequence[Record]], *, title: str
) -> None:
    """Writes results.json, report.md, confusion.png and curves.png.

    Args:
      folder: is made.
      results: from `summarize`.
      records: the epochs of every run; the curves are their means.
      title: what was evaluated.

    Raises:
      RunError: a file cannot be written.
    """
    make_folder(folder)
    protocol = describe_protocol(results)
    ua = results["figures"]["ua"]
    counted = f"{protocol}\nmean UA {format_percent(ua['mean'])}; counts are sums over folds and seeds"
    draw_confusion(np.array(results["confusion"]), results["labels"], folder / "confusion.png", f"{title}\n{counted}")
    means = [_mean_record(epoch) for epoch in zip(*records, strict=False)]
    draw_curves(means, folder / "curves.png", f"{title}\n{protocol}, mean over runs")
    lines = [f"{to_json(name)}: {to_json(value)}" for name, value in results.items()]
    write_text(folder / "results.json", "{\n" + ",\n".join(lines) + "\n}\n")
    write_text(folder / "report.md", "\n".join(_report(results, title, protocol)) + "\n")


def read_results(path: Path) -> dict[str, Any]:
    """The results.json of a cross-validation's folder.

    Raises:
      RunError: there is none, or it is damaged.
    """
    file = path / "report" / "results.json"
    if not file.is_file():
        raise RunError(f"{path} holds no results of a cross-validation; dslstm crossval makes {file}")
    results: dict[str, Any] = read_json(file)
    return results


def describe_protocol(results: Mapping[str, Any]) -> str:
    """Such as "speaker5, 5 folds, 3 seeds, epoch chosen by validation UA"."""
    folds, seeds = len(results["folds"]), len(results["seeds"])
    many = f"{folds} folds, {seeds} seed{'s' if seeds > 1 else ''}"
    return f"{results['protocol']}, {many}, {results['chosen']}"


def _mean_record(epoch: Sequence[Record]) -> Record:
    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]  # what was not finite is null
        return float(np.mean(known)) if known else None

    return {name: mean([record[name] for record in epoch]) for name in epoch[0]}


def format_summary(results: Mapping[str, Any]) -> str:
    """For a terminal: the figures of the runs, those of their ensemble, and the protocol they came about by."""
    told, ensemble = [("test", results["figures"])], results["ensemble"]
    if ensemble:
        told.append((f"{ensemble['name']}, test", ensemble["figures"]))
    return "\n".join(
        f"{name} {', '.join(f'{NAMES[figure]} {format_mean(figures[figure])}' for figure in FIGURES)} "
        f"({describe_protocol(results)})"
        for name, figures in told
    )


def _report(results: Mapping[str, Any], title: str, protocol: str) -> list[str]:
    environment, folds, labels = results["environment"], results["folds"], results["labels"]
    names = ", ".join(NAMES.values())
    lines = [
        f"# {title}",
        "",
        f"Protocol: {protocol}.",
        "",
        *_table("test of", results["figures"], folds),
        "",
        f"A fold's figures are means over the seeds {', '.join(map(str, results['seeds']))}. Pooled: {names} of the "
        f"predictions of all folds together; the intervals are theirs, by {RESAMPLES} bootstrap resamples.",
        "",
        f"Calibration error (ECE, 15 bins): {format_percent(results['calibration_error']['mean'])}.",
        "",
        *(_report_ensemble(results["ensemble"], folds) if results["ensemble"] else []),
        "| class | utterances | recall |",
        "|---|---:|---:|",
        *(
            f"| {cell(label)} | {row['utterances']} | {format_percent(row['mean'])} |"
            for label, row in results["recalls"].items()
        ),
        "",
        f"| speaker | utterances | WA | UA | {' | '.join(map(cell, labels))} |",
        "|---|---:|---:|---:|" + "---:|" * len(labels),
        *(
            f"| {cell(speaker)} | {row['utterances']} | {format_percent(row['wa'])} | {format_percent(row['ua'])} | "
            + " | ".join(format_percent(row["recalls"][label]) for label in labels)
            + " |"
            for speaker, row in results["speakers"].items()
        ),
        "",
        "| fold | train | validation | test |",
        "|---|---|---|---|",
        *(
            f"| {number} | " + " | ".join(cell(_speakers_of(fold[side])) for side in fold) + " |"
            for number, fold in enumerate(folds)
        ),
        "",
        "![Confusion matrix](confusion.png)",
        "",
        "![Training curves](curves.png)",
        "",
        f"Commit: {environment['commit'] or 'unknown'}.",
        f"Command: `{' '.join(environment['command'])}`.",
        f"Python {environment['python']}, "
        + ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
        + f"; {', '.join(sorted(set(environment['devices'])))}.",
    ]
    if results["throughput"]:
        lines += ["", f"Training, {Throughput(**results['throughput']).describe()}."]
    return lines


def _report_ensemble(ensemble: Mapping[str, Any], folds: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        *_table(ensemble["name"], ensemble["figures"], folds),
        "",
        "The ensemble is one predictor: the mean of the probabilities that the runs of all seeds give an utterance. "
        f"Its calibration error: {format_percent(ensemble['calibration_error']['mean'])}.",
        "",
    ]


def _table(heading: str, figures: Mapping[str, Any], folds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every fold's figures, and what they come to."""
    tested = [fold["test"]["utterances"] for fold in folds]

    def row(name: str, utterances: int, tell: Callable[[Mapping[str, Any]], str]) -> str:
        return f"| {name} | {utterances} | {' | '.join(tell(figures[figure]) for figure in FIGURES)} |"

    def of_fold(number: int) -> Callable[[Mapping[str, Any]], str]:
        return lambda figure: format_percent(figure["of_folds"][number])

    return [
        f"| {heading} | utterances | {' | '.join(NAMES.values())} |",
        "|---|---:|---:|---:|---:|",
        *(row(f"fold {number}", count, of_fold(number)) for number, count in enumerate(tested)),
        row("mean ± deviation of folds", sum(tested), format_mean),
        row("deviation of seeds", sum(tested), lambda figure: format_points(figure["deviation_of_seeds"])),
        row("pooled", sum(tested), lambda figure: format_percent(figure["pooled"])),
        row("95 % over utterances", sum(tested), lambda figure: format_interval(figure, "utterances")),
        row("95 % over speakers", sum(tested), lambda figure: format_interval(figure, "speakers")),
    ]


def _speakers_of(part: Mapping[str, Any]) -> str:
    return ", ".join(part["speakers"]) or f"{part['utterances']} utterances"

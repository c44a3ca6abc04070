"""Cross-validations side by side: paired tests worked by hand, and a clear no to what cannot be compared."""

import json

import numpy as np
import pytest

from dslstm_jax.cli import main
from dslstm_jax.config import Config, SplitConfig
from dslstm_jax.data.corpora import Corpus, Utterance
from dslstm_jax.data.splits import describe, make_folds
from dslstm_jax.evaluation.calibration import with_temperature
from dslstm_jax.evaluation.compare import compare, read_comparable
from dslstm_jax.evaluation.results import Outcome, Predictions, gather_predictions, summarize, summarize_ensemble
from dslstm_jax.evaluation.statistics import calibration_error
from dslstm_jax.reporting.crossval import describe_protocol, format_summary, write_results

LABELS = ("happy", "sad")
ENVIRONMENT = {
    "commit": None,
    "command": ["dslstm"],
    "python": "3.11",
    "processor": "abacus",
    "cores": 1,
    "packages": {},
    "devices": ["cpu"],
}


def crossed(folder, *, wrong, seeds=2, labels=LABELS, protocol="speaker3", drop=(), shuffle=False, corpora=""):
    """Results in `folder` of six speakers with four utterances of each label; every `wrong`th answer is wrong."""
    utterances = [
        Utterance(f"{speaker}/{label}{take}.wav", label, speaker, corpus=corpora[place : place + 1] or None)
        for place, speaker in enumerate("abcdef")
        for label in labels
        for take in range(4)
        if f"{speaker}/{label}{take}.wav" not in drop
    ]
    if shuffle:
        utterances = utterances[::-1]
    corpus = Corpus("made", labels, tuple(utterances))
    splits = make_folds(utterances, protocol, 0)
    outcomes = []
    for fold, split in enumerate(splits):
        for seed in range(seeds):
            truths = np.array([labels.index(utterances[member].label) for member in split.test])
            names = [utterances[member].path for member in split.test]
            order = np.argsort(np.argsort(names))
            answers = np.where((order + seed) % wrong == 0, 1 - truths, truths)
            outcomes.append(Outcome(fold, seed, 1, split.test, 0.1 + 0.8 * np.eye(len(labels))[answers]))
    config = Config(split=SplitConfig(protocol))
    folds = [describe(utterances, split) for split in splits]
    records = [[{"epoch": 1, "train_loss": 1.0, "validation_ua": None}] for _ in outcomes]
    results = summarize(corpus, folds, outcomes, config, ENVIRONMENT, None)
    write_results(folder / "report", results, records, title="made")
    return folder


def test_a_better_predictor_is_found_better(tmp_path):
    worse, better = (crossed(tmp_path / name, wrong=wrong) for name, wrong in (("worse", 3), ("better", 8)))
    one, other = read_comparable([worse, better])
    found = compare(one.predictions, other.predictions)
    uas = [run.results["figures"]["ua"]["pooled"] for run in (one, other)]
    assert found.pooled == pytest.approx(uas[1] - uas[0])
    assert found.pooled > 0.15
    for (low, high), p in found.intervals.values():
        assert 0 < low < found.pooled < high
        assert p < 0.01
    assert set(found.intervals) == {"utterances", "speakers"}
    # All six differences have one sign: only the two of 64 flips that keep it are as far from 0.
    assert (found.p_of_runs, found.runs) == (pytest.approx(2 / 64), 6)


def test_a_predictor_does_not_differ_from_itself_in_any_order(tmp_path):
    one, other = read_comparable(
        [crossed(tmp_path / "one", wrong=3), crossed(tmp_path / "other", wrong=3, shuffle=True)]
    )
    found = compare(one.predictions, other.predictions)
    assert found.pooled == pytest.approx(0)
    assert [p for _, p in found.intervals.values()] == [1, 1]
    assert found.p_of_runs == 1


def test_the_tables_name_every_run_and_pair(tmp_path, capsys):
    paths = [
        crossed(tmp_path / name, wrong=wrong, seeds=seeds)
        for name, wrong, seeds in (("a", 3, 2), ("b", 5, 1), ("c", 8, 2))
    ]
    assert main(["compare", *map(str, paths)]) == 0
    whole, folds, pairs = capsys.readouterr().out.strip().split("\n\n")
    results = json.loads((paths[1] / "report" / "results.json").read_text())
    assert f"{100 * results['figures']['ua']['mean']:.1f} %" in whole.splitlines()[3]
    assert "speaker3, 3 folds, 1 seed, epoch chosen by validation UA" in whole
    assert [line.split("  ")[0] for line in whole.splitlines()[1:]] == [
        str(paths[0]),
        f"{paths[0]}, ensemble of 2 seeds",
        str(paths[1]),
        str(paths[2]),
        f"{paths[2]}, ensemble of 2 seeds",
        "ensemble of 5 networks, those of all runs",
    ]
    assert "2 seeds, epoch chosen by validation UA and speaker3, 3 folds, 1 seed, " in whole.splitlines()[-1]
    answers = np.concatenate([run.predictions.probabilities for run in read_comparable(paths)]).mean(axis=0)
    right = answers.argmax(axis=-1) == read_comparable(paths)[0].predictions.truths
    assert f"{100 * right.mean():.1f} %" in whole.splitlines()[-1]
    assert f"{100 * results['figures']['ua']['of_folds'][1]:.1f} %" in folds.splitlines()[2]
    assert [line.split("  ")[0] for line in pairs.splitlines()[1:]] == [
        f"{paths[1]} - {paths[0]}",
        f"{paths[2]} - {paths[0]}",
        f"{paths[2]} - {paths[0]}, ensembles",
        f"{paths[2]} - {paths[1]}",
    ]
    assert "(3 pairs)" in pairs.splitlines()[1]
    assert "(6 pairs)" in pairs.splitlines()[2]
    assert "(3 pairs)" in pairs.splitlines()[3]


def test_each_of_several_corpora_has_its_figures(tmp_path):
    report = crossed(tmp_path, wrong=3, corpora="xxyyyy") / "report"
    results = json.loads((report / "results.json").read_text())
    predictions = Predictions.from_dict(LABELS, results["predictions"])
    assert predictions.corpora.count("x") == 16
    right = predictions.probabilities.argmax(axis=-1) == predictions.truths
    for corpus, count in (("x", 16), ("y", 32)):
        own = np.array([name == corpus for name in predictions.corpora])
        found = results["corpora"][corpus]
        assert found["utterances"] == count
        assert found["wa"] == pytest.approx(right[:, own].mean())
        recalls = [right[:, own & (predictions.truths == label)].mean() for label in (0, 1)]
        assert found["ua"] == pytest.approx(np.mean(recalls))
        assert f"| {corpus} | {count} | {100 * found['wa']:.1f} % |" in (report / "report.md").read_text()
    assert results["corpora"]["x"]["wa"] != results["corpora"]["y"]["wa"]


def test_the_figures_with_temperature_are_those_of_what_load_gives():
    """Of two folds the first is told three times as surely as it should be, and its temperature says so."""
    utterances = tuple(Utterance(f"{place}.wav", LABELS[place % 4 == 3], str(place)) for place in range(8))
    probabilities = np.array([[0.75, 0.25]] * 4)
    outcomes = [
        Outcome(0, 0, 1, (0, 1, 2, 3), with_temperature(probabilities, 1 / 3), 3.0),
        Outcome(1, 0, 1, (4, 5, 6, 7), probabilities),
    ]
    predictions = gather_predictions(Corpus("made", LABELS, utterances), outcomes)
    np.testing.assert_allclose(predictions.calibrated.probabilities, [[[0.75, 0.25]] * 8])
    assert calibration_error(predictions.probabilities[0], predictions.truths) > 0.1
    assert calibration_error(predictions.calibrated.probabilities[0], predictions.truths) == pytest.approx(0)
    again = Predictions.from_dict(LABELS, predictions.to_dict())
    np.testing.assert_array_equal(again.temperatures, [[3] * 4 + [1] * 4])
    np.testing.assert_array_equal(again.take([5, 0]).temperatures, [[1, 3]])


ENSEMBLE_PROBABILITIES = {
    0: [[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.2, 0.8]],
    1: [[0.8, 0.2], [0.1, 0.9], [0.9, 0.1], [0.7, 0.3]],
    2: [[0.4, 0.6], [0.6, 0.4], [0.4, 0.6], [0.3, 0.7]],
}


def test_an_ensemble_answers_by_the_mean_of_its_seeds_probabilities():
    """The means are (.7 .3) (.43 .57) (.57 .43) (.4 .6): of happy, happy, sad, sad the outer two are right."""
    utterances = tuple(
        Utterance(f"{place}.wav", label, speaker)
        for place, (label, speaker) in enumerate([("happy", "a"), ("happy", "b"), ("sad", "a"), ("sad", "b")])
    )
    outcomes = [
        Outcome(fold, seed, 1, tuple(rows), np.array(found)[rows])
        for seed, found in ENSEMBLE_PROBABILITIES.items()
        for fold, rows in enumerate(([0, 2], [1, 3]))
    ]
    predictions = gather_predictions(Corpus("made", LABELS, utterances), outcomes)
    np.testing.assert_allclose(
        predictions.ensemble.probabilities,
        [[[0.7, 0.3], [1.7 / 3, 1.3 / 3], [1.3 / 3, 1.7 / 3], [0.4, 0.6]]],
    )
    ensemble = summarize_ensemble(predictions)
    assert ensemble["name"] == "ensemble of 3 seeds"
    for figure in ensemble["figures"].values():
        assert figure["intervals"].keys() == {"utterances", "speakers"}
    assert ensemble["figures"]["wa"]["of_folds"] == [0.5, 0.5]
    assert ensemble["figures"]["ua"]["pooled"] == 0.5
    assert ensemble["calibration_error"]["of_seeds"] == [
        pytest.approx(calibration_error(predictions.ensemble.probabilities[0], predictions.truths))
    ]
    assert summarize_ensemble(predictions.ensemble) is None


def test_the_ensemble_is_named_beside_the_mean_over_seeds(tmp_path):
    several, single = (crossed(tmp_path / str(seeds), wrong=3, seeds=seeds) / "report" for seeds in (2, 1))
    report = (several / "report.md").read_text()
    assert report.index("| test of | utterances |") < report.index("| ensemble of 2 seeds | utterances |")
    assert report.count("| 95 % over speakers |") == 2
    results = json.loads((several / "results.json").read_text())
    runs, ensemble = format_summary(results).splitlines()
    assert runs.startswith("test WA ")
    assert ensemble.startswith("ensemble of 2 seeds, test WA ")
    assert ensemble.endswith(describe_protocol(results) + ")")
    assert "nsemble" not in (single / "report.md").read_text()
    assert json.loads((single / "results.json").read_text())["ensemble"] is None


def test_results_of_before_there_were_ensembles_are_read(tmp_path, capsys):
    paths = [crossed(tmp_path / name, wrong=wrong) for name, wrong in (("old", 3), ("new", 8))]
    assert main(["compare", *map(str, paths)]) == 0
    expected = capsys.readouterr().out
    file = paths[0] / "report" / "results.json"
    old = json.loads(file.read_text())
    del old["ensemble"], old["predictions"]["temperatures"], old["predictions"]["corpora"]
    file.write_text(json.dumps(old))
    assert main(["compare", *map(str, paths)]) == 0
    assert capsys.readouterr().out == expected


def test_a_copy_of_the_results_is_as_good_as_their_folder(tmp_path, capsys):
    paths = [crossed(tmp_path / name, wrong=wrong) for name, wrong in (("one", 3), ("other", 8))]
    copies = [(path / "report" / "results.json").rename(tmp_path / f"{path.name}.json") for path in paths]
    assert main(["compare", *map(str, copies)]) == 0
    assert f"{copies[1]} - {copies[0]}" in capsys.readouterr().out
    missing = tmp_path / "missing.json"
    assert main(["compare", str(copies[0]), str(missing)]) == 2
    assert f"{missing} holds no results of a cross-validation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ("happy", "angry")}, "their classes are happy, sad and happy, angry"),
        ({"drop": ("a/sad0.wav",)}, "only one of them was tested on a/sad0.wav"),
        ({"protocol": "speaker6"}, "their folds differ, speaker3 (3 folds) and speaker6 (6 folds)"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(tmp_path, capsys, change, said):
    crossed(tmp_path / "one", wrong=3)
    crossed(tmp_path / "other", wrong=3, **change)
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "other")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_other_mistakes_are_one_line_each(tmp_path, capsys):
    one = crossed(tmp_path / "one", wrong=3)
    for runs, said in [([one], "at least two"), ([one, tmp_path], "holds no results of a cross-validation")]:
        assert main(["compare", *map(str, runs)]) == 2
        assert said in capsys.readouterr().err

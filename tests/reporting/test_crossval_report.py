"""Cross-validations for people: the report of one, and tables of several."""

import json

import numpy as np
import pytest
from crossvalidated import LABELS, crossed

from dslstm_jax.cli import main
from dslstm_jax.evaluation.compare import read_comparable
from dslstm_jax.evaluation.results import Predictions
from dslstm_jax.reporting.crossval_report import describe_protocol, format_summary


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

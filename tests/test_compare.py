"""Cross-validations side by side: paired tests worked by hand, and a clear no to what cannot be compared."""

import json

import numpy as np
import pytest

from dslstm_jax.cli import main
from dslstm_jax.config import Config, SplitConfig
from dslstm_jax.data.corpora import Corpus, Utterance
from dslstm_jax.data.folds import describe, make_folds
from dslstm_jax.evaluation.compare import compare, read_comparable
from dslstm_jax.evaluation.results import Outcome, summarize, write_results

LABELS = ("happy", "sad")
ENVIRONMENT = {"commit": None, "command": ["dslstm"], "python": "3.11", "packages": {}, "devices": ["cpu"]}


def crossed(folder, *, wrong, seeds=2, labels=LABELS, protocol="speaker3", drop=(), shuffle=False):
    """Results in `folder` of six speakers with four utterances of each label; every `wrong`th answer is wrong."""
    utterances = [
        Utterance(f"{speaker}/{label}{take}.wav", label, speaker)
        for speaker in "abcdef"
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
    assert f"{100 * results['figures']['ua']['mean']:.1f} %" in whole.splitlines()[2]
    assert "speaker3, 3 folds, 1 seed, epoch chosen by validation UA" in whole
    assert f"{100 * results['figures']['ua']['of_folds'][1]:.1f} %" in folds.splitlines()[2]
    assert [line.split("  ")[0] for line in pairs.splitlines()[1:]] == [
        f"{paths[j]} - {paths[i]}" for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    assert "(3 pairs)" in pairs.splitlines()[1]


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

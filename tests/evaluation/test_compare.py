"""Cross-validations side by side: paired tests worked by hand, and a clear no to what cannot be compared."""

import gzip
import json

import numpy as np
import pytest
from crossvalidated import LABELS, crossed

from dslstm_jax.cli import main
from dslstm_jax.data.corpora import Corpus, Utterance
from dslstm_jax.evaluation.calibration import with_temperature
from dslstm_jax.evaluation.compare import paired_difference, read_comparable
from dslstm_jax.evaluation.results import Outcome, Predictions, gather_predictions, summarize_ensemble
from dslstm_jax.evaluation.statistics import calibration_error


def test_a_better_predictor_is_found_better(tmp_path):
    worse, better = (crossed(tmp_path / name, wrong=wrong) for name, wrong in (("worse", 3), ("better", 8)))
    one, other = read_comparable([worse, better])
    found = paired_difference(one.predictions, other.predictions)
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
    found = paired_difference(one.predictions, other.predictions)
    assert found.pooled == pytest.approx(0)
    assert [p for _, p in found.intervals.values()] == [1, 1]
    assert found.p_of_runs == 1


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
    packed = tmp_path / "other.json.gz"
    packed.write_bytes(gzip.compress(copies[1].read_bytes()))
    assert main(["compare", str(copies[0]), str(packed)]) == 0
    assert f"{packed} - {copies[0]}" in capsys.readouterr().out
    packed.write_bytes(packed.read_bytes()[:-20])
    assert main(["compare", str(copies[0]), str(packed)]) == 2
    assert f"cannot read {packed}" in capsys.readouterr().err
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

"""The model of the package, and that its card says what is so."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trees import real_data

import dslstm_jax
from dslstm_jax.config import CorpusConfig, load_config
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.splits import make_folds
from dslstm_jax.ops.metrics import unweighted_accuracy, weighted_accuracy
from dslstm_jax.serving.predictor import BUNDLED

RECIPE = str(Path(__file__).parents[2] / "configs" / "pretrained.py")
CARD = BUNDLED.with_name("MODEL_CARD.md").read_text()


@pytest.fixture(scope="module")
def predictor():
    return dslstm_jax.load()


def test_it_is_small_and_knows_four_emotions(predictor):
    assert BUNDLED.stat().st_size <= 5_000_000
    assert set(predictor.labels) == {"happy", "neutral", "angry", "sad"}
    assert f"{sum(leaf.size for leaf in _leaves(predictor.variables['params'])):_}".replace("_", " ") in CARD


def test_its_config_is_the_one_that_says_so(predictor):
    assert predictor.config == load_config(RECIPE).recognizer


def _leaves(tree):
    return [leaf for value in tree.values() for leaf in (_leaves(value) if isinstance(value, dict) else [value])]


def test_it_streams(predictor):
    sound = 0.1 * np.random.default_rng(0).normal(size=30_000).astype(np.float32)
    stream = predictor.stream(16_000)
    stream.push(sound)
    streamed, whole = stream.finish(), predictor(sound, 16_000)
    assert streamed.probabilities == pytest.approx(whole.probabilities, abs=1e-4)


@pytest.mark.corpus
def test_its_scores_are_those_of_the_card(predictor):
    parts = tuple(CorpusConfig(name, str(real_data(f"data/{name}"))) for name in ("emodb", "ravdess"))
    recipe = load_config(RECIPE)
    corpus = load_corpus(replace(recipe.corpus, parts=parts))
    split = make_folds(corpus.utterances, recipe.split.protocol, recipe.split.seed)[0]
    tested = [corpus.utterances[member] for member in split.test]
    answers = predictor.files(utterance.path for utterance in tested)
    confusion = {name: np.zeros((4, 4)) for name in ("EmoDB", "RAVDESS")}
    for utterance, answer in zip(tested, answers, strict=True):
        place = tuple(corpus.labels.index(label) for label in (utterance.label, answer.label))
        confusion[{"emodb": "EmoDB", "ravdess": "RAVDESS"}[utterance.corpus]][place] += 1
    own = CARD.partition("Of this very file")[2].partition("Of the recipe")[0]
    rows = re.findall(r"^\| (EmoDB|RAVDESS) \| (\d+) \| (0\.\d+) \| (0\.\d+) \|", own, re.MULTILINE)
    assert len(rows) == 2
    for name, utterances, wa, ua in rows:
        matrix = confusion[name]
        assert matrix.sum() == int(utterances)
        # Another processor's rounding may turn an answer that was on the edge.
        assert weighted_accuracy(matrix) == pytest.approx(float(wa), abs=0.02)
        assert unweighted_accuracy(matrix) == pytest.approx(float(ua), abs=0.02)

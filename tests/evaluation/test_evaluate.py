"""A report says by which protocol its figures came about, and nothing that played no part."""

from pathlib import Path

import pytest

from dslstm_jax.config import Config, SplitConfig
from dslstm_jax.data.corpora import Utterance
from dslstm_jax.evaluation.evaluate import Side, _protocol
from dslstm_jax.runs.folder import RunFolder

PAIR = [Utterance("a.wav", "joy", "s00"), Utterance("b.wav", "sad", "s00"), Utterance("c.wav", "sad", "s01")]


def words(protocol: str, side: Side = "test", utterances: list[Utterance] = PAIR) -> str:
    run = RunFolder(Path("run"), Config(split=SplitConfig(protocol, fold=1, seed=7)), ("joy", "sad"))
    return _protocol(run, utterances, side)


@pytest.mark.parametrize(
    ("protocol", "beginning"),
    [
        ("speaker5", "speaker5 fold 1 of seed 7, 2 unseen speakers"),
        ("random10", "random10 fold 1 of seed 7, speakers shared with training"),
        ("speaker", "speaker fold 1, 2 unseen speakers"),
        ("session", "session fold 1, 2 unseen speakers"),
        ("corpus", "corpus fold 1 of seed 7, 2 unseen speakers"),
        ("ravdess-actors5", "ravdess-actors5 fold 1, 2 unseen speakers"),
        ("speaker5.json", "speaker5.json fold 1, 2 unseen speakers"),
        ("random5.json", "random5.json fold 1, 2 unseen speakers"),
    ],
)
def test_the_seed_is_named_where_it_deals(protocol: str, beginning: str) -> None:
    assert words(protocol) == f"{beginning}, epoch chosen by validation UA"


def test_who_was_evaluated_depends_on_the_side() -> None:
    assert words("speaker5", "validation", PAIR[:2]) == (
        "speaker5 fold 1 of seed 7, 1 unseen speaker, epoch chosen by validation UA"
    )
    assert words("random5", "train") == (
        "random5 fold 1 of seed 7, the utterances it was trained on, epoch chosen by validation UA"
    )

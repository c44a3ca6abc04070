"""Which epoch is used, and how that is said."""

import pytest

from dslstm_jax.config import Config, SplitConfig, TrainingConfig
from dslstm_jax.runs.selection import describe_choice, score

RECORDS = [
    {"epoch": epoch, "validation_ua": ua, "test_ua": 1 - ua} for epoch, ua in enumerate((0.2, 0.9, 0.6, 0.7), 1)
]


def best(training):
    scores = [score(RECORDS[:epoch], training) for epoch in range(1, len(RECORDS) + 1)]
    return 1 + scores.index(max(scores))


def test_one_epoch_alone_chooses_by_default():
    assert best(TrainingConfig()) == 2
    assert score(RECORDS, TrainingConfig()) == pytest.approx(0.7)


def test_the_mean_of_some_epochs_is_less_a_matter_of_luck():
    assert score(RECORDS[:2], TrainingConfig(choose_over=2)) == pytest.approx(0.55)
    assert best(TrainingConfig(choose_over=2)) == 3
    assert best(TrainingConfig(choose_over=3)) == 4
    assert score(RECORDS, TrainingConfig(choose_over=9)) == pytest.approx(0.6)  # those that there are


def test_the_test_chooses_where_it_is_told_to():
    assert best(TrainingConfig(choose="test-best")) == 1


def test_the_last_epoch_is_the_best_one_where_it_is_asked_for():
    assert best(TrainingConfig(choose="last")) == 4
    assert best(TrainingConfig(choose="last", choose_over=3)) == 4


@pytest.mark.parametrize(
    ("training", "words"),
    [
        (TrainingConfig(), "epoch chosen by validation UA"),
        (TrainingConfig(choose_over=5), "epoch chosen by validation UA, mean of 5 epochs"),
        (TrainingConfig(choose="last", choose_over=5), "last epoch"),
        (TrainingConfig(choose="test-best"), "peeking: test chooses the epoch"),
        (
            TrainingConfig(choose="refit", choose_over=5),
            "number of epochs chosen by validation UA, mean of 5 epochs, then trained anew with the validation "
            "utterances",
        ),
    ],
)
def test_the_rule_is_said(training, words):
    assert describe_choice(Config(training=training)) == words


def test_the_last_epoch_needs_no_validation():
    training = TrainingConfig(choose="last")
    assert score([{"epoch": 7}], training) == 7
    said = describe_choice(Config(split=SplitConfig(validation=False), training=training))
    assert said == "last epoch, nothing held back for validation"

"""Checkpoints: the best and the latest are kept, and come back exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dslstm_jax.errors import RunError
from dslstm_jax.training.checkpoint import SCORE, Checkpoints
from dslstm_jax.training.step import TrainState


def state(value: float) -> TrainState:
    variables = {"params": {"w": jnp.full((3, 2), value)}, "batch_stats": {"mean": jnp.full(2, -value)}}
    optimizer = optax.adam(1e-3).init(variables["params"])
    return TrainState(jnp.asarray(int(value)), variables, optimizer)


def save(folder, scores):
    with Checkpoints(folder) as checkpoints:
        records = []
        for epoch, score in enumerate(scores, start=1):
            records = [*records, {"epoch": epoch, SCORE: score}]
            checkpoints.save(epoch, state(epoch), records)


def equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_best_and_the_latest_are_kept(tmp_path):
    save(tmp_path / "c", [0.2, 0.9, 0.5, 0.4])
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"2", "4"}
    with Checkpoints(tmp_path / "c") as checkpoints:  # opened anew: the scores come from the disk
        variables, epoch = checkpoints.restore_best(state(0).variables)
        latest, records = checkpoints.restore_latest(state(0))
        assert epoch == 2
        equal(variables, state(2).variables)
        equal(latest, state(4))
        assert [record[SCORE] for record in records] == [0.2, 0.9, 0.5, 0.4]
        checkpoints.save(5, state(5), [*records, {"epoch": 5, SCORE: 0.1}])
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"2", "5"}


def test_of_equal_scores_the_latest_counts(tmp_path):
    save(tmp_path / "c", [0.3, 0.9, 0.9, 0.1])
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore_best(state(0).variables)[1] == 3


def test_nothing_saved_yet(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore_latest(state(0)) is None
        with pytest.raises(RunError, match="holds no checkpoint"):
            checkpoints.restore_best(state(0).variables)


def test_another_model_or_a_damaged_file_is_one_clear_error(tmp_path):
    save(tmp_path / "c", [0.3])
    with Checkpoints(tmp_path / "c") as checkpoints:
        wider = {"params": {"w": jnp.zeros((5, 2))}, "batch_stats": {"mean": jnp.zeros(2)}}
        with pytest.raises(RunError, match="cannot be restored") as caught:
            checkpoints.restore_best(wider)
        assert "\n" not in str(caught.value)
    for path in (tmp_path / "c" / "1" / "variables").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(RunError, match=r"c/1 cannot be restored"):
        checkpoints.restore_best(state(0).variables)

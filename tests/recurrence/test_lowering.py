"""The programs that train and predict lower for CPUs, GPUs and TPUs, and sum over devices as often as they should."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import pytest
from tiny import tiny_config

from dslstm_jax.benchmark.program import all_reduces, runs, trace_train_step
from dslstm_jax.config import Config
from dslstm_jax.models.recognizer import variable_shapes
from dslstm_jax.serving.predictor import predict
from dslstm_jax.training.parallel import Parallel

PLATFORMS = ("cpu", "cuda", "tpu")
LOCAL = replace(Config(), training=replace(Config().training, batch_statistics="local"))
PARTS = replace(Config(), training=replace(Config().training, accumulate=2))
CONFIGS = {"tiny": tiny_config("unused"), "paper": Config(), "local": LOCAL, "in parts": PARTS}
TIME_STEPS = {"tiny": 6, "paper": 27}
CNNS, BLOCKS = 2, 2


@cache
def traced(name: str, mode: str) -> jax.stages.Traced:
    devices = tuple(jax.devices())[: 1 if mode == "single" else 2]
    samples = 9_600 if name == "tiny" else 64_000
    return trace_train_step(CONFIGS[name], Parallel(mode, devices), rows=8, samples=samples)


def lowered(name: str, mode: str, platform: str) -> str:
    return traced(name, mode).lower(lowering_platforms=(platform,)).as_text(dialect="hlo")


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", [pytest.param("tiny", marks=pytest.mark.long), "paper"])
def test_a_step_on_one_device_lowers_and_sums_nothing_up(name, platform):
    text = lowered(name, "single", platform)
    assert "HloModule jit_train_step" in text
    assert all_reduces(runs(text)) == []


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", [pytest.param("tiny", marks=pytest.mark.long), "paper"])
def test_a_step_on_several_devices_sums_as_often_as_it_should(name, platform):
    found = all_reduces(runs(lowered(name, "shard_map", platform)))
    steps, layers = TIME_STEPS[name], CONFIGS[name].model.layers
    # A count is an array that is summed up; compilers put neighbors into one all-reduce.
    arrays = len(jax.tree.leaves(variable_shapes(CONFIGS[name], 4)["params"]))  # a gradient for each weight
    arrays += 3  # totals: loss, utterances, confusion
    # The first block of a CNN: count and sum for the level; products of the patches, and how many.
    arrays += CNNS * (2 + 2)
    # Each further block: count and sum, then squares; in the gradient, those of squares and of the sum.
    arrays += CNNS * (BLOCKS - 1) * (3 + 2)
    # A DS-LSTM layer's outputs: all steps' moments in one array, and its gradient.
    arrays += layers * 2
    # A DS-LSTM layer's gates: at each step the moments in one array, and its gradient.
    in_loops = layers * 2
    assert len(found) == arrays + in_loops
    assert sum(run.times for run in found) == arrays + in_loops * steps
    assert sorted({run.times for run in found}) == [1, steps]


def test_a_batch_in_parts_sums_gradients_once_and_statistics_in_each_part():
    whole, parts = (all_reduces(runs(lowered(name, "shard_map", "tpu"))) for name in ("paper", "in parts"))
    once = len(jax.tree.leaves(variable_shapes(Config(), 4)["params"])) + 3
    assert sum(run.times for run in parts) - once == 2 * (sum(run.times for run in whole) - once)


def test_local_statistics_leave_no_sum_in_a_loop():
    found = all_reduces(runs(lowered("local", "shard_map", "tpu")))
    variables = variable_shapes(LOCAL, 4)
    assert {run.times for run in found} == {1}
    assert len(found) == len(jax.tree.leaves(variables)) + 3  # gradients, running statistics, totals


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", [pytest.param("tiny", marks=pytest.mark.long), "paper"])
def test_predict_lowers(name, platform):
    config = CONFIGS[name]
    waveforms, lengths = jax.ShapeDtypeStruct((8, 64_000), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.int32)
    program = predict.trace(variable_shapes(config, 4), waveforms, lengths, config=config)
    text = program.lower(lowering_platforms=(platform,)).as_text()
    assert "module @jit_predict" in text
    assert "stablehlo.all_reduce" not in text

"""The TPU kernels of the plain LSTM, run by JAX on a CPU: equal to the scan in values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrence_checks import check_padding, check_values_and_gradients, random_tree
from test_lstm import STACK_SHAPES, B, F, factors, split_stack, stack

from dslstm_jax.benchmark.program import trace_train_step
from dslstm_jax.config import Config, ModelConfig
from dslstm_jax.errors import ConfigError
from dslstm_jax.recurrence import lstm_pallas, lstm_stack
from dslstm_jax.training.parallel import Parallel

T = 7
SHAPES = STACK_SHAPES | {"x": (B, T, F)}
MASK = jnp.arange(T)[None] < jnp.array([T, 3, 1])[:, None]
pallas = partial(stack, backend="pallas_tpu")


def check(mask, tolerance=1e-6, **options):
    check_values_and_gradients(
        jax.jit(lambda tree: pallas(tree, mask, **options)),
        jax.jit(lambda tree: stack(tree, mask, **options)),
        random_tree(0, **SHAPES),
        tolerance,
    )


@pytest.fixture
def as_on_a_tpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


@pytest.fixture
def interpreted(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(lstm_pallas, "INTERPRET", True)


@pytest.mark.usefixtures("interpreted")
def test_equals_the_scan():
    """Layers of different sizes, dropout between them, initial states, padding; sizes that fill no registers."""
    check(MASK, factors=factors())


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("frames", [1, 4], ids=["blocks of 1", "blocks of 4 and 3"])
def test_equals_the_scan_in_blocks_and_float64(frames, monkeypatch):
    monkeypatch.setattr(lstm_pallas, "BLOCK_BYTES", frames * 200_000)
    with jax.enable_x64(True):
        check(MASK, tolerance=1e-10)


@pytest.mark.usefixtures("interpreted")
def test_a_mask_may_have_holes():
    check(jnp.array([[1, 0, 1, 1, 0, 0, 1], [0, 1, 1, 0, 1, 0, 0], [1] * T], bool))


@pytest.mark.usefixtures("interpreted")
def test_padding_has_no_influence():
    weights = [layer[0] for layer in split_stack(random_tree(2, **SHAPES))]

    @jax.jit
    def run(sequences, mask):
        outputs, final = lstm_stack(weights, *sequences, mask, backend="pallas_tpu")
        return outputs, [part for state in final for part in state]

    check_padding(run, (random_tree(3, x=(B, T, F))["x"],), (T, 2, 0))


@pytest.mark.usefixtures("interpreted")
def test_bfloat16_rounds_where_the_scan_does():
    """In one layer: between layers the scan passes float32 on."""
    weights, x, initial = split_stack(random_tree(4, **SHAPES))[0]
    x = x.astype(jnp.bfloat16)

    @partial(jax.jit, static_argnums=0)
    @partial(jax.grad, argnums=1, has_aux=True)
    def gradient(backend, weights):
        outputs, final = lstm_stack([weights], x, MASK, [initial], backend=backend)
        return jnp.sin(outputs.astype(float)).sum(), (outputs, final)

    found, (outputs, final) = gradient("pallas_tpu", weights)
    assert outputs.dtype == jnp.bfloat16
    for leaf in jax.tree.leaves((final, found)):
        assert leaf.dtype == jnp.float32
        assert (leaf != leaf.astype(jnp.bfloat16).astype(leaf.dtype)).any(), "rounded to bfloat16 on the way"
    expected = gradient("scan", weights)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), (found, (outputs, final)), expected)


def test_without_a_tpu_it_is_one_clear_error():
    with pytest.raises(ConfigError, match=r"model\.lstm_backend is pallas_tpu.*this is a cpu: use scan"):
        pallas(random_tree(5, **SHAPES), MASK)


@pytest.mark.usefixtures("as_on_a_tpu")
@pytest.mark.parametrize("mode", ["single", "shard_map"])
def test_a_train_step_lowers_with_a_kernel_in_each_direction_of_each_layer(mode):
    config = Config(model=ModelConfig(lstm_backend="pallas_tpu", spectrogram_branch="none"))
    devices = tuple(jax.devices())[: 1 if mode == "single" else 2]
    traced = trace_train_step(config, Parallel(mode, devices), rows=8, samples=64_000)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count('kernel_name = "lstm_forward"') == text.count('kernel_name = "lstm_backward"') == 2

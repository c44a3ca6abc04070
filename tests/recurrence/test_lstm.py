"""The plain LSTM: equal to its equations, step by step, in one layer or several; padding has no influence."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn
from recurrence_checks import check_padding, check_values_and_gradients, random_tree

from dslstm_jax.errors import ConfigError
from dslstm_jax.recurrence import LSTMState, LSTMWeights, lstm, lstm_stack

B, T, F, H = 3, 6, 5, 4
SHAPES = {
    "input_kernel": (F, 4 * H),
    "recurrent_kernel": (H, 4 * H),
    "input_bias": (4 * H,),
    "recurrent_bias": (4 * H,),
    "x": (B, T, F),
    "hidden": (B, H),
    "cell": (B, H),
}


def split(tree):
    weights = LSTMWeights(*(tree[name] for name in LSTMWeights._fields))
    return weights, tree["x"], LSTMState(tree["hidden"], tree["cell"])


def loop(tree, mask):
    """The equations of PyTorch's documentation, one gate at a time; padding passes the state on and outputs 0."""
    weights, x, (h, c) = split(tree)
    size = h.shape[-1]
    gates = [slice(k * size, (k + 1) * size) for k in range(4)]
    outputs = []
    for t in range(x.shape[1]):
        valid = mask[:, t, None]
        i, f, g, o = (
            x[:, t] @ weights.input_kernel[:, gate]
            + weights.input_bias[None, gate]
            + h @ weights.recurrent_kernel[:, gate]
            + weights.recurrent_bias[None, gate]
            for gate in gates
        )
        new_c = c / (1 + jnp.exp(-f)) + jnp.tanh(g) / (1 + jnp.exp(-i))
        new_h = jnp.tanh(new_c) / (1 + jnp.exp(-o))
        h, c = jnp.where(valid, new_h, h), jnp.where(valid, new_c, c)
        outputs.append(jnp.where(valid, h, 0))
    return jnp.stack(outputs, axis=1), (h, c)


def scan(tree, mask):
    weights, x, initial = split(tree)
    outputs, final = lstm(weights, x, mask, initial)
    return outputs, tuple(final)


@pytest.mark.parametrize("lengths", [(T, T, T), (T, 2, 1)], ids=["whole", "padded"])
def test_equals_a_loop_in_float64(lengths):
    """Values, and the gradients that are written by hand."""
    mask = jnp.arange(T)[None] < jnp.array(lengths)[:, None]
    with jax.enable_x64(True):
        tree = random_tree(0, **SHAPES)
        check_values_and_gradients(lambda t: scan(t, mask), lambda t: loop(t, mask), tree, tolerance=1e-10)


def test_starts_at_zero():
    weights, x, _ = split(random_tree(1, **SHAPES))
    mask = jnp.ones((B, T), bool)
    zeros = LSTMState(jnp.zeros((B, H)), jnp.zeros((B, H)))
    run = jax.jit(lstm)
    jax.tree.map(np.testing.assert_array_equal, run(weights, x, mask), run(weights, x, mask, zeros))


def test_in_two_parts_equals_the_whole():
    weights, x, initial = split(random_tree(2, **SHAPES))
    mask = jnp.arange(T)[None] < jnp.array([T, 3, 1])[:, None]
    run = jax.jit(lstm)
    whole, final = run(weights, x, mask, initial)
    first, state = run(weights, x[:, :2], mask[:, :2], initial)
    second, last = run(weights, x[:, 2:], mask[:, 2:], state)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), last, final)


def test_padding_has_no_influence():
    weights, x, _ = split(random_tree(3, **SHAPES))
    check_padding(lambda sequences, mask: lstm(weights, *sequences, mask), (x,), (T, 2, 0))


SIZES = (H, 3, 2)
STACK_SHAPES = {"x": (B, T, F)} | {
    f"{name}_{layer}": shape
    for layer, (size, width) in enumerate(zip(SIZES, (F, *SIZES), strict=False))
    for name, shape in {
        "input_kernel": (width, 4 * size),
        "recurrent_kernel": (size, 4 * size),
        "input_bias": (4 * size,),
        "recurrent_bias": (4 * size,),
        "hidden": (B, size),
        "cell": (B, size),
    }.items()
}


def split_stack(tree):
    return [
        split({name: tree[f"{name}_{layer}"] for name in SHAPES if name != "x"} | {"x": tree["x"]})
        for layer in range(len(SIZES))
    ]


def factors():
    """Two layers' dropout."""
    return [jnp.asarray(jax.random.bernoulli(jax.random.key(n), 0.6, (B, n)), float) / 0.6 for n in SIZES[:-1]]


def stack(tree, mask, **options):
    layers = split_stack(tree)
    weights, initial = [layer[0] for layer in layers], [layer[2] for layer in layers]
    outputs, final = lstm_stack(weights, tree["x"], mask, initial, **options)
    return outputs, tuple(map(tuple, final))


def loops(tree, mask, factors):
    """Layer by layer, what `stack` does in one loop."""
    x, final = tree["x"], []
    for layer, (weights, _, state) in enumerate(split_stack(tree)):
        x, last = loop(weights._asdict() | {"x": x} | state._asdict(), mask)
        x = x if layer == len(SIZES) - 1 else x * factors[layer][:, None]
        final.append(last)
    return x, tuple(final)


@pytest.mark.parametrize(("remat_every", "unroll"), [(0, 1), (3, 2)])
def test_layers_in_one_loop_equal_loops_in_float64(remat_every, unroll):
    """Values and gradients, with dropout between the layers; chunks of 3 do not divide the ticks."""
    mask = jnp.arange(T)[None] < jnp.array([T, 2, 1])[:, None]
    with jax.enable_x64(True):
        tree, scales = random_tree(4, **STACK_SHAPES), factors()
        check_values_and_gradients(
            lambda t: stack(t, mask, factors=scales, remat_every=remat_every, unroll=unroll),
            lambda t: loops(t, mask, scales),
            tree,
            tolerance=1e-10,
        )


def test_padding_has_no_influence_on_layers():
    weights = [layer[0] for layer in split_stack(random_tree(5, **STACK_SHAPES))]
    x = random_tree(6, x=(B, T, F))["x"]

    def run(sequences, mask):
        outputs, final = lstm_stack(weights, *sequences, mask)
        return outputs, [part for state in final for part in state]

    check_padding(run, (x,), (T, 2, 0))


def test_bfloat16_sequences_keep_weights_and_states_in_float32():
    tree = random_tree(7, **STACK_SHAPES)
    mask = jnp.arange(T)[None] < jnp.array([T, 2, 1])[:, None]
    half = tree["x"].astype(jnp.bfloat16)

    def run(t, x):
        outputs, final = stack(t | {"x": x}, mask)
        return (outputs.astype(float) ** 2).mean(), (outputs, final)

    weights = {name: leaf for name, leaf in tree.items() if name != "x"}
    gradient = jax.jit(jax.grad(run, has_aux=True))
    found, (outputs, final) = gradient(weights, half)
    expected, (precise, _) = gradient(weights, half.astype(float))
    assert outputs.dtype == jnp.bfloat16
    np.testing.assert_allclose(outputs.astype(float), precise, atol=0.02)
    for leaf in jax.tree.leaves(final) + jax.tree.leaves(found):
        assert leaf.dtype == jnp.float32
        assert (leaf != leaf.astype(jnp.bfloat16).astype(leaf.dtype)).any(), "rounded to bfloat16 on the way"
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, expected[name], atol=0.05 * np.abs(expected[name]).max(), err_msg=name)


def test_rematerialization_saves_memory():
    long, size = 4000, 16
    weights = [LSTMWeights(jnp.ones((size, 4 * size)), jnp.ones((size, 4 * size)), *jnp.ones((2, 4 * size)))] * 2
    x, mask = jnp.ones((4, long, size)), jnp.ones((4, long), bool)

    def temporary(every):
        gradient = jax.grad(lambda w: lstm_stack(w, x, mask, remat_every=every)[0].sum())
        return jax.jit(gradient).lower(weights).compile().memory_analysis().temp_size_in_bytes

    everything, little = temporary(0), temporary(64)
    print(f"{everything / 2**20:.1f} MiB, {little / 2**20:.1f} MiB with chunks of 64")
    assert little < everything / 6


def test_cudnn_is_given_our_weights_in_its_order(monkeypatch):
    """JAX's reference of cuDNN stands in for it: it unpacks the weights as cuDNN does."""

    def reference(x, hidden, cell, packed, lengths, *sizes):
        assert int(lengths.min()) >= 1, "cuDNN refuses empty rows"
        width, size, layers, dropout, bidirectional = sizes
        matrices = rnn.unpack_lstm_weights(packed, width, size, layers, bidirectional)
        return rnn.lstm_ref(x, hidden, cell, *matrices, lengths, width, size, layers, dropout, bidirectional)

    tree, mask = random_tree(8, **STACK_SHAPES), jnp.arange(T)[None] < jnp.array([T, 2, 0])[:, None]
    expected = stack(tree, mask, factors=factors())
    monkeypatch.setattr(rnn, "lstm", reference)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = stack(tree, mask, factors=factors(), backend="cudnn")
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), found, expected)


def test_cudnn_without_a_gpu_is_one_clear_error():
    with pytest.raises(ConfigError, match=r"model\.lstm_backend is cudnn.*use scan"):
        stack(random_tree(8, **STACK_SHAPES), jnp.ones((B, T), bool), backend="cudnn")

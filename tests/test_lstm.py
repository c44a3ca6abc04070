"""The plain LSTM: equal to its equations, step by step; padding has no influence."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrence_checks import check_padding, check_values_and_gradients, random_tree

from dslstm_jax.recurrence import LSTMState, LSTMWeights, lstm

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
    gates = [slice(k * H, (k + 1) * H) for k in range(4)]
    outputs = []
    for t in range(x.shape[1]):
        valid = mask[:, t, None]
        i, f, g, o = (
            x[:, t] @ weights.input_kernel[:, gate]
            + weights.input_bias[gate]
            + h @ weights.recurrent_kernel[:, gate]
            + weights.recurrent_bias[gate]
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
    mask = jnp.arange(T) < jnp.array(lengths)[:, None]
    with jax.enable_x64(True):
        tree = random_tree(0, **SHAPES)
        check_values_and_gradients(lambda t: scan(t, mask), lambda t: loop(t, mask), tree, tolerance=1e-10)


def test_starts_at_zero():
    weights, x, _ = split(random_tree(1, **SHAPES))
    mask = jnp.ones((B, T), bool)
    zeros = LSTMState(jnp.zeros((B, H)), jnp.zeros((B, H)))
    jax.tree.map(np.testing.assert_array_equal, lstm(weights, x, mask), lstm(weights, x, mask, zeros))


def test_in_two_parts_equals_the_whole():
    weights, x, initial = split(random_tree(2, **SHAPES))
    mask = jnp.arange(T) < jnp.array([T, 3, 1])[:, None]
    whole, final = lstm(weights, x, mask, initial)
    first, state = lstm(weights, x[:, :2], mask[:, :2], initial)
    second, last = lstm(weights, x[:, 2:], mask[:, 2:], state)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), last, final)


def test_padding_has_no_influence():
    weights, x, _ = split(random_tree(3, **SHAPES))
    check_padding(lambda sequences, mask: lstm(weights, *sequences, mask), (x,), (T, 2, 0))

"""The plain LSTM: equal to its equations, step by step; padding has no influence."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
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


def loop(tree):
    """The equations of PyTorch's documentation, one gate at a time."""
    weights, x, (h, c) = split(tree)
    gates = [slice(k * H, (k + 1) * H) for k in range(4)]
    hidden = []
    for t in range(x.shape[1]):
        i, f, g, o = (
            x[:, t] @ weights.input_kernel[:, gate]
            + weights.input_bias[gate]
            + h @ weights.recurrent_kernel[:, gate]
            + weights.recurrent_bias[gate]
            for gate in gates
        )
        c = c / (1 + jnp.exp(-f)) + jnp.tanh(g) / (1 + jnp.exp(-i))
        h = jnp.tanh(c) / (1 + jnp.exp(-o))
        hidden.append(h)
    return jnp.stack(hidden, axis=1), (h, c)


def scan(tree):
    weights, x, initial = split(tree)
    outputs, final = lstm(weights, x, jnp.ones(x.shape[:2], bool), initial)
    return outputs, tuple(final)


def test_equals_a_loop_in_float64():
    with jax.enable_x64(True):
        check_values_and_gradients(scan, loop, random_tree(0, **SHAPES), tolerance=1e-10)


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

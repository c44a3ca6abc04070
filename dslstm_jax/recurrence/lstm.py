"""The plain LSTM as a function of its weights: sequences in, sequences out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from dslstm_jax.masking import zero_padding


class LSTMWeights(NamedTuple):
    """Columns in the order of the gates: input i, forget f, candidate g, output o (as in PyTorch and cuDNN)."""

    input_kernel: Float[Array, "F 4*H"]
    recurrent_kernel: Float[Array, "H 4*H"]
    input_bias: Float[Array, " 4*H"]
    recurrent_bias: Float[Array, " 4*H"]
    """The second bias adds nothing but PyTorch's optimizer trajectory: Adam moves the sum of the two twice as far."""


class LSTMState(NamedTuple):
    """What the recurrence carries from frame to frame."""

    hidden: Float[Array, "B H"]
    cell: Float[Array, "B H"]


def initial_state(x: Float[Array, "B T F"], hidden_size: int) -> LSTMState:
    """h = c = 0, of x's batch size and type."""
    zeros = jnp.zeros_like(x, shape=(x.shape[0], hidden_size))
    return LSTMState(zeros, zeros)


def keep_state_at_padding(valid: Bool[Array, " B"], new: LSTMState, old: LSTMState) -> LSTMState:
    """The new state in rows whose frame is valid; the old one goes on in the others."""
    return jax.tree.map(lambda after, before: jnp.where(valid[:, None], after, before), new, old)


class _Trace(NamedTuple):
    """What the backward pass needs of every step."""

    hidden: Float[Array, "T B H"]
    cell: Float[Array, "T B H"]
    gates: Float[Array, "T B 4*H"]


def _forward(
    projected: Float[Array, "T B 4*H"],
    recurrent_kernel: Float[Array, "H 4*H"],
    mask: Bool[Array, "T B"],
    initial: LSTMState,
) -> tuple[LSTMState, _Trace]:
    def step(state: LSTMState, inputs: tuple[Float[Array, "B 4*H"], Bool[Array, " B"]]) -> tuple[LSTMState, _Trace]:
        from_input, valid = inputs
        i, f, g, o = jnp.split(from_input + state.hidden @ recurrent_kernel, 4, axis=-1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        cell = f * state.cell + i * g
        state = keep_state_at_padding(valid, LSTMState(o * jnp.tanh(cell), cell), state)
        return state, _Trace(state.hidden, state.cell, jnp.concatenate([i, f, g, o], axis=-1))

    return lax.scan(step, initial, (projected, mask))


@jax.custom_vjp
def _recur(
    projected: Float[Array, "T B 4*H"],
    recurrent_kernel: Float[Array, "H 4*H"],
    mask: Bool[Array, "T B"],
    initial: LSTMState,
) -> tuple[Float[Array, "T B H"], LSTMState]:
    """The loop over time. Its gradient is written by hand, for the kernel's is then one product over all frames
    after the loop, where automatic differentiation adds up one a frame."""
    outputs: tuple[Float[Array, "T B H"], LSTMState] = _recur_forward(projected, recurrent_kernel, mask, initial)[0]
    return outputs


def _recur_forward(
    projected: Float[Array, "T B 4*H"],
    recurrent_kernel: Float[Array, "H 4*H"],
    mask: Bool[Array, "T B"],
    initial: LSTMState,
) -> tuple[Any, Any]:
    final, trace = _forward(projected, recurrent_kernel, mask, initial)
    return (trace.hidden, final), (trace, recurrent_kernel, mask, initial)


def _recur_backward(saved: Any, cotangents: Any) -> tuple[Any, ...]:
    """Gradients of (projected, recurrent_kernel, mask, initial); `of_x` is the gradient of x."""
    (trace, recurrent_kernel, mask, initial), (of_outputs, of_final) = saved, cotangents
    before = LSTMState(
        jnp.concatenate([initial.hidden[None], trace.hidden[:-1]]),
        jnp.concatenate([initial.cell[None], trace.cell[:-1]]),
    )

    def step(of_state: LSTMState, inputs: Any) -> tuple[LSTMState, Float[Array, "B 4*H"]]:
        of_output, cell, previous_cell, gates, valid = inputs
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        squashed = jnp.tanh(cell)
        of_hidden = of_state.hidden + of_output
        of_cell = of_state.cell + of_hidden * o * (1 - squashed**2)
        of_gates = (
            of_cell * g * i * (1 - i),
            of_cell * previous_cell * f * (1 - f),
            of_cell * i * (1 - g**2),
            of_hidden * squashed * o * (1 - o),
        )
        of_projected = jnp.where(valid[:, None], jnp.concatenate(of_gates, axis=-1), 0)
        of_previous = LSTMState(of_projected @ recurrent_kernel.T, of_cell * f)
        return keep_state_at_padding(valid, of_previous, LSTMState(of_hidden, of_state.cell)), of_projected

    of_initial, of_projected = lax.scan(
        step, of_final, (of_outputs, trace.cell, before.cell, trace.gates, mask), reverse=True
    )
    of_kernel = jnp.einsum("tbh,tbk->hk", before.hidden, of_projected)
    return of_projected, of_kernel, None, of_initial


_recur.defvjp(_recur_forward, _recur_backward)


def lstm(
    weights: LSTMWeights,
    x: Float[Array, "B T F"],
    mask: Bool[Array, "B T"],
    initial: LSTMState | None = None,
) -> tuple[Float[Array, "B T H"], LSTMState]:
    """Runs one LSTM layer over a batch of padded sequences (Hochreiter and Schmidhuber 1997, with forget gates).

    Args:
      weights: see `LSTMWeights`.
      x: the sequences; padded frames may hold anything, NaN too.
      mask: True at valid frames. At padded ones the state is carried on and the output is 0.
      initial: the state before the first frame; zeros if None.

    Returns:
      The hidden state after each frame, and the state after the last valid frame of each row.
    """
    # One product over all frames; only the recurrent product stays in the loop.
    projected = zero_padding(x, mask) @ weights.input_kernel + (weights.input_bias + weights.recurrent_bias)

    start = initial_state(projected, weights.recurrent_kernel.shape[0]) if initial is None else initial
    outputs, final = _recur(projected.swapaxes(0, 1), weights.recurrent_kernel, mask.T, start)
    return zero_padding(outputs.swapaxes(0, 1), mask), final

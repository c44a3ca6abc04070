"""The plain LSTM as a function of its weights: sequences in, sequences out."""

from typing import NamedTuple

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

    def step(
        state: LSTMState, inputs: tuple[Float[Array, "B 4*H"], Bool[Array, " B"]]
    ) -> tuple[LSTMState, Float[Array, "B H"]]:
        from_input, valid = inputs
        i, f, g, o = jnp.split(from_input + state.hidden @ weights.recurrent_kernel, 4, axis=-1)
        cell = jax.nn.sigmoid(f) * state.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        state = keep_state_at_padding(valid, LSTMState(jax.nn.sigmoid(o) * jnp.tanh(cell), cell), state)
        return state, state.hidden

    start = initial_state(projected, weights.recurrent_kernel.shape[0]) if initial is None else initial
    final, outputs = lax.scan(step, start, (projected.swapaxes(0, 1), mask.T))
    return zero_padding(outputs.swapaxes(0, 1), mask), final

"""The plain LSTM's weights, state and equations of one frame, which every way of running it shares."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dslstm_jax.ops.promotion import wide_type


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


def sigmoid(z: Float[Array, "*N H"]) -> Float[Array, "*N H"]:
    """1 / (1 + exp(-z)), by tanh: XLA computes that without an exponential, in a fraction of the time on a CPU."""
    return 0.5 * jnp.tanh(0.5 * z) + 0.5


def next_state(gates: Float[Array, "B 4*H"], cell: Float[Array, "B H"]) -> LSTMState:
    """The state after a frame, of i, f, g and o of this frame and the cell before it."""
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    cell = f * cell + i * g
    return LSTMState(o * jnp.tanh(cell), cell)


def frame_gradient(
    gates: Float[Array, "B 4*H"], cell: Float[Array, "B H"], grad_state: LSTMState
) -> tuple[Float[Array, "B 4*H"], Float[Array, "B H"]]:
    """Gradients of a frame's gates, taken before their sigmoid or tanh, and of the cell before it.

    Args:
      gates: i, f, g and o of the frame.
      cell: before the frame.
      grad_state: gradient of the state after the frame.
    """
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    squashed = jnp.tanh(f * cell + i * g)
    grad_cell = grad_state.cell + grad_state.hidden * o * (1 - squashed**2)
    grad_gates = (
        grad_cell * g * i * (1 - i),
        grad_cell * cell * f * (1 - f),
        grad_cell * i * (1 - g**2),
        grad_state.hidden * squashed * o * (1 - o),
    )
    return jnp.concatenate(grad_gates, axis=-1), grad_cell * f


def product(a: Float[Array, "*N K"], b: Float[Array, "K M"]) -> Float[Array, "*N M"]:
    """a @ b in operands of a's type, added up and returned in float32 at least."""
    return jnp.matmul(a, b.astype(a.dtype), preferred_element_type=wide_type(a.dtype))


def kernel_gradient(inputs: Float[Array, "S B I"], grad_outputs: Float[Array, "S B K"]) -> Float[Array, "I K"]:
    """The gradient of a kernel that all frames were multiplied by, as one product."""
    return product(inputs.reshape(-1, inputs.shape[-1]).T, grad_outputs.reshape(-1, grad_outputs.shape[-1]))

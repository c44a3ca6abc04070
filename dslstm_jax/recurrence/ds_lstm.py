"""The Dual-Sequence LSTM: one cell that reads two synchronized sequences (Wang et al. 2020).

At each step, with h the carried hidden state:

    [f, i_T, o, i_F] = BN_t(sigmoid(W [x; y; h] + b))      statistics of their own for every step t
    c~_T = tanh(W_T [x; h] + b_T)          c~_F = tanh(W_F [y; h] + b_F)
    c = f c + i_T c~_T + i_F c~_F          h = o tanh(c)          output = BN_out(h)

The normalization comes after the sigmoid, and the carried h is not normalized, as in the authors' code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from dslstm_jax.masking import zero_padding
from dslstm_jax.recurrence.batch_norm import Statistics, batch_norm, masked_moments, normalize, update_running
from dslstm_jax.recurrence.lstm import LSTMState, initial_state, keep_state_at_padding


class DSLSTMWeights(NamedTuple):
    """Columns in blocks of H: the gates f, i_T, o, i_F, then the candidates c~_T (of x) and c~_F (of y)."""

    x_kernel: Float[Array, "X 5*H"]
    """f, i_T, o, i_F, c~_T."""
    y_kernel: Float[Array, "Y 5*H"]
    """f, i_T, o, i_F, c~_F."""
    recurrent_kernel: Float[Array, "H 6*H"]
    """f, i_T, o, i_F, c~_T, c~_F."""
    bias: Float[Array, " 6*H"]
    gate_scale: Float[Array, " 4*H"]
    gate_shift: Float[Array, " 4*H"]
    output_scale: Float[Array, " H"]
    output_shift: Float[Array, " H"]


class DSLSTMStatistics(NamedTuple):
    """Running statistics of the two batch normalizations."""

    gates: Statistics
    """One row a time step. [S, 4H]"""
    output: Statistics
    """Shared by all steps. [H]"""


def _rows(statistics: Statistics, steps: int) -> Statistics:
    """The first `steps` rows; the last row is repeated for steps beyond those that have one."""
    return jax.tree.map(lambda rows: rows[jnp.minimum(jnp.arange(steps), rows.shape[0] - 1)], statistics)


def _replace_rows(old: Statistics, new: Statistics) -> Statistics:
    return jax.tree.map(
        lambda before, after: jnp.concatenate([after[: before.shape[0]], before[after.shape[0] :]]), old, new
    )


def ds_lstm(
    weights: DSLSTMWeights,
    x: Float[Array, "B T X"],
    y: Float[Array, "B T Y"],
    mask: Bool[Array, "B T"],
    initial: LSTMState | None = None,
    *,
    statistics: DSLSTMStatistics,
    train: bool = False,
    axis_name: str | None = None,
) -> tuple[Float[Array, "B T H"], LSTMState, DSLSTMStatistics]:
    """Runs one DS-LSTM layer over a batch of padded pairs of sequences.

    Args:
      weights: see `DSLSTMWeights`.
      x: the sequence of higher time resolution, pooled to y's frame rate; padded frames may hold anything.
      y: the sequence of higher frequency resolution.
      mask: True at valid frames. At padded ones the state is carried on and the output is 0.
      initial: the state before the first frame; zeros if None.
      statistics: running statistics. Sequences may be shorter or longer than their S steps; a step beyond uses the
        last one's, and leaves no trace in them.
      train: normalize by the batch's statistics (over the rows whose frame is valid) and update the running ones.
      axis_name: the devices over which the batch's statistics are taken: one sum over them for each step, and one for
        BN_out.

    Returns:
      BN_out of the hidden state after each frame, the state after each row's last valid frame, and the statistics.
    """
    hidden_size, steps = weights.recurrent_kernel.shape[0], x.shape[1]
    gates_size = 4 * hidden_size
    # One product a sequence over all frames; only the recurrent product stays in the loop.
    from_x = zero_padding(x, mask) @ weights.x_kernel
    from_y = zero_padding(y, mask) @ weights.y_kernel
    gates = from_x[..., :gates_size] + from_y[..., :gates_size]
    projected = jnp.concatenate([gates, from_x[..., gates_size:], from_y[..., gates_size:]], axis=-1) + weights.bias

    def step(
        state: LSTMState, inputs: tuple[Float[Array, "B 6*H"], Bool[Array, " B"], Statistics]
    ) -> tuple[LSTMState, tuple[Float[Array, "B H"], Statistics]]:
        from_inputs, valid, running = inputs
        z = from_inputs + state.hidden @ weights.recurrent_kernel
        gates, running = batch_norm(
            jax.nn.sigmoid(z[:, :gates_size]),
            valid[:, None],
            weights.gate_scale,
            weights.gate_shift,
            running,
            axes=(0,),
            train=train,
            axis_name=axis_name,
        )
        f, i_time, o, i_frequency = jnp.split(gates, 4, axis=-1)
        c_time, c_frequency = jnp.split(jnp.tanh(z[:, gates_size:]), 2, axis=-1)
        cell = f * state.cell + i_time * c_time + i_frequency * c_frequency
        state = keep_state_at_padding(valid, LSTMState(o * jnp.tanh(cell), cell), state)
        return state, (state.hidden, running)

    start = initial_state(projected, hidden_size) if initial is None else initial
    final, (hidden, gate_rows) = lax.scan(
        step, start, (projected.swapaxes(0, 1), mask.T, _rows(statistics.gates, steps))
    )

    running = statistics.output
    if train:
        moments = masked_moments(hidden, mask.T[..., None], (1,), axis_name, statistics.output.mean)
        per_step = jax.tree.map(lambda a: a[:, None], moments.statistics)
        # One set of statistics that meets the steps one after the other.
        running, _ = lax.scan(lambda before, batch: (update_running(before, batch), None), running, moments)
        statistics = DSLSTMStatistics(_replace_rows(statistics.gates, gate_rows), running)
        outputs = normalize(hidden, per_step, weights.output_scale, weights.output_shift)
    else:
        outputs = normalize(hidden, running, weights.output_scale, weights.output_shift)
    return zero_padding(outputs.swapaxes(0, 1), mask), final, statistics

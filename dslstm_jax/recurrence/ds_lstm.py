"""The Dual-Sequence LSTM: one cell that reads two synchronized sequences (Wang et al. 2020).

At each step, with h the carried hidden state:

    [f, i_T, o, i_F] = BN_t(sigmoid(W [x; y; h] + b))      statistics of their own for every step t
    c~_T = tanh(W_T [x; h] + b_T)          c~_F = tanh(W_F [y; h] + b_F)
    c = f c + i_T c~_T + i_F c~_F          h = o tanh(c)          output = BN_out(h)

The normalization comes after the sigmoid, and the carried h is not normalized, as in the authors' code. Instead of
BN_t and BN_out, others can be asked for (`Norm`).
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import export, lax
from jaxtyping import Array, Bool, Float

from dslstm_jax.ops.masking import zero_padding
from dslstm_jax.ops.normalization import (
    EPSILON,
    Moments,
    Statistics,
    layer_norm,
    masked_moments,
    normalize,
    pool_moments,
    sum_over_devices,
    update_running,
)
from dslstm_jax.ops.promotion import wide_type
from dslstm_jax.recurrence.lstm_cell import (
    LSTMState,
    initial_state,
    keep_state_at_padding,
    kernel_gradient,
    product,
    sigmoid,
)

Norm = Literal["step", "shared", "layer", "none"]
"""What normalizes the gates and the outputs.

* step: the batch's statistics at each step; gates have running ones of their own for every step, outputs for all.
* shared: the same in training; the running ones are those of all steps together, for gates as for outputs.
* layer: mean and deviation of each row over the H units of a gate, or of the output; nothing is remembered.
* none: gates and outputs stay what they are; there is no scale and no shift.
"""
REMEMBERING = ("step", "shared")
"""Norms that have running statistics."""

FRAMES_AT_ONCE = 32
"""Frames whose input projections are one product. Few enough that what it makes stays in a CPU's cache."""


class DSLSTMWeights(NamedTuple):
    """Columns in blocks of H: the gates f, i_T, o, i_F, then the candidates c~_T (of x) and c~_F (of y).

    Scales and shifts are None where the norm is none.
    """

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
    """One row a time step, [S, 4H], or one for all, [1, 4H]."""
    output: Statistics
    """Shared by all steps. [H]"""


class _Trace(NamedTuple):
    """What the backward pass needs of every step."""

    hidden: Float[Array, "T B H"]
    cell: Float[Array, "T B H"]
    gates: Float[Array, "T B 4*H"]
    """Before their normalization."""
    candidates: Float[Array, "T B 2*H"]
    moments: Moments | None
    """Those of the batch that the gates are normalized by."""


def _normalize_rows(
    norm: Norm, gates: Float[Array, "B 4*H"], scale: Float[Array, " 4*H"], shift: Float[Array, " 4*H"]
) -> Float[Array, "B 4*H"]:
    """What needs no batch: each gate of each row by itself, or nothing."""
    if norm == "none":
        return gates
    blocks, scales, shifts = (a.reshape(*a.shape[:-1], 4, -1) for a in (gates, scale, shift))
    return layer_norm(blocks, scales, shifts).reshape(gates.shape)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _recur(
    norm: Norm,
    train: bool,
    axis_name: str | None,
    unroll: int,
    weights: DSLSTMWeights,
    x: Float[Array, "T B X"],
    y: Float[Array, "T B Y"],
    mask: Bool[Array, "T B"],
    running: Statistics | None,
    initial: LSTMState,
) -> tuple[Float[Array, "T B H"], LSTMState, Moments | None]:
    """Hidden states, final state, and the moments of the gates at every step, where the norm is the batch's.

    Its gradient is written by hand: those of the kernels are then one product each after the loop, and the batch
    norm's needs one sum over the devices a step.
    """
    outputs: tuple[Float[Array, "T B H"], LSTMState, Moments | None]
    outputs, _ = _recur_forward(norm, train, axis_name, unroll, weights, x, y, mask, running, initial)
    return outputs


def _recur_forward(
    norm: Norm,
    train: bool,
    axis_name: str | None,
    unroll: int,
    weights: DSLSTMWeights,
    x: Float[Array, "T B X"],
    y: Float[Array, "T B Y"],
    mask: Bool[Array, "T B"],
    running: Statistics | None,
    initial: LSTMState,
) -> tuple[Any, Any]:
    gates = 4 * initial.hidden.shape[-1]
    # Two products: a CPU's second core can compute the candidates.
    gates_kernel, candidates_kernel = jnp.split(weights.recurrent_kernel.astype(x.dtype), [gates], axis=-1)

    bias = weights.bias[None]

    def step(state: LSTMState, inputs: Any) -> tuple[LSTMState, _Trace]:
        from_x, from_y, valid, running = inputs
        hidden = state.hidden.astype(x.dtype)
        raw = sigmoid(product(hidden, gates_kernel) + bias[:, :gates] + from_x[:, :gates] + from_y[:, :gates])
        from_inputs = jnp.concatenate([from_x[:, gates:], from_y[:, gates:]], axis=-1)
        candidates = jnp.tanh(product(hidden, candidates_kernel) + bias[:, gates:] + from_inputs)
        moments = None
        if norm not in REMEMBERING:
            normalized = _normalize_rows(norm, raw, weights.gate_scale, weights.gate_shift)
        else:
            if train:
                moments = masked_moments(raw, valid[:, None], (0,), axis_name, running.mean)
            else:
                moments = Moments(running, jnp.ones_like(running.mean[:1]))
            normalized = normalize(raw, moments.statistics, weights.gate_scale, weights.gate_shift)
        f, i_time, o, i_frequency = jnp.split(normalized, 4, axis=-1)
        c_time, c_frequency = jnp.split(candidates, 2, axis=-1)
        cell = f * state.cell + i_time * c_time + i_frequency * c_frequency
        state = keep_state_at_padding(valid, LSTMState(o * jnp.tanh(cell), cell), state)
        return state, _Trace(*state, raw, candidates, moments)

    projections = product(x, weights.x_kernel), product(y, weights.y_kernel)
    final, trace = lax.scan(step, initial, (*projections, mask, running), unroll=unroll)
    return (trace.hidden, final, trace.moments), (weights, x, y, mask, initial, trace)


def _recur_backward(
    norm: Norm, train: bool, axis_name: str | None, unroll: int, saved: Any, cotangents: Any
) -> tuple[Any, ...]:
    """Gradients of (weights, x, y, mask, running, initial)."""
    weights, x, y, mask, initial, trace = saved
    grad_hidden, grad_final, grad_moments = cotangents
    kernels = jnp.split(weights.recurrent_kernel, [4 * initial.hidden.shape[-1]], axis=-1)
    # Transposed once: a product with a kernel that it has to transpose itself takes a CPU longer.
    gates_kernel, candidates_kernel = lax.optimization_barrier([kernel.T.astype(x.dtype) for kernel in kernels])
    before = LSTMState(
        jnp.concatenate([initial.hidden[None], trace.hidden[:-1]]),
        jnp.concatenate([initial.cell[None], trace.cell[:-1]]),
    )

    def undo_batch(raw: Any, grad_normalized: Any, moments: Moments, grad_statistics: Statistics) -> tuple[Any, ...]:
        """Gradients of the gates before the batch's normalization, its statistics, scale and shift."""
        (mean, variance), count = moments
        grad_mean, grad_variance = grad_statistics
        scale, inverse, centered = weights.gate_scale, lax.rsqrt(variance + EPSILON), raw - mean[None]
        grad_shift = grad_normalized.sum(0)
        grad_factor = (grad_normalized * centered).sum(0)
        grad_mean = grad_mean - scale * inverse * grad_shift
        grad_variance = grad_variance - scale * inverse**3 * grad_factor / 2
        grad_raw = grad_normalized * (scale * inverse)[None]
        if train:
            grad_both = jnp.concatenate([grad_mean, grad_variance])
            grad_mean, grad_variance = jnp.split(sum_over_devices(grad_both, axis_name) / jnp.maximum(count, 1), 2)
            grad_raw = grad_raw + grad_mean[None] + 2 * centered * grad_variance[None]
        return grad_raw, Statistics(grad_mean, grad_variance), grad_factor * inverse, grad_shift

    def step(grad_state: LSTMState, inputs: Any) -> tuple[LSTMState, tuple[Any, ...]]:
        grad_output, frame, previous_cell, grad_statistics, valid = inputs
        _, cell, raw, candidates, moments = frame
        if norm in REMEMBERING:
            normalized = normalize(raw, moments.statistics, weights.gate_scale, weights.gate_shift)
        else:
            normalized, undo = jax.vjp(partial(_normalize_rows, norm), raw, weights.gate_scale, weights.gate_shift)
        f, i_time, o, i_frequency = jnp.split(normalized, 4, axis=-1)
        c_time, c_frequency = jnp.split(candidates, 2, axis=-1)
        squashed, rows = jnp.tanh(cell), valid[:, None]
        grad_hidden = grad_state.hidden + grad_output
        grad_cell = grad_state.cell + grad_hidden * o * (1 - squashed**2)
        grad_normalized = jnp.concatenate(
            [grad_cell * previous_cell, grad_cell * c_time, grad_hidden * squashed, grad_cell * c_frequency], axis=-1
        )
        grad_normalized = jnp.where(rows, grad_normalized, 0)
        if norm in REMEMBERING:
            grad_raw, grad_running, grad_scale, grad_shift = undo_batch(
                raw, grad_normalized, moments, grad_statistics
            )
        else:
            grad_running, (grad_raw, grad_scale, grad_shift) = None, undo(grad_normalized)
        grad_gates = jnp.where(rows, grad_raw * raw * (1 - raw), 0)
        grad_candidates = jnp.concatenate([grad_cell * i_time, grad_cell * i_frequency], axis=-1)
        grad_candidates = jnp.where(rows, grad_candidates * (1 - candidates**2), 0)
        grad_previous = LSTMState(
            product(grad_gates.astype(x.dtype), gates_kernel)
            + product(grad_candidates.astype(x.dtype), candidates_kernel),
            grad_cell * f,
        )
        grad_previous = keep_state_at_padding(valid, grad_previous, LSTMState(grad_hidden, grad_state.cell))
        return grad_previous, (grad_gates, grad_candidates, grad_running, grad_scale, grad_shift)

    grad_statistics = None if grad_moments is None else grad_moments.statistics
    inputs = (grad_hidden, trace, before.cell, grad_statistics, mask)
    grad_initial, grad_frames = lax.scan(step, grad_final, inputs, reverse=True, unroll=unroll)
    grad_gates, grad_candidates, grad_running, grad_scale, grad_shift = grad_frames
    grad_time, grad_frequency = jnp.split(grad_candidates, 2, axis=-1)
    grad_from_x, grad_from_y = (jnp.concatenate([grad_gates, a], axis=-1) for a in (grad_time, grad_frequency))
    hidden = before.hidden.astype(x.dtype)
    grad_weights = DSLSTMWeights(
        x_kernel=kernel_gradient(x, grad_from_x),
        y_kernel=kernel_gradient(y, grad_from_y),
        recurrent_kernel=jnp.concatenate(
            [kernel_gradient(hidden, grad_gates), kernel_gradient(hidden, grad_candidates)], axis=-1
        ),
        bias=jnp.concatenate([grad_gates.sum((0, 1)), grad_candidates.sum((0, 1))]),
        gate_scale=jax.tree.map(partial(jnp.sum, axis=0), grad_scale),
        gate_shift=jax.tree.map(partial(jnp.sum, axis=0), grad_shift),
        output_scale=jax.tree.map(jnp.zeros_like, weights.output_scale),
        output_shift=jax.tree.map(jnp.zeros_like, weights.output_shift),
    )
    grad_x = product(grad_from_x.astype(x.dtype), weights.x_kernel.T).astype(x.dtype)
    grad_y = product(grad_from_y.astype(y.dtype), weights.y_kernel.T).astype(y.dtype)
    return grad_weights, grad_x, grad_y, None, None if train else grad_running, grad_initial


_recur.defvjp(_recur_forward, _recur_backward)


def _rows(statistics: Statistics, steps: int) -> Statistics:
    """The first `steps` rows; the last row is repeated for steps beyond those that have one."""
    return jax.tree.map(lambda rows: rows[jnp.minimum(jnp.arange(steps), rows.shape[0] - 1)], statistics)


def _replace_rows(old: Statistics, new: Statistics) -> Statistics:
    return jax.tree.map(
        lambda before, after: jnp.concatenate([after[: before.shape[0]], before[after.shape[0] :]]), old, new
    )


def _remember(norm: Norm, running: DSLSTMStatistics, gates: Moments, output: Moments) -> DSLSTMStatistics:
    """The running statistics after a batch, of its moments at each step."""
    if norm == "shared":
        return DSLSTMStatistics(
            update_running(running.gates, jax.tree.map(lambda a: a[None], pool_moments(gates))),
            update_running(running.output, pool_moments(output)),
        )
    # One set of statistics for the outputs, that meets the steps one after the other.
    after, _ = lax.scan(lambda before, batch: (update_running(before, batch), None), running.output, output)
    rows = _rows(running.gates, len(gates.size))
    return DSLSTMStatistics(_replace_rows(running.gates, update_running(rows, gates)), after)


def ds_lstm(
    weights: DSLSTMWeights,
    x: Float[Array, "B T X"],
    y: Float[Array, "B T Y"],
    mask: Bool[Array, "B T"],
    initial: LSTMState | None = None,
    *,
    statistics: DSLSTMStatistics | None,
    train: bool = False,
    norm: Norm = "step",
    axis_name: str | None = None,
    remat_every: int = 0,
    unroll: int = 1,
) -> tuple[Float[Array, "B T H"], LSTMState, DSLSTMStatistics | None]:
    """Runs one DS-LSTM layer over a batch of padded pairs of sequences.

    Args:
      weights: see `DSLSTMWeights`.
      x: the sequence of higher time resolution, pooled to y's frame rate; padded frames may hold anything.
      y: the sequence of higher frequency resolution.
      mask: True at valid frames. At padded ones the state is carried on and the output is 0.
      initial: the state before the first frame; zeros if None.
      statistics: running statistics; None where the norm has none. Sequences may be shorter or longer than their S
        steps; a step beyond uses the last one's, and leaves no trace in them.
      train: normalize by the batch's statistics (over the rows whose frame is valid) and update the running ones.
        Where a single row is valid, that makes all of its gates 0 and then `gate_shift`.
      norm: what the gates and the outputs are normalized by. shared takes statistics of one row for all steps.
      axis_name: the devices over which the batch's statistics are taken: one sum over them a step and one for BN_out
        in each direction; those of the forward pass twice where it is computed again. Above 32 frames, steps that
        fill up the last block of frames count too.
      remat_every: keep only the state before every so many frames for the gradient, and compute what lies between
        again: less memory for long sequences, about a third more work. 0 keeps everything.
      unroll: frames in one round of the loop. On a CPU 4 is no faster than 1 forward, 6 to 32 % slower in
        training, and compiles two to three times as long.

    Returns:
      The normalized hidden state after each frame, the state after each row's last valid frame, and the statistics.

    Products are of x's and y's type; all else, weights and their gradients included, is in float32 (float64 where the
    sequences are), but for the outputs, which are of x's type again.
    """
    steps = mask.shape[1]
    frames = remat_every or FRAMES_AT_ONCE
    chunks = -(-steps // frames)
    if not export.is_symbolic_dim(steps):  # in an exported program the last chunk is filled up
        frames = -(-steps // chunks)

    def in_chunks(frames_first: Float[Array, "T *A"]) -> Float[Array, "N T//N *A"]:
        more = [(0, chunks * frames - steps)] + [(0, 0)] * (frames_first.ndim - 1)
        return jnp.pad(frames_first, more).reshape(chunks, frames, *frames_first.shape[1:])

    def chunk(state: LSTMState, inputs: Any) -> tuple[LSTMState, Any]:
        hidden, state, moments = _recur(norm, train, axis_name, unroll, weights, *inputs, state)
        return state, (hidden, moments)

    if initial is None:
        initial = initial_state(x, weights.recurrent_kernel.shape[0])
    initial = jax.tree.map(lambda a: a.astype(wide_type(x.dtype)), initial)
    rows = None if statistics is None else _rows(statistics.gates, steps)
    inputs = (zero_padding(x, mask).swapaxes(0, 1), zero_padding(y, mask).swapaxes(0, 1), mask.T, rows)
    final, by_chunk = lax.scan(
        jax.checkpoint(chunk, prevent_cse=False) if remat_every else chunk, initial, jax.tree.map(in_chunks, inputs)
    )
    hidden, gate_moments = jax.tree.map(lambda a: a.reshape(chunks * frames, *a.shape[2:])[:steps], by_chunk)

    scale, shift = weights.output_scale, weights.output_shift
    if statistics is None:
        outputs = hidden if norm == "none" else layer_norm(hidden, scale, shift)
    elif train:
        moments = masked_moments(hidden, mask.T[..., None], (1,), axis_name, statistics.output.mean)
        outputs = normalize(hidden, jax.tree.map(lambda a: a[:, None], moments.statistics), scale, shift)
        statistics = _remember(norm, statistics, gate_moments, moments)
    else:
        outputs = normalize(hidden, statistics.output, scale, shift)
    return zero_padding(outputs.swapaxes(0, 1).astype(x.dtype), mask), final, statistics

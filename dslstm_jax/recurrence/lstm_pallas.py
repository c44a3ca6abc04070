"""The plain LSTM's loop over time as one TPU kernel in each direction, written in Pallas.

Recurrent kernel and state stay in the chip's vector memory (VMEM) for all frames, while what belongs to frames is
streamed through it in blocks. Products with what is known before the loop (the inputs), and of what is known after it
(the weights' gradients), are XLA's.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

from dslstm_jax.ops.masking import zero_padding
from dslstm_jax.recurrence.lstm_cell import (
    LSTMState,
    LSTMWeights,
    frame_gradient,
    kernel_gradient,
    next_state,
    product,
    sigmoid,
)

INTERPRET = False
"""Tests set it: JAX then runs the kernels on any device."""

LANES, ROWS = 128, 16
"""Hidden units and sequences are filled up to multiples of these, that gates and frames are whole registers, in
bfloat16 too."""
BLOCK_BYTES = 2**21
"""About as much of what is streamed is in one block of frames; VMEM holds two of them, one on its way."""
VMEM_BYTES = 2**24
"""What the compiler lets a kernel use without being asked."""

Frame = Callable[[Any, LSTMState, list[Any]], tuple[LSTMState, list[Any]]]
"""What happens at a frame: (where the kernel is, state, a frame of each input) -> (state, a frame of each output)."""


def _scan_in_vmem(
    frame: Frame,
    name: str,
    kernel: Float[Array, "K M"],
    initial: LSTMState,
    streamed: list[Float[Array, "T B *N"]],
    outputs: list[jax.ShapeDtypeStruct],
    *,
    reuse: dict[int, int],
    reverse: bool = False,
) -> tuple[LSTMState, list[Float[Array, "T B *N"]]]:
    """`lax.scan` of a frame over time, as one TPU kernel that keeps `kernel` and the state where they are.

    Args:
      frame: reads and writes whole registers.
      name: of the TPU kernel.
      kernel: read at every frame.
      initial: state before the first frame.
      streamed: what the frames read.
      outputs: shapes and types of what the frames write.
      reuse: which outputs (value) may take the memory of which of the streamed inputs (key).
      reverse: walk from the last frame to the first.
    """
    steps = streamed[0].shape[0]
    by_frame: list[Any] = [*streamed, *outputs]
    frame_bytes = sum(_bytes(array.shape[1:], array.dtype) for array in by_frame)
    blocks = -(-steps // max(1, BLOCK_BYTES // frame_bytes))
    frames = -(-steps // blocks)
    blocks = -(-steps // frames)

    def place(block: Any) -> Any:
        return blocks - 1 - block if reverse else block

    def body(*refs: Any) -> None:
        first = len(streamed)
        input_refs, (kernel_ref, *initial_refs) = refs[:first], refs[first : first + 3]
        # The final state is an output of one block, which stays in VMEM to the end, and carries the state until then.
        output_refs, state_refs = refs[first + 3 : -2], refs[-2:]

        @pl.when(pl.program_id(0) == 0)
        def _() -> None:
            for ref, initial_ref in zip(state_refs, initial_refs, strict=True):
                ref[...] = initial_ref[...]

        count = jnp.minimum(frames, steps - place(pl.program_id(0)) * frames)

        def run(step: Any, state: LSTMState) -> LSTMState:
            index = count - 1 - step if reverse else step
            state, found = frame(kernel_ref, state, [ref[index] for ref in input_refs])
            for ref, values in zip(output_refs, found, strict=True):
                ref[index] = values
            return state

        state = lax.fori_loop(0, count, run, LSTMState(*(ref[...] for ref in state_refs)))
        for ref, values in zip(state_refs, state, strict=True):
            ref[...] = values

    def in_blocks(array: Any) -> pl.BlockSpec:
        return pl.BlockSpec((frames, *array.shape[1:]), lambda block: (place(block), *(0,) * (array.ndim - 1)))

    def whole(array: Any) -> pl.BlockSpec:
        return pl.BlockSpec(array.shape, lambda _: (0,) * array.ndim)

    resident = (kernel, *initial)
    used = 2 * (frames * frame_bytes + sum(_bytes(array.shape, array.dtype) for array in (*resident, *initial)))
    *found, hidden, cell = pl.pallas_call(
        body,
        name=name,
        grid=(blocks,),
        in_specs=[*map(in_blocks, streamed), *map(whole, resident)],
        out_specs=[*map(in_blocks, outputs), *map(whole, initial)],
        out_shape=[*outputs, *(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in initial)],
        input_output_aliases=reuse,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=max(VMEM_BYTES, used * 3 // 2)
        ),
        interpret=INTERPRET,
    )(*streamed, *resident)
    return LSTMState(hidden, cell), found


def _bytes(shape: tuple[int, ...], dtype: Any) -> int:
    """Of an array in VMEM, where rows are whole registers."""
    size: int = jnp.dtype(dtype).itemsize * -(-shape[-1] // LANES) * LANES
    for length in shape[:-1]:
        size *= length
    return size


def _keep(valid: Float[Array, "B 1"], new: LSTMState, old: LSTMState) -> LSTMState:
    return jax.tree.map(lambda after, before: jnp.where(valid > 0, after, before), new, old)


def _forward(
    weights: LSTMWeights, x: Float[Array, "T B F"], valid: Float[Array, "T B 1"], initial: LSTMState, *, traced: bool
) -> tuple[LSTMState, list[Array]]:
    """The final state; of each frame the hidden state after it and, if `traced`, the gates and the cell before."""

    def frame(kernel: Any, state: LSTMState, inputs: list[Any]) -> tuple[LSTMState, list[Any]]:
        projected, valid = inputs
        i, f, g, o = jnp.split(projected + product(state.hidden.astype(x.dtype), kernel[...]), 4, axis=-1)
        gates = jnp.concatenate([sigmoid(i), sigmoid(f), jnp.tanh(g), sigmoid(o)], axis=-1)
        new = _keep(valid, next_state(gates, state.cell), state)
        return new, [new.hidden.astype(x.dtype), *([gates, state.cell] if traced else [])]

    bias = weights.input_bias + weights.recurrent_bias
    projected = product(x, weights.input_kernel) + bias[None, None]
    states = jax.ShapeDtypeStruct((*x.shape[:2], initial.hidden.shape[1]), x.dtype)
    trace = [projected, states.update(dtype=projected.dtype)] if traced else []
    return _scan_in_vmem(
        frame,
        "lstm_forward",
        weights.recurrent_kernel.astype(x.dtype),
        initial,
        [projected, valid],
        [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (states, *trace)],
        reuse={0: 1} if traced else {},
    )


@jax.custom_vjp
def _run(
    weights: LSTMWeights, x: Float[Array, "T B F"], valid: Float[Array, "T B 1"], initial: LSTMState
) -> tuple[Float[Array, "T B H"], LSTMState]:
    final, (outputs,) = _forward(weights, x, valid, initial, traced=False)
    return outputs, final


def _run_forward(
    weights: LSTMWeights, x: Float[Array, "T B F"], valid: Float[Array, "T B 1"], initial: LSTMState
) -> tuple[Any, Any]:
    final, (outputs, gates, cells) = _forward(weights, x, valid, initial, traced=True)
    return (outputs, final), (weights, x, valid, initial, outputs, gates, cells)


def _run_backward(saved: Any, cotangents: Any) -> tuple[Any, ...]:
    """Gradients of (weights, x, valid, initial)."""
    (weights, x, valid, initial, outputs, gates, cells), (grad_outputs, grad_final) = saved, cotangents

    def frame(kernel: Any, grad_state: LSTMState, inputs: list[Any]) -> tuple[LSTMState, list[Any]]:
        gates, cell, grad_output, valid = inputs
        grad_state = grad_state._replace(hidden=grad_state.hidden + grad_output.astype(grad_state.hidden.dtype))
        grad_gates, grad_cell = frame_gradient(gates, cell, grad_state)
        grad_gates = jnp.where(valid > 0, grad_gates, 0).astype(x.dtype)
        return _keep(valid, LSTMState(product(grad_gates, kernel[...]), grad_cell), grad_state), [grad_gates]

    grad_initial, (grad_gates,) = _scan_in_vmem(
        frame,
        "lstm_backward",
        weights.recurrent_kernel.T.astype(x.dtype),
        grad_final,
        [gates, cells, grad_outputs, valid],
        [jax.ShapeDtypeStruct(gates.shape, x.dtype)],
        reuse={0: 0} if gates.dtype == x.dtype else {},
        reverse=True,
    )
    before = jnp.concatenate([initial.hidden[None].astype(x.dtype), outputs[:-1]])
    grad_bias = grad_gates.sum((0, 1), dtype=weights.input_bias.dtype)
    grad_weights = LSTMWeights(
        kernel_gradient(x, grad_gates), kernel_gradient(before, grad_gates), grad_bias, grad_bias
    )
    return (
        grad_weights,
        product(grad_gates, weights.input_kernel.T).astype(x.dtype),
        jnp.zeros_like(valid),
        grad_initial,
    )


_run.defvjp(_run_forward, _run_backward)


def _fill(values: Float[Array, "*N K"], axis: int, multiple: int) -> Float[Array, "*N L"]:
    """Zeros behind the values, up to a multiple of a length."""
    return jnp.pad(values, [(0, -size % multiple if axis == place else 0) for place, size in enumerate(values.shape)])


def _fill_gates(values: Float[Array, "*N 4*H"]) -> Float[Array, "*N 4*L"]:
    """Each gate's columns filled up to whole registers."""
    gates = _fill(values.reshape(*values.shape[:-1], 4, -1), values.ndim, LANES)
    return gates.reshape(*values.shape[:-1], -1)


def pallas_lstm(
    weights: LSTMWeights, x: Float[Array, "B T F"], mask: Bool[Array, "B T"], initial: LSTMState
) -> tuple[Float[Array, "B T H"], LSTMState]:
    """One layer, over zeros at padded frames; see `lstm_stack`.

    Units that are filled up stay 0: their gates are sigmoid(0) and tanh(0), and nothing reads them.
    """
    (rows, size), kernel = initial.hidden.shape, _fill(weights.recurrent_kernel, 0, LANES)
    filled = LSTMWeights(*map(_fill_gates, weights._replace(recurrent_kernel=kernel)))
    frames = _fill(zero_padding(x, mask).swapaxes(0, 1), 1, ROWS)
    valid = _fill(mask.T[..., None].astype(initial.hidden.dtype), 1, ROWS)
    states = jax.tree.map(lambda values: _fill(_fill(values, 0, ROWS), 1, LANES), initial)
    outputs, final = _run(filled, frames, valid, states)
    return outputs[:, :rows, :size].swapaxes(0, 1), jax.tree.map(lambda values: values[:rows, :size], final)

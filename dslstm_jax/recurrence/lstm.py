"""The plain LSTM as a function of its weights: sequences in, sequences out.

All layers run in one loop over time, each a frame behind the layer below it, for products of different layers do not
wait for each other then. Tick s of that loop is frame s - l of layer l.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import rnn
from jaxtyping import Array, Bool, Float

from dslstm_jax.errors import ConfigError
from dslstm_jax.ops.masking import zero_padding
from dslstm_jax.ops.promotion import to_rank, wide_type
from dslstm_jax.recurrence.lstm_cell import (
    LSTMState,
    LSTMWeights,
    frame_gradient,
    initial_state,
    keep_state_at_padding,
    kernel_gradient,
    next_state,
    product,
)

Factors = tuple[Float[Array, "B H"] | None, ...]
"""What the outputs of all layers but the last are multiplied by on their way up; None: 1."""


class _Trace(NamedTuple):
    """What the backward pass needs of a layer's ticks: the state before each, and i, f, g, o."""

    hidden: Float[Array, "S B H"]
    cell: Float[Array, "S B H"]
    gates: Float[Array, "S B 4*H"]


def _activate(z: Float[Array, "B 4*H"]) -> Float[Array, "B 4*H"]:
    """The sigmoid of i, f and o, and tanh of g, as one tanh of all columns."""
    half, one = np.full(z.shape[-1] // 4, 0.5, z.dtype), np.ones(z.shape[-1] // 4, z.dtype)
    scale = np.concatenate([half, half, one, half])
    scale = scale[None]
    return scale * jnp.tanh(scale * z) + (1 - scale)


def _scale(values: Float[Array, "*N B H"], factor: Float[Array, "B H"] | None) -> Float[Array, "*N B H"]:
    if factor is None:
        return values
    dtype = np.promote_types(values.dtype, factor.dtype)
    return values.astype(dtype) * to_rank(factor.astype(dtype), values.ndim)


def _forward(
    weights: tuple[LSTMWeights, ...],
    x: Float[Array, "S B F"],
    valid: Bool[Array, "S B L"],
    initial: tuple[LSTMState, ...],
    factors: Factors,
    unroll: int,
    *,
    traced: bool,
) -> tuple[tuple[LSTMState, ...], tuple[Float[Array, "S B H"], tuple[_Trace, ...]]]:
    biases = [(layer.input_bias + layer.recurrent_bias)[None] for layer in weights]
    # The lowest layer's input product is one over all frames; the others' inputs come up in the loop.
    projected = product(x, weights[0].input_kernel) + biases[0][None]
    kernels = [weights[0].recurrent_kernel] + [jnp.concatenate(layer[:2]) for layer in weights[1:]]

    def step(states: tuple[LSTMState, ...], inputs: tuple[Float[Array, "B 4*H"], Bool[Array, "B L"]]) -> Any:
        from_input, valid = inputs
        new, traces = [], []
        for layer, (state, kernel) in enumerate(zip(states, kernels, strict=True)):
            read, bias = state.hidden, from_input
            if layer > 0:
                read, bias = (
                    jnp.concatenate([_scale(states[layer - 1].hidden, factors[layer - 1]), read], -1),
                    biases[layer],
                )
            gates = _activate(product(read.astype(x.dtype), kernel) + bias)
            new.append(keep_state_at_padding(valid[:, layer], next_state(gates, state.cell), state))
            traces.append(_Trace(state.hidden.astype(x.dtype), state.cell, gates))
        return tuple(new), (new[-1].hidden.astype(x.dtype), tuple(traces) if traced else ())

    return lax.scan(step, initial, (projected, valid), unroll=unroll)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _run(
    weights: tuple[LSTMWeights, ...],
    x: Float[Array, "S B F"],
    valid: Bool[Array, "S B L"],
    initial: tuple[LSTMState, ...],
    factors: Factors,
    unroll: int,
) -> tuple[Float[Array, "S B H"], tuple[LSTMState, ...]]:
    """The loop over ticks. Its gradient is written by hand, for the kernels' are then products over all frames after
    the loop, where automatic differentiation adds up one a frame."""
    final, (outputs, _) = _forward(weights, x, valid, initial, factors, unroll, traced=False)
    return outputs, final


def _run_forward(
    weights: tuple[LSTMWeights, ...],
    x: Float[Array, "S B F"],
    valid: Bool[Array, "S B L"],
    initial: tuple[LSTMState, ...],
    factors: Factors,
    unroll: int,
) -> tuple[Any, Any]:
    final, (outputs, traces) = _forward(weights, x, valid, initial, factors, unroll, traced=True)
    return (outputs, final), (weights, x, valid, factors, traces)


def _run_backward(unroll: int, saved: Any, cotangents: Any) -> tuple[Any, ...]:
    """Gradients of (weights, x, valid, initial, factors)."""
    (weights, x, valid, factors, traces), (grad_outputs, grad_final) = saved, cotangents
    kernels = [weights[0].recurrent_kernel] + [jnp.concatenate(layer[:2]) for layer in weights[1:]]

    def step(grad_states: tuple[LSTMState, ...], inputs: Any) -> Any:
        grad_output, valid, traces = inputs
        *grad_hiddens, grad_last = (grad_state.hidden for grad_state in grad_states)
        grad_hiddens.append(grad_last + grad_output.astype(grad_last.dtype))
        grad_previous, grad_below, grad_gates = [], [], []
        for layer, (grad_hidden, grad_state, trace) in enumerate(zip(grad_hiddens, grad_states, traces, strict=True)):
            rows = valid[:, layer, None]
            grad_frame, grad_cell = frame_gradient(trace.gates, trace.cell, LSTMState(grad_hidden, grad_state.cell))
            grad_gates.append(jnp.where(rows, grad_frame, 0).astype(x.dtype))
            grad_read = product(grad_gates[-1], kernels[layer].T)
            split = grad_read.shape[-1] - grad_hidden.shape[-1]
            grad_below.append(grad_read[:, :split])
            grad_previous.append(
                LSTMState(
                    jnp.where(rows, grad_read[:, split:], grad_hidden), jnp.where(rows, grad_cell, grad_state.cell)
                )
            )
        # A layer's input at this tick is the lower one's output of the tick before.
        for layer, factor in enumerate(factors):
            hidden = grad_previous[layer].hidden + _scale(grad_below[layer + 1], factor)
            grad_previous[layer] = grad_previous[layer]._replace(hidden=hidden)
        return tuple(grad_previous), tuple(grad_gates)

    grad_initial, grad_gates = lax.scan(step, grad_final, (grad_outputs, valid, traces), reverse=True, unroll=unroll)
    read = [x] + [
        _scale(trace.hidden, factor).astype(x.dtype) for trace, factor in zip(traces, factors, strict=False)
    ]
    grad_weights = []
    for layer, inputs, trace, grad_gate in zip(weights, read, traces, grad_gates, strict=True):
        grad_bias = grad_gate.sum((0, 1), dtype=layer.input_bias.dtype)
        grad_kernels = kernel_gradient(inputs, grad_gate), kernel_gradient(trace.hidden, grad_gate)
        grad_weights.append(LSTMWeights(*grad_kernels, grad_bias, grad_bias))
    grad_x = product(grad_gates[0], weights[0].input_kernel.T).astype(x.dtype)
    return tuple(grad_weights), grad_x, None, grad_initial, jax.tree.map(jnp.zeros_like, factors)


_run.defvjp(_run_forward, _run_backward)


def _run_in_chunks(weights: Any, x: Any, valid: Any, initial: Any, factors: Factors, unroll: int, every: int) -> Any:
    """`_run`, of which only each `every`-th state is saved for the gradient; what lies between is computed again."""
    steps, missing = x.shape[0], -x.shape[0] % every

    def chunks(values: Array) -> Array:
        padded = jnp.pad(values, ((0, missing), *((0, 0),) * (values.ndim - 1)))
        return padded.reshape(-1, every, *values.shape[1:])

    @jax.checkpoint
    def step(states: tuple[LSTMState, ...], inputs: Any) -> Any:
        outputs, states = _run(weights, *inputs, states, factors, unroll)
        return states, outputs

    final, outputs = lax.scan(step, initial, (chunks(x), chunks(valid)))
    return outputs.reshape(-1, *outputs.shape[2:])[:steps], final


Backend = Literal["scan", "cudnn", "pallas_tpu"]
ACCELERATORS = {"cudnn": ("gpu", "an NVIDIA GPU"), "pallas_tpu": ("tpu", "a TPU")}
"""Where a backend runs, by JAX's name and ours; one that is not here runs anywhere."""


def runs_here(backend: Backend) -> bool:
    """Whether a backend runs on this process's devices."""
    return backend not in ACCELERATORS or jax.default_backend() == ACCELERATORS[backend][0]


def _cudnn(
    weights: LSTMWeights, x: Float[Array, "B T F"], mask: Bool[Array, "B T"], initial: LSTMState
) -> tuple[Float[Array, "B T H"], LSTMState]:
    """One layer, in float32."""
    lengths, sizes = mask.sum(axis=1, dtype=jnp.int32), (x.shape[-1], initial.hidden.shape[-1])
    # As PyTorch: [W_ih, W_hh, b_ih, b_hh], matrices with one row a gate's unit.
    packed = jnp.concatenate([leaf.T.reshape(-1) for leaf in weights])
    hidden, cell = initial.hidden[None], initial.cell[None]
    # cuDNN wants at least one frame a row.
    outputs, hidden, cell = rnn.lstm(
        x.astype(jnp.float32), hidden, cell, packed, jnp.maximum(lengths, 1), *sizes, 1, 0.0, False
    )
    return outputs, keep_state_at_padding(lengths > 0, LSTMState(hidden[0], cell[0]), initial)


def _layer_by_layer(
    run: Callable[..., tuple[Float[Array, "B T H"], LSTMState]],
    weights: tuple[LSTMWeights, ...],
    x: Float[Array, "B T F"],
    mask: Bool[Array, "B T"],
    states: tuple[LSTMState, ...],
    factors: Factors,
) -> tuple[Float[Array, "B T H"], tuple[LSTMState, ...]]:
    """Layers that are run one after the other, each over all frames."""
    values, final = zero_padding(x, mask), []
    for layer, state, factor in zip(weights, states, (*factors, None), strict=True):
        values, last = run(layer, values, mask, state)
        values = zero_padding(_scale(values, None if factor is None else factor[:, None]), mask)
        final.append(last)
    return values.astype(x.dtype), tuple(final)


def lstm_stack(
    weights: Sequence[LSTMWeights],
    x: Float[Array, "B T F"],
    mask: Bool[Array, "B T"],
    initial: Sequence[LSTMState] | None = None,
    *,
    factors: Sequence[Float[Array, "B H"] | None] | None = None,
    remat_every: int = 0,
    unroll: int = 1,
    backend: Backend = "scan",
) -> tuple[Float[Array, "B T H"], tuple[LSTMState, ...]]:
    """Runs LSTM layers, each over the outputs of the one below, over a batch of padded sequences.

    Hochreiter and Schmidhuber 1997, with forget gates. Products take operands of x's type; the gates, the states and
    the weights' gradients are float32 at least, and outputs are of x's type again.

    Args:
      weights: of the layers from below; see `LSTMWeights`.
      x: the sequences; padded frames may hold anything, NaN too.
      mask: True at valid frames. At padded ones the state is carried on and the output is 0.
      initial: the layers' states before the first frame; zeros if None.
      factors: what the outputs of each layer but the last are multiplied by, in all frames, before the next one reads
        them: for dropout. They are constants: no gradient flows to them. None: 1.
      remat_every: save the states for the gradient only every so many frames, and compute what lies between again:
        less memory for long sequences, more time. 0: save everything. Only scan heeds it.
      unroll: frames in one round of the loop. On a CPU more than 1 seldom pays: in float32 4 trains 1 to 38 %
        slower (BENCHMARKS.md), and compiling takes two to four times as long. Only scan heeds it.
      backend: scan runs anywhere; cudnn on NVIDIA GPUs, in float32, where each row's valid frames come first;
        pallas_tpu on TPUs, a kernel that keeps the recurrent weights in vector memory.

    Returns:
      The last layer's hidden state after each frame, and each layer's state after the last valid frame of each row.

    Raises:
      ConfigError: the backend does not run on these devices.
    """
    weights, lag = tuple(weights), len(weights) - 1
    sizes = [layer.recurrent_kernel.shape[0] for layer in weights]
    wide = zero_padding(x, mask).astype(wide_type(x.dtype))
    states = tuple(initial_state(wide, size) for size in sizes) if initial is None else tuple(initial)
    constants = (None,) * lag if factors is None else lax.stop_gradient(tuple(factors))

    if not runs_here(backend):
        raise ConfigError(
            f"model.lstm_backend is {backend}, which runs on {ACCELERATORS[backend][1]}; this is a "
            f"{jax.default_backend()}: use scan"
        )
    if backend == "cudnn":
        return _layer_by_layer(_cudnn, weights, x, mask, states, constants)
    if backend == "pallas_tpu":
        from dslstm_jax.recurrence.lstm_pallas import pallas_lstm  # Pallas takes a moment to import

        return _layer_by_layer(pallas_lstm, weights, x, mask, states, constants)
    ticks = jnp.pad(zero_padding(x, mask).swapaxes(0, 1), ((0, lag), (0, 0), (0, 0)))
    valid = jnp.stack([jnp.pad(mask.T, ((layer, lag - layer), (0, 0))) for layer in range(lag + 1)], axis=-1)
    if remat_every:
        outputs, final = _run_in_chunks(weights, ticks, valid, states, constants, unroll, remat_every)
    else:
        outputs, final = _run(weights, ticks, valid, states, constants, unroll)
    return zero_padding(outputs[lag:].swapaxes(0, 1), mask), final


def lstm(
    weights: LSTMWeights, x: Float[Array, "B T F"], mask: Bool[Array, "B T"], initial: LSTMState | None = None
) -> tuple[Float[Array, "B T H"], LSTMState]:
    """One layer of `lstm_stack`."""
    outputs, (final,) = lstm_stack([weights], x, mask, None if initial is None else [initial])
    return outputs, final

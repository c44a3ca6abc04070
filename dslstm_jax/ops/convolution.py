"""The CNN's block as a plain function: convolution, batch norm, ReLU and 2 x 2 max-pool (Wang et al. 2020, figure 2).

On a CPU these blocks are most of a training step, and most of that went into activations of full resolution that were
written and read again. Here as little as possible happens at full resolution, and the numbers stay the same:

* The factor of the batch norm comes before the pool, shift and ReLU after it: a quarter of the work, and all the same
  since these are monotone. Under a negative scale the pool finds the minimum of the convolution, as it must.
* Over one channel (the spectrogram) the taps of the kernel, the maximum over a pooling window, shift and ReLU are one
  elementwise expression, which compilers fuse: nothing of full resolution is stored. The batch statistics follow from
  mean and covariance of the patches under the kernel.
* Over many channels a CPU convolves by matrix products in training, one for each row of the batch.
"""

import operator
from collections.abc import Sequence
from functools import reduce
from itertools import product
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, UInt8

from dslstm_jax.ops.masking import Frames
from dslstm_jax.ops.normalization import (
    EPSILON,
    Moments,
    Statistics,
    masked_moments,
    sum_over_devices,
    update_running,
)
from dslstm_jax.ops.promotion import to_rank, wide_type
from dslstm_jax.ops.row_by_row import row_by_row

PHASES = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Positions (time, frequency) in a pooling window. Of equal values the first one gets the gradient; the order is that
of PyTorch, where images are [frequency, time]."""
CLOSED = len(PHASES)
"""Stands for a window whose ReLU lets nothing through."""

Size = TypeVar("Size", int, Array)


def _convolved_size(size: Size, kernel: int) -> Size:
    """Positions of the convolution along one axis."""
    return size + 2 * ((kernel - 1) // 2) - kernel + 1


def block_size(size: Size, kernel: int) -> Size:
    """Positions that a block leaves of `size` along one axis; less than 1 where that is too small for the kernel."""
    return _convolved_size(size, kernel) // 2


def smallest_size(positions: int, kernel: int) -> int:
    """The smallest size of which a block leaves so many positions."""
    return 2 * positions - _convolved_size(0, kernel)


def block_reach(kernel: int) -> tuple[int, int]:
    """How many positions before 2u, and behind it, position u of a block's output depends on along one axis."""
    (before, _), *_ = _edges([kernel])
    return before, kernel - before


def _edges(kernel: Sequence[int]) -> list[tuple[int, int]]:
    """PyTorch's padding of each axis: floor((k - 1) / 2) on both sides."""
    return [((size - 1) // 2, (size - 1) // 2) for size in kernel]


def _pad(x: Float[Array, "B T F *C"], edges: Sequence[tuple[int, int]]) -> Float[Array, "B T+ F+ *C"]:
    return jnp.pad(x, [(0, 0), *edges, *[(0, 0)] * (x.ndim - 3)])


def _taps(padded: Float[Array, "B T+ F+ *C"], kernel: Sequence[int]) -> list[Float[Array, "B U G *C"]]:
    """What lies under each tap of the kernel, at all its positions."""
    time, frequency = (size - taps + 1 for size, taps in zip(padded.shape[1:3], kernel, strict=True))
    return [padded[:, t : t + time, f : f + frequency] for t, f in product(range(kernel[0]), range(kernel[1]))]


def _phases(x: Float[Array, "B U G *D"]) -> list[Float[Array, "B U//2 G//2 *D"]]:
    """The values at each place of the pooling windows; an odd last row or column is in none of them."""
    time, frequency = (size // 2 * 2 for size in x.shape[1:3])
    return [x[:, t:time:2, f:frequency:2] for t, f in PHASES]


# The pool


def _first_maximum(
    phases: list[Float[Array, "B U G D"]], shift: Float[Array, " D"], valid: Bool[Array, "B 1|U"]
) -> tuple[Float[Array, "B U G D"], UInt8[Array, "B U G D"]]:
    """ReLU(maximum + shift), and the first phase that has the maximum, or CLOSED; padding is 0 and closed."""
    largest, first = phases[0], jnp.zeros(phases[0].shape, jnp.uint8)
    for index, phase in enumerate(phases[1:], start=1):
        first = jnp.where(phase > largest, jnp.uint8(index), first)
        largest = jnp.maximum(largest, phase)
    shifted = jnp.where(valid[:, :, None, None], largest + to_rank(shift, 4), 0)
    return jax.nn.relu(shifted), jnp.where(shifted > 0, first, jnp.uint8(CLOSED))


@jax.custom_vjp
def _pool(
    x: Float[Array, "B U G D"], shift: Float[Array, " D"], valid: Bool[Array, "B 1|U//2"]
) -> Float[Array, "B U//2 G//2 D"]:
    """ReLU(max-pool(x) + shift) in valid windows, 0 in the others."""
    outputs: Float[Array, "B U//2 G//2 D"] = _pool_forward(x, shift, valid)[0]
    return outputs


def _pool_forward(
    x: Float[Array, "B U G D"], shift: Float[Array, " D"], valid: Bool[Array, "B 1|U//2"]
) -> tuple[Any, Any]:
    outputs, first = _first_maximum(_phases(x), shift, valid)
    return outputs, (first, x)


def _pool_backward(saved: Any, grad_outputs: Float[Array, "B U//2 G//2 D"]) -> tuple[Any, ...]:
    first, x = saved
    rows, time, frequency, channels = first.shape
    windows = np.zeros((2, 1, 2, 1), np.uint8)
    for phase, (t, f) in enumerate(PHASES):
        windows[t, 0, f] = phase
    chosen = first[:, :, None, :, None] == windows[None, None]
    grad_even = jnp.where(chosen, grad_outputs[:, :, None, :, None], 0).reshape(
        rows, 2 * time, 2 * frequency, channels
    )
    grad_x = jnp.pad(grad_even, [(0, size - even) for size, even in zip(x.shape, grad_even.shape, strict=True)])
    return grad_x, jnp.where(first < CLOSED, grad_outputs, 0).sum((0, 1, 2)), None


_pool.defvjp(_pool_forward, _pool_backward)


# The first layer: one channel


def _patches(row: Float[Array, "T+ F+"], kernel: Sequence[int]) -> Float[Array, "K U G"]:
    """What lies under each tap of the kernel, at all its positions on one row of the batch."""
    shape = tuple(size - taps + 1 for size, taps in zip(row.shape, kernel, strict=True))
    places = np.array(list(product(range(kernel[0]), range(kernel[1]))))
    patches: Float[Array, "K U G"] = jax.vmap(lambda place: lax.dynamic_slice(row, place, shape))(places)
    return patches


@jax.custom_vjp
def _convolve_and_pool(
    padded: Float[Array, "B T+ F+"],
    kernel: Float[Array, "t f D"],
    shift: Float[Array, " D"],
    valid: Bool[Array, "B 1|U//2"],
) -> Float[Array, "B U//2 G//2 D"]:
    """ReLU(max-pool(convolution(padded)) + shift) in valid windows, 0 in the others.

    The gradient is written by hand, for all that it needs of the convolution is the phase of each maximum, a byte.
    """
    outputs: Float[Array, "B U//2 G//2 D"] = _convolve_and_pool_forward(padded, kernel, shift, valid)[0]
    return outputs


def _convolve_and_pool_forward(
    padded: Float[Array, "B T+ F+"],
    kernel: Float[Array, "t f D"],
    shift: Float[Array, " D"],
    valid: Bool[Array, "B 1|U//2"],
) -> tuple[Any, Any]:
    weights = kernel.reshape(-1, kernel.shape[-1])
    taps = [_phases(tap) for tap in _taps(padded, kernel.shape[:2])]
    weights = weights[:, None, None, None]
    phases = [
        reduce(operator.add, (tap[..., None] * weight for tap, weight in zip(phase, weights, strict=True)))
        for phase in zip(*taps, strict=True)
    ]
    outputs, first = _first_maximum(phases, shift, valid)
    return outputs, (padded, kernel, first)


def _convolve_and_pool_backward(saved: Any, grad_outputs: Float[Array, "B U//2 G//2 D"]) -> tuple[Any, ...]:
    padded, kernel, first = saved
    *sizes, channels = kernel.shape

    def under_kernel(row: Float[Array, "T+ F+"]) -> Float[Array, "K 4*P"]:
        """The patches in the order of `spread`."""
        phases = jnp.stack(_phases(_patches(row, sizes)), axis=1)
        return phases.reshape(phases.shape[0], -1)

    def spread(first: UInt8[Array, "U//2 G//2 D"], grad_row: Float[Array, "U//2 G//2 D"]) -> Float[Array, "4*P D"]:
        """The gradient of the convolution, phase by phase."""
        chosen = first.reshape(1, -1, channels) == jnp.arange(len(PHASES), dtype=jnp.uint8)[:, None, None]
        return jnp.where(chosen, grad_row.reshape(1, -1, channels), 0).reshape(-1, channels)

    def grad_weights(row: Float[Array, "T+ F+"], first: Any, grad_row: Any) -> Float[Array, "K+1 D"]:
        """The gradients of the kernel and, by a patch of ones, of the shift."""
        patches = under_kernel(row)
        return jnp.concatenate([patches, jnp.ones_like(patches[:1])]) @ spread(first, grad_row)

    def grad_inputs(row: Float[Array, "T+ F+"], first: Any, grad_row: Any) -> Float[Array, "T+ F+"]:
        grad_patches = kernel.reshape(-1, channels) @ spread(first, grad_row).T
        return jax.linear_transpose(under_kernel, row)(grad_patches)[0]

    gradients = row_by_row(grad_weights, padded, first, grad_outputs).sum(0)
    # A loop of its own, which the compiler drops where nobody asks for the gradient of the spectrogram.
    grad_padded = row_by_row(grad_inputs, padded, first, grad_outputs)
    return grad_padded, gradients[:-1].reshape(kernel.shape), gradients[-1], None


_convolve_and_pool.defvjp(_convolve_and_pool_forward, _convolve_and_pool_backward)


def _convolution_moments(
    padded: Float[Array, "B T+ F+"], kernel: Float[Array, "t f D"], convolved: Frames, axis_name: str | None
) -> Moments:
    """Moments of the convolution over its valid positions, from those of the patches under the kernel; rows of length
    0 are 0.

    A patch is written as its first tap and the differences of the others from it. What varies most is common to all
    taps, and its rounding errors must not drown the little that is seen by a kernel which takes differences.
    """
    weights = kernel.reshape(-1, kernel.shape[-1])
    weights = jnp.concatenate([weights.sum(0, keepdims=True), weights[1:]])
    time, frequency = (size - taps + 1 for size, taps in zip(padded.shape[1:], kernel.shape[:2], strict=True))
    valid = convolved.mask(time)

    def products(row: Float[Array, "T+ F+"], valid: Bool[Array, "1|U"]) -> Float[Array, "K+1 K+1"]:
        patches = _patches(row, kernel.shape[:2])
        first, others = patches[:1], patches[1:]
        basis = jnp.concatenate([first, others - first, jnp.ones_like(first)])
        if not convolved.whole:
            basis = jnp.where(valid[:, None], basis, 0)
        basis = basis.reshape(len(patches) + 1, -1)
        return jnp.dot(basis, basis.T, precision="highest")

    size = jnp.sum(valid, dtype=padded.dtype) * padded.dtype.type(time // valid.shape[1] * frequency)
    sums, size = sum_over_devices((row_by_row(products, padded, valid).sum(0), size), axis_name)
    divisor = jnp.maximum(size, 1)
    patch_mean = sums[:-1, -1] / divisor
    covariance = sums[:-1, :-1] / divisor - patch_mean[:, None] * patch_mean[None]
    mean = jnp.dot(patch_mean, weights, precision="highest")
    variance = jnp.sum(weights * jnp.dot(covariance, weights, precision="highest"), axis=0)
    return Moments(Statistics(mean, jnp.maximum(variance, 0)), size[None])


# Further layers: many channels


def _convolve_plainly(x: Float[Array, "B T F C"], kernel: Float[Array, "t f C D"]) -> Float[Array, "B U G D"]:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), _edges(kernel.shape[:2]), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolve_by_products(x: Float[Array, "B T F C"], kernel: Float[Array, "t f C D"]) -> Float[Array, "B U G D"]:
    """Of each row one product of all positions with all taps, whose parts are shifted into place and added."""
    *sizes, channels, to_channels = kernel.shape
    matrix = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)

    def convolve_row(row: Float[Array, "T F C"]) -> Float[Array, "U G D"]:
        wide = wide_type(x.dtype)
        products = jnp.dot(row.reshape(-1, channels), matrix, preferred_element_type=wide)
        products = products.reshape(1, *row.shape[:2], -1, to_channels)
        taps = _taps(_pad(products, _edges(sizes)), sizes)
        return reduce(operator.add, (tap[0, :, :, place] for place, tap in enumerate(taps))).astype(x.dtype)

    return lax.map(convolve_row, x)


@jax.custom_vjp
def _convolve(x: Float[Array, "B T F C"], kernel: Float[Array, "t f C D"]) -> Float[Array, "B U G D"]:
    """The convolution. Products are faster on a CPU and take longer to compile, which pays in training only."""
    return _convolve_plainly(x, kernel)


def _convolve_forward(x: Float[Array, "B T F C"], kernel: Float[Array, "t f C D"]) -> tuple[Any, Any]:
    outputs = lax.platform_dependent(x, kernel, cpu=_convolve_by_products, default=_convolve_plainly)
    return outputs, (x, kernel)


def _convolve_backward(saved: Any, grad_outputs: Float[Array, "B U G D"]) -> tuple[Any, ...]:
    x, kernel = saved
    *sizes, channels, to_channels = kernel.shape

    def kernel_of_row(row: Float[Array, "T F C"], grad_output: Float[Array, "U G D"]) -> Float[Array, "C K*D"]:
        """The product of the row and the gradient, which is shifted back under each tap."""
        padded = _pad(
            grad_output[None],
            [(size - 1 - edge, size - 1 - edge) for size, (edge, _) in zip(sizes, _edges(sizes), strict=True)],
        )
        shifted = jnp.stack(_taps(padded, sizes)[::-1], axis=-2)
        return row.reshape(-1, channels).T @ shifted.reshape(row.shape[0] * row.shape[1], -1)

    def grad_kernel_by_products(x: Float[Array, "B T F C"], grad_outputs: Any) -> Float[Array, "t f C D"]:
        grad_rows = lax.map(lambda row: kernel_of_row(*row), (x, grad_outputs))
        return grad_rows.sum(0).reshape(channels, *sizes, to_channels).transpose(1, 2, 0, 3)

    def grad_kernel_plainly(x: Float[Array, "B T F C"], grad_outputs: Any) -> Float[Array, "t f C D"]:
        return jax.linear_transpose(lambda kernel: _convolve_plainly(x, kernel), kernel)(grad_outputs)[0]

    (grad_x,) = jax.linear_transpose(lambda x: _convolve_plainly(x, kernel), x)(grad_outputs)
    grad_kernel = lax.platform_dependent(x, grad_outputs, cpu=grad_kernel_by_products, default=grad_kernel_plainly)
    return grad_x, grad_kernel


_convolve.defvjp(_convolve_forward, _convolve_backward)


def convolution_block(
    x: Float[Array, "B T F C"],
    frames: Frames,
    kernel: Float[Array, "t f C D"],
    bias: Float[Array, " D"],
    scale: Float[Array, " D"],
    shift: Float[Array, " D"],
    running: Statistics,
    *,
    train: bool,
    axis_name: str | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "B U G D"], Statistics]:
    """Convolution with bias, batch norm, ReLU, 2 x 2 max-pool.

    A row gives what its valid frames alone, unpadded, would give: the zeros around it begin right after the last one,
    and no statistic and no gradient sees what follows.

    Args:
      x: spectrograms in decibels, or what a block made of them. Products of many channels take x's type; sums,
        statistics and what is over one channel are float32 at least.
      frames: the valid frames of each row; none in a row that is padding. Others may hold anything, NaN too.
      kernel: of the convolution, whose stride is 1; zeros surround x, floor((k - 1) / 2) on each side.
      bias: of the convolution. In training the batch norm takes it out again, and its gradient is exactly 0.
      scale: of the batch norm.
      shift: of the batch norm.
      running: statistics of the convolution before this batch.
      train: normalize by the batch's statistics (over all positions, those too that the pool leaves out) and update
        the running ones.
      axis_name: the mapped axis of the devices among which the batch's rows are divided.
      dtype: of the outputs; x's if None.

    Returns:
      The outputs, U = `block_size(T, t)` and G = `block_size(F, f)`, and the running statistics after this batch. Of
      each row's outputs the first `block_size(length, t)` are valid and the others 0.
    """
    time, taps = x.shape[1], kernel.shape[0]
    convolved_frames = frames.resized(lambda lengths: _convolved_size(lengths, taps))
    read = frames.mask(time)[:, :, None, None]
    valid = frames.resized(lambda lengths: block_size(lengths, taps)).mask(block_size(time, taps))
    x = jnp.where(read, x, 0)
    dtype, wide = dtype or x.dtype, wide_type(x.dtype)
    one_channel, level = x.shape[-1] == 1, jnp.zeros((), wide)
    if one_channel:
        x, kernel = x.astype(wide), kernel.astype(wide)
        padded, weights = _pad(x[..., 0], _edges(kernel.shape[:2])), kernel[:, :, 0]
        if train:
            # Decibels are far from 0. Their level cancels out, but its rounding errors would not.
            level = lax.stop_gradient(masked_moments(x, read, (0, 1, 2), axis_name).statistics.mean[0])
            padded = jnp.where(frames.lengths[:, None, None] > 0, padded - level, 0)
            batch = _convolution_moments(padded, weights, convolved_frames, axis_name)
    else:
        convolved = _convolve(x, kernel.astype(x.dtype)).astype(wide)
        if train:
            positions = convolved_frames.mask(convolved.shape[1])[:, :, None, None]
            batch = masked_moments(convolved, positions, (0, 1, 2), axis_name)
    bias, scale, shift = (values.astype(wide) for values in (bias, scale, shift))
    taken_out = bias + level * kernel.sum((0, 1, 2)).astype(wide)
    if train:
        (mean, variance), size = batch
        running = update_running(running, Moments(Statistics(mean + taken_out, variance), size))
    else:
        mean, variance = running.mean - taken_out, running.variance
    factor = (scale * lax.rsqrt(variance + EPSILON)).astype(wide)
    shift = (shift - mean * factor).astype(wide)
    if one_channel:
        outputs = _convolve_and_pool(padded, weights * to_rank(factor, 3), shift, valid)
    else:
        outputs = _pool(convolved * to_rank(factor, 4), shift, valid)
    return outputs.astype(dtype), running

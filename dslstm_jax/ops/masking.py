"""Padding is data: lengths become masks, and a masked value never reaches a result or a gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dslstm_jax.ops.promotion import wide_type


def length_mask(lengths: Int[Array, " B"], size: int) -> Bool[Array, "B T"]:
    """True at the first `lengths[b]` of `size` positions."""
    lengths = jnp.asarray(lengths)
    return jnp.arange(size, dtype=lengths.dtype)[None] < lengths[:, None]


@partial(jax.tree_util.register_dataclass, data_fields=["lengths"], meta_fields=["whole"])
@dataclass(frozen=True)
class Frames:
    """Which frames of each row of a batch are valid: the first `lengths[b]`, and padding follows."""

    lengths: Int[Array, " B"]
    whole: bool = False
    """Each row has all frames or none. Where that is known in advance, masks have one column, which saves work."""

    def mask(self, size: int) -> Bool[Array, "B 1|T"]:
        """True at the valid ones of `size` frames."""
        return self.lengths[:, None] > 0 if self.whole else length_mask(self.lengths, size)

    def resized(self, law: Callable[[Int[Array, " B"]], Int[Array, " B"]]) -> "Frames":
        """After a layer that makes of `n` frames `law(n)`."""
        return Frames(law(self.lengths), self.whole)


def zero_padding(values: Float[Array, "B T *F"], mask: Bool[Array, "B T"]) -> Float[Array, "B T *F"]:
    """The values with every masked position 0, whatever it held (NaN too); its gradient there is 0."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (values.ndim - 2)), values, 0)


def masked_mean(values: Float[Array, "B T F"], mask: Bool[Array, "B T"]) -> Float[Array, "B F"]:
    """Mean over the valid positions; 0 where a row has none. Types shorter than float32 are widened to it."""
    values = values.astype(wide_type(values.dtype))
    count = jnp.maximum(mask.sum(axis=1, keepdims=True), 1).astype(values.dtype)
    return zero_padding(values, mask).sum(axis=1) / count


@jax.custom_vjp
def reverse_frames(values: Float[Array, "B T F"], mask: Bool[Array, "B T"]) -> Float[Array, "B T F"]:
    """Each row's valid frames, which come first, from the last to the first; the others stay where they are.

    Doing it twice undoes it, and so its gradient is the same gather; autodiff would scatter.
    """
    frames, last = jnp.arange(values.shape[1])[None], mask.sum(axis=1, keepdims=True) - 1
    sources = jnp.where(mask, last - frames, frames)
    return jnp.take_along_axis(values, sources[:, :, None], axis=1, mode="clip")


reverse_frames.defvjp(
    lambda values, mask: (reverse_frames(values, mask), mask),
    lambda mask, grad_outputs: (reverse_frames(grad_outputs, mask), None),
)


def whole_frames(samples: Int[Array, " B"], frame_length: int, hop_length: int) -> Int[Array, " B"]:
    """Number of whole frames in `samples` samples: 1 + (N - frame) // hop, as HTK counts them.

    Two edges are ours: 1 <= N < frame counts as one frame (completed with zeros), and N = 0 as none.
    """
    whole = 1 + jnp.maximum(samples - frame_length, 0) // hop_length
    return jnp.where(samples > 0, whole, 0)


def centered_frames(samples: Int[Array, " B"], hop_length: int) -> Int[Array, " B"]:
    """Number of frames centered on every hop-th sample: 1 + N // hop, as librosa counts them; N = 0 has none."""
    return jnp.where(samples > 0, 1 + samples // hop_length, 0)

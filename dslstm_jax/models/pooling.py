"""How a sequence becomes one vector: its mean over time (Wang et al. 2020), or more."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dslstm_jax.masking import masked_mean, zero_padding
from dslstm_jax.models.layers import torch_uniform
from dslstm_jax.recurrence.batch_norm import masked_moments

SMALLEST_DEVIATION = 1e-5
"""What deviates less is taken for constant: 0, and no gradient, which would be that of rounding errors."""


class Pooling(nn.Module):
    """Sequences to vectors, over the valid frames only; float32 at least.

    * mean: the mean of the frames. D = H.
    * attention: sum_t a_t h_t, where a is the softmax over the valid frames of the scores v . tanh(W h_t + b); W is
      H x H, b and v have H values (Yang et al., "Hierarchical attention networks for document classification", NAACL
      2016, equations 5 to 7, whose context vector is v). D = H.
    * statistics: mean and standard deviation side by side (Snyder et al., "X-vectors", ICASSP 2018). D = 2H.
    """

    kind: Literal["mean", "attention", "statistics"] = "mean"

    @nn.compact
    def __call__(self, x: Float[Array, "B T H"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
        """The vectors; 0 in rows without a valid frame. Padded frames may hold anything, NaN too."""
        if self.kind == "attention":
            return self.attend(zero_padding(x, mask), mask)
        if self.kind == "statistics":
            return mean_and_deviation(x, mask)
        return masked_mean(x, mask)

    def attend(self, x: Float[Array, "B T H"], mask: Bool[Array, "B T"]) -> Float[Array, "B H"]:
        """`x` is 0 at padded frames."""
        size = x.shape[-1]
        initializer, wide = torch_uniform(size), jnp.promote_types(x.dtype, jnp.float32)
        kernel = self.param("score_kernel", initializer, (size, size)).astype(x.dtype)
        bias, vector = (self.param(name, initializer, (size,)) for name in ("score_bias", "score_vector"))
        products = jnp.matmul(x, kernel, preferred_element_type=wide)
        scores = jnp.tanh(products + bias) @ vector
        # A row without a valid frame would be divided by 0.
        weights = jax.nn.softmax(scores, axis=1, where=mask | ~mask.any(axis=1, keepdims=True))
        return jnp.einsum("bt,bth->bh", weights, x)


def mean_and_deviation(x: Float[Array, "B T H"], mask: Bool[Array, "B T"]) -> Float[Array, "B 2*H"]:
    """Mean and standard deviation (biased) of each feature over the valid frames."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, variance = masked_moments(x, mask[..., None], (1,)).statistics
    moving = variance > SMALLEST_DEVIATION**2
    return jnp.concatenate([mean, jnp.where(moving, jnp.sqrt(jnp.where(moving, variance, 1)), 0)], axis=-1)

"""How a sequence becomes one vector: its mean over time (Wang et al. 2020), or more."""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dslstm_jax.models.params import torch_uniform
from dslstm_jax.ops.masking import masked_mean, zero_padding
from dslstm_jax.ops.normalization import masked_moments
from dslstm_jax.ops.promotion import wide_type

SMALLEST_DEVIATION = 1e-5
"""What deviates less is taken for constant: 0, and no gradient, which would be that of rounding errors."""


class Summary(NamedTuple):
    """Frames as a pooling sums them up; what its kind does not need is None."""

    weight: Float[Array, "B 1"]
    """Of all frames together: their number or, with scores, the sum of exp(score - largest)."""
    mean: Float[Array, "B H"]
    """Each frame weighing 1 or, with scores, exp(score)."""
    variance: Float[Array, "B H"] | None = None
    """Biased."""
    largest: Float[Array, "B 1"] | None = None
    """Score."""


def combine(before: Summary, after: Summary) -> Summary:
    """The summary of all frames of two (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances", COMPSTAT 1982), of which one or both may be of no frames.

    It is made of means, not of sums, so that rounding errors do not grow where a recording goes on for hours.
    """
    weight, new_weight, largest = before.weight, after.weight, None
    if before.largest is not None and after.largest is not None:
        none = jnp.finfo(weight.dtype).min
        score, new_score = jnp.where(weight > 0, before.largest, none), jnp.where(new_weight > 0, after.largest, none)
        largest = jnp.maximum(score, new_score)
        weight, new_weight = weight * jnp.exp(score - largest), new_weight * jnp.exp(new_score - largest)
    total = weight + new_weight
    share = new_weight / jnp.maximum(total, 1)  # the total is 0, or 1 and more: of the largest score is exp(0)
    difference, variance = after.mean - before.mean, None
    if before.variance is not None and after.variance is not None:
        between = share * (1 - share) * difference**2
        variance = before.variance + share * (after.variance - before.variance) + between
    return Summary(total, before.mean + share * difference, variance, largest)


def to_vector(summary: Summary) -> Float[Array, "B D"]:
    """The mean or, where the summary has a variance, mean and standard deviation side by side. 0 in rows without a
    valid frame."""
    mean, variance = summary.mean, summary.variance
    if variance is None:
        return mean
    moving = variance > SMALLEST_DEVIATION**2
    return jnp.concatenate([mean, jnp.where(moving, jnp.sqrt(jnp.where(moving, variance, 1)), 0)], axis=-1)


class Pooling(nn.Module):
    """Sums sequences up over their valid frames; `to_vector` makes a vector of each. float32 at least.

    * mean: the mean of the frames. D = H.
    * attention: sum_t a_t h_t, where a is the softmax over the valid frames of the scores v . tanh(W h_t + b); W is
      H x H, b and v have H values (Yang et al., "Hierarchical attention networks for document classification", NAACL
      2016, equations 5 to 7, whose context vector is v). D = H.
    * statistics: mean and standard deviation side by side (Snyder et al., "X-vectors", ICASSP 2018). D = 2H.
    """

    kind: Literal["mean", "attention", "statistics"] = "mean"

    @nn.compact
    def __call__(self, x: Float[Array, "B T H"], mask: Bool[Array, "B T"]) -> Summary:
        """The summary of the valid frames. Padded frames may hold anything, NaN too."""
        wide = wide_type(x.dtype)
        if self.kind == "attention":
            return self._attend(zero_padding(x, mask), mask)
        count = mask.sum(axis=1, keepdims=True).astype(wide)
        if self.kind == "statistics":
            return Summary(count, *masked_moments(x.astype(wide), mask[..., None], (1,)).statistics)
        return Summary(count, masked_mean(x, mask))

    def _attend(self, x: Float[Array, "B T H"], mask: Bool[Array, "B T"]) -> Summary:
        """`x` is 0 at padded frames."""
        size = x.shape[-1]
        initializer, wide = torch_uniform(size), wide_type(x.dtype)
        kernel = self.param("score_kernel", initializer, (size, size)).astype(x.dtype)
        bias, vector = (self.param(name, initializer, (size,)) for name in ("score_bias", "score_vector"))
        products = jnp.matmul(x, kernel, preferred_element_type=wide)
        scores = jnp.tanh(products + bias[None, None]) @ vector
        # A row without a valid frame would be divided by 0.
        weights = jax.nn.softmax(scores, axis=1, where=mask | ~mask.any(axis=1, keepdims=True))
        mean = jnp.einsum("bt,bth->bh", weights, x.astype(weights.dtype))
        largest = jnp.max(scores, axis=1, keepdims=True, where=mask, initial=jnp.finfo(wide).min)
        weight = jnp.sum(jnp.exp(scores - largest), axis=1, keepdims=True, where=mask)
        return Summary(weight, mean, largest=largest)

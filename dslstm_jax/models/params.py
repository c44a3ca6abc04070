"""Linen shells that own the weights of the plain functions, initialized as PyTorch does."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dslstm_jax.ops.masking import zero_padding
from dslstm_jax.ops.normalization import Statistics, batch_norm, masked_moments, normalize
from dslstm_jax.ops.promotion import to_rank
from dslstm_jax.recurrence.ds_lstm import REMEMBERING, DSLSTMStatistics, DSLSTMWeights, Norm, ds_lstm
from dslstm_jax.recurrence.lstm_cell import LSTMState, LSTMWeights

Initializer = Callable[..., jax.Array]

GATE_SCALE = 0.1
"""Initial scale of the recurrent batch norm (Cooijmans et al. 2017, as in the authors' code)."""


def torch_uniform(fan_in: int | np.ndarray) -> Initializer:
    """U(-1, 1) / sqrt(fan_in): the default of PyTorch's Linear, Conv2d (weights and biases) and LSTM (fan_in = H).

    An array of fan-ins, one for each column, serves kernels made of several blocks.
    """
    bound = 1 / np.sqrt(fan_in)

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -1, 1) * to_rank(jnp.asarray(bound, dtype), len(shape))

    return initialize


class RunningStatistics:
    """A module's running mean and variance in the collection `batch_stats`."""

    def __init__(self, module: nn.Module, name: str, shape: tuple[int, ...]) -> None:
        self.module = module
        self.mean = module.variable("batch_stats", f"{name}_mean", jnp.zeros, shape)
        self.variance = module.variable("batch_stats", f"{name}_variance", jnp.ones, shape)

    @property
    def value(self) -> Statistics:
        return Statistics(self.mean.value, self.variance.value)

    def update(self, new: Statistics) -> None:
        """Keeps the new statistics, where the caller lets `batch_stats` change."""
        if self.module.is_mutable_collection("batch_stats") and not self.module.is_initializing():
            self.mean.value, self.variance.value = new


class BatchNorm(nn.Module):
    """Owns scale, shift and running statistics of a batch normalization."""

    @nn.compact
    def __call__(self, features: int) -> tuple[Float[Array, " F"], Float[Array, " F"], RunningStatistics]:
        scale = self.param("scale", nn.initializers.ones, (features,))
        shift = self.param("shift", nn.initializers.zeros, (features,))
        return scale, shift, RunningStatistics(self, "running", (features,))


class Normalization(nn.Module):
    """Shifts and scales each feature to mean 0 and deviation 1, with no weights.

    * corpus: a batch normalization over the valid frames of all rows, which remembers running statistics.
    * utterance: by mean and deviation over the row's own valid frames (cepstral mean and variance normalization).
    """

    kind: Literal["none", "corpus", "utterance"] = "none"
    axis_name: str | None = None
    """The devices over which the batch's statistics are taken."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T F"], mask: Bool[Array, "B T"], *, train: bool) -> Float[Array, "B T F"]:
        """The features, 0 at padded frames, which may hold anything; x itself where the kind is none."""
        if self.kind == "none":
            return x
        valid, one, zero = mask[..., None], jnp.ones((), x.dtype), jnp.zeros((), x.dtype)
        x = zero_padding(x, mask)
        if self.kind == "utterance":
            statistics = jax.tree.map(lambda a: a[:, None], masked_moments(x, valid, (1,)).statistics)
            return zero_padding(normalize(x, statistics, one, zero), mask)
        running = RunningStatistics(self, "running", (x.shape[-1],))
        x, statistics = batch_norm(
            x, valid, one, zero, running.value, axes=(0, 1), train=train, axis_name=self.axis_name
        )
        running.update(statistics)
        return zero_padding(x, mask)


class LSTMLayer(nn.Module):
    """Owns the weights of one layer of `lstm_stack`."""

    hidden: int

    @nn.compact
    def __call__(self, features: int) -> LSTMWeights:
        initializer = torch_uniform(self.hidden)
        return LSTMWeights(
            self.param("input_kernel", initializer, (features, 4 * self.hidden)),
            self.param("recurrent_kernel", initializer, (self.hidden, 4 * self.hidden)),
            self.param("input_bias", initializer, (4 * self.hidden,)),
            self.param("recurrent_bias", initializer, (4 * self.hidden,)),
        )


class DSLSTMLayer(nn.Module):
    """One layer of `ds_lstm`."""

    hidden: int
    remat_every: int = 0
    axis_name: str | None = None
    """The devices over which the batch's statistics are taken."""
    norm: Norm = "step"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T X"],
        y: Float[Array, "B T Y"],
        mask: Bool[Array, "B T"],
        initial: LSTMState | None = None,
        *,
        train: bool,
    ) -> tuple[Float[Array, "B T H"], LSTMState]:
        """The outputs, and the state after each row's last valid frame."""
        size, (steps, from_x), from_y = self.hidden, x.shape[1:], y.shape[2]
        # Each column's fan-in: the gates read x, y and h; the candidates x and h, or y and h.
        gates, time, frequency = from_x + from_y + size, from_x + size, from_y + size
        columns = np.repeat([gates, time, frequency], [4 * size, size, size])
        weights = DSLSTMWeights(
            x_kernel=self.param("x_kernel", torch_uniform(columns[: 5 * size]), (from_x, 5 * size)),
            y_kernel=self.param(
                "y_kernel", torch_uniform(np.delete(columns, np.s_[4 * size : 5 * size])), (from_y, 5 * size)
            ),
            recurrent_kernel=self.param("recurrent_kernel", torch_uniform(columns), (size, 6 * size)),
            bias=self.param("bias", torch_uniform(columns), (6 * size,)),
            gate_scale=self.affine("gate_scale", GATE_SCALE, 4 * size),
            gate_shift=self.affine("gate_shift", 0, 4 * size),
            output_scale=self.affine("output_scale", 1, size),
            output_shift=self.affine("output_shift", 0, size),
        )
        statistics = None
        if self.norm in REMEMBERING:
            rows = steps if self.norm == "step" else 1
            gate_statistics = RunningStatistics(self, "gate", (rows, 4 * size))
            output_statistics = RunningStatistics(self, "output", (size,))
            statistics = DSLSTMStatistics(gate_statistics.value, output_statistics.value)

        outputs, final, statistics = ds_lstm(
            weights,
            x,
            y,
            mask,
            initial,
            statistics=statistics,
            train=train,
            norm=self.norm,
            axis_name=self.axis_name,
            remat_every=self.remat_every,
        )
        if statistics is not None:
            gate_statistics.update(statistics.gates)
            output_statistics.update(statistics.output)
        return outputs, final

    def affine(self, name: str, initial: float, size: int) -> Any:
        """A scale or shift, or None where nothing is normalized."""
        return None if self.norm == "none" else self.param(name, nn.initializers.constant(initial), (size,))


class Linear(nn.Module):
    """PyTorch's nn.Linear."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B C"]:
        initializer = torch_uniform(x.shape[-1])
        kernel = self.param("kernel", initializer, (x.shape[-1], self.features))
        return x @ kernel + self.param("bias", initializer, (self.features,))[None]

"""One step of training and of evaluation: pure functions of a state and a batch."""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dslstm_jax.config import Config, TrainingConfig
from dslstm_jax.data.pipeline import Batch
from dslstm_jax.models.recognizer import BranchLogits, Variables, average, forward, initialize
from dslstm_jax.training.metrics import confusion_matrix


class TrainState(flax.struct.PyTreeNode):
    """All that a step changes."""

    step: Int[Array, ""]
    variables: Variables
    optimizer_state: optax.OptState


class Totals(NamedTuple):
    """Sums over utterances, so that totals of batches simply add up."""

    loss: Float[Array, ""]
    utterances: Float[Array, ""]
    confusion: Float[Array, "C C"]


def make_optimizer(config: TrainingConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """Adam (0.9, 0.999, 1e-8) whose learning rate is halved after the epochs that the config names."""
    schedule = optax.piecewise_constant_schedule(
        config.learning_rate, {epoch * steps_per_epoch: 0.5 for epoch in config.halve_after}
    )
    return optax.adam(schedule)


def create_state(config: Config, classes: int, optimizer: optax.GradientTransformation) -> TrainState:
    """A fresh state; the same for the same training.seed."""
    variables = initialize(jax.random.key(config.training.seed), config, classes)
    return TrainState(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]))


def cross_entropy(
    branches: tuple[BranchLogits, ...], labels: Int[Array, " B"], weights: Float[Array, " B"]
) -> Float[Array, ""]:
    """p CE(logits_spectrogram) + (1 - p) CE(logits_mfcc), summed over the utterances (Wang et al. 2020)."""
    total = jnp.zeros(())
    for logits, share in branches:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        total = total + share * jnp.sum(jnp.where(weights > 0, losses * weights, 0))
    return total


def _totals(loss: Float[Array, ""], branches: tuple[BranchLogits, ...], batch: Batch) -> Totals:
    logits = average(branches)
    confusion = confusion_matrix(batch.labels, jnp.argmax(logits, axis=-1), batch.weights, logits.shape[-1])
    return Totals(loss, batch.weights.sum(), confusion)


def train_step(
    state: TrainState, batch: Batch, *, config: Config, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Totals]:
    """One step down the gradient of the mean loss over the batch's utterances; padded rows have weight 0."""

    def mean_loss(params: Any) -> tuple[Float[Array, ""], tuple[Any, ...]]:
        branches, batch_stats = forward(
            {**state.variables, "params": params},
            batch.waveforms,
            batch.lengths,
            config=config,
            train=True,
        )
        total = cross_entropy(branches, batch.labels, batch.weights)
        return total / batch.weights.sum(), (total, branches, batch_stats)

    params = state.variables["params"]
    (_, (total, branches, batch_stats)), gradients = jax.value_and_grad(mean_loss, has_aux=True)(params)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, params)
    variables = {"params": optax.apply_updates(params, updates), "batch_stats": batch_stats}
    return TrainState(state.step + 1, variables, optimizer_state), _totals(total, branches, batch)


def eval_step(variables: Variables, batch: Batch, *, config: Config) -> Totals:
    """Loss and confusion of one batch under the running statistics."""
    branches, _ = forward(variables, batch.waveforms, batch.lengths, config=config)
    return _totals(cross_entropy(branches, batch.labels, batch.weights), branches, batch)

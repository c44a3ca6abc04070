"""One step of training and of evaluation: pure functions of a state and a batch."""

from typing import Any, NamedTuple, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dslstm_jax.config import Config, TrainingConfig
from dslstm_jax.data.pipeline import Batch
from dslstm_jax.features.augmentation import example_keys, is_on, mixup
from dslstm_jax.models.recognizer import BranchLogits, Variables, average, count_classes, forward, initialize
from dslstm_jax.training.metrics import confusion_matrix

T = TypeVar("T")


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
    branches: tuple[BranchLogits, ...], targets: Float[Array, "B C"], weights: Float[Array, " B"]
) -> Float[Array, ""]:
    """p CE(logits_spectrogram) + (1 - p) CE(logits_mfcc), summed over the utterances (Wang et al. 2020)."""
    total = jnp.zeros(())
    for logits, share in branches:
        losses = optax.softmax_cross_entropy(logits, targets)
        total = total + share * jnp.sum(jnp.where(weights > 0, losses * weights, 0))
    return total


def _targets(variables: Variables, batch: Batch) -> Float[Array, "B C"]:
    """1 for the label's class; a padding row's label may be no class, which makes all of its row 0."""
    return jax.nn.one_hot(batch.labels, count_classes(variables))


def _totals(loss: Float[Array, ""], branches: tuple[BranchLogits, ...], batch: Batch) -> Totals:
    logits = average(branches)
    confusion = confusion_matrix(batch.labels, jnp.argmax(logits, axis=-1), batch.weights, logits.shape[-1])
    return Totals(loss, batch.weights.sum(), confusion)


def _add_devices(tree: T, axis_name: str | None) -> T:
    """The sum over all devices."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    config: Config,
    optimizer: optax.GradientTransformation,
    axis_name: str | None = None,
) -> tuple[TrainState, Totals]:
    """One step down the gradient of the mean loss over the batch's utterances; padded rows have weight 0.

    With `axis_name`, `batch` is this device's share of the rows, and the step is that of all devices' rows together.
    Augmentation and dropout are drawn from (training.seed, step, example) alone, so that a resumed run draws what an
    unbroken one would. The confusion counts the utterances' own labels, also where mixup makes the targets mixtures.

    Raises:
      ConfigError: mixup is on and the batch has an odd number of rows.
    """
    waveforms, targets, keys = batch.waveforms, _targets(state.variables, batch), None
    if is_on(config.augmentation) or config.model.dropout > 0:
        # Threefry by name: other generators' draws for an utterance depend on the rest of the batch.
        seed = jax.random.key(config.training.seed, impl="threefry2x32")
        keys = example_keys(jax.random.fold_in(seed, state.step), batch.examples)
        if config.augmentation.mixup > 0:
            waveforms, targets = mixup(
                keys, waveforms, batch.lengths, targets, batch.weights, config.augmentation.mixup
            )

    utterances = _add_devices(batch.weights.sum(), axis_name)
    synchronized = axis_name if config.training.batch_statistics == "synchronized" else None

    def mean_loss(params: Any) -> tuple[Float[Array, ""], tuple[Any, ...]]:
        branches, batch_stats = forward(
            {**state.variables, "params": params},
            waveforms,
            batch.lengths,
            config=config,
            train=True,
            keys=keys,
            axis_name=synchronized,
        )
        total = cross_entropy(branches, targets, batch.weights)
        return total / utterances, (total, branches, batch_stats)

    params = state.variables["params"]
    (_, (total, branches, batch_stats)), gradients = jax.value_and_grad(mean_loss, has_aux=True)(params)
    gradients = _add_devices(gradients, axis_name)
    if axis_name is not None and synchronized is None:
        batch_stats = jax.lax.pmean(batch_stats, axis_name)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, params)
    variables = {"params": optax.apply_updates(params, updates), "batch_stats": batch_stats}
    return TrainState(state.step + 1, variables, optimizer_state), _add_devices(
        _totals(total, branches, batch), axis_name
    )


def eval_step(variables: Variables, batch: Batch, *, config: Config, axis_name: str | None = None) -> Totals:
    """Loss and confusion of one batch under the running statistics, of all devices' rows together."""
    branches, _ = forward(variables, batch.waveforms, batch.lengths, config=config)
    total = cross_entropy(branches, _targets(variables, batch), batch.weights)
    return _add_devices(_totals(total, branches, batch), axis_name)

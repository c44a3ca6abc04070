"""One step of training and of evaluation: pure functions of a state and a batch."""

from typing import Any, NamedTuple, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from dslstm_jax.config import Config, TrainingConfig
from dslstm_jax.data.pipeline import Batch
from dslstm_jax.features.augmentation import example_keys, is_on, mixup
from dslstm_jax.models.recognizer import BranchLogits, Variables, average, count_classes, forward, initialize
from dslstm_jax.ops.metrics import confusion_matrix

T = TypeVar("T")


class TrainState(flax.struct.PyTreeNode):
    """All that a step changes."""

    step: Int[Array, ""]
    variables: Variables
    optimizer_state: optax.OptState
    average: Variables | None = None
    """The moving average of the variables, where training.ema_decay asks for it."""

    @property
    def evaluated(self) -> Variables:
        """The variables that evaluate and predict."""
        return self.variables if self.average is None else self.average


class Totals(NamedTuple):
    """Sums over utterances, so that totals of batches simply add up."""

    loss: Float[Array, ""]
    """Weighted in training; the weights of an epoch add up to its utterances."""
    utterances: Float[Array, ""]
    confusion: Float[Array, "C C"]


def make_optimizer(config: TrainingConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """Adam (0.9, 0.999, 1e-8) on the config's schedule; clips first, and decays kernels (AdamW) where it says so."""
    schedule = _schedule(config, steps_per_epoch)
    if config.weight_decay:
        adam = optax.adamw(schedule, weight_decay=config.weight_decay, mask=_are_kernels)
    else:
        adam = optax.adam(schedule)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adam) if config.clip_norm else adam


def _schedule(config: TrainingConfig, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate of each step, from 0."""
    if config.schedule == "halve":
        return optax.piecewise_constant_schedule(
            config.learning_rate, {epoch * steps_per_epoch: 0.5 for epoch in config.halve_after}
        )
    warmup = int(config.warmup * steps_per_epoch)
    # The first step is as long as each rise: from 0 it would learn nothing.
    first = config.learning_rate / (warmup + 1)
    return optax.warmup_cosine_decay_schedule(first, config.learning_rate, warmup, config.epochs * steps_per_epoch)


def _are_kernels(params: Any) -> Any:
    """Biases, scales and shifts have one axis."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def create_state(config: Config, classes: int, optimizer: optax.GradientTransformation) -> TrainState:
    """A fresh state; the same for the same training.seed."""
    variables = initialize(jax.random.key(config.training.seed), config, classes)
    averaged = jax.tree.map(jnp.copy, variables) if config.training.ema_decay else None
    return TrainState(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]), averaged)


def cross_entropy(
    branches: tuple[BranchLogits, ...], targets: Float[Array, "B C"], weights: Float[Array, " B"]
) -> Float[Array, ""]:
    """p CE(logits_spectrogram) + (1 - p) CE(logits_mfcc) times the weight, summed over the utterances (Wang et al.
    2020)."""
    total = jnp.zeros(())
    for logits, share in branches:
        losses = optax.softmax_cross_entropy(logits, targets)
        total = total + share * jnp.sum(jnp.where(weights > 0, losses * weights, 0))
    return total


def _targets(variables: Variables, batch: Batch) -> Float[Array, "B C"]:
    """1 for the label's class; a padding row's label may be no class, which makes all of its row 0."""
    return jax.nn.one_hot(batch.labels, count_classes(variables))


def _totals(
    loss: Float[Array, ""], branches: tuple[BranchLogits, ...], labels: Int[Array, " B"], weights: Float[Array, " B"]
) -> Totals:
    logits = average(branches)
    once = jnp.sign(weights)
    confusion = confusion_matrix(labels, jnp.argmax(logits, axis=-1), once, logits.shape[-1])
    return Totals(loss, once.sum(), confusion)


def _add_devices(tree: T, axis_name: str | None) -> T:
    """The sum over all devices."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


class _Rows(NamedTuple):
    """Rows of a batch as the gradient is taken of them: augmented waveforms and what belongs to each."""

    waveforms: Float[Array, "B N"]
    lengths: Int[Array, " B"]
    labels: Int[Array, " B"]
    targets: Float[Array, "B C"]
    weights: Float[Array, " B"]
    keys: Key[Array, " B"] | None


def _draw(state: TrainState, batch: Batch, config: Config, seed: int | Int[Array, ""]) -> _Rows:
    """The batch with a key for each utterance, where anything is to be drawn; smoothed and mixed if the config says
    so."""
    waveforms, targets, keys = batch.waveforms, _targets(state.variables, batch), None
    if config.training.label_smoothing > 0:
        targets = optax.smooth_labels(targets, config.training.label_smoothing)
    if is_on(config.augmentation) or config.model.dropout > 0:
        # Threefry by name: other generators' draws for an utterance depend on the rest of the batch.
        key = jax.random.key(seed, impl="threefry2x32")
        keys = example_keys(jax.random.fold_in(key, state.step), batch.examples)
        if config.augmentation.mixup > 0:
            waveforms, targets = mixup(
                keys, waveforms, batch.lengths, targets, batch.weights, config.augmentation.mixup
            )
    return _Rows(waveforms, batch.lengths, batch.labels, targets, batch.weights, keys)


def _differentiate(
    variables: Variables, rows: _Rows, config: Config, axis_name: str | None
) -> tuple[Any, Totals, Any]:
    """Gradient of the rows' summed loss, their totals, and the running statistics after them."""

    def summed_loss(params: Any) -> tuple[Float[Array, ""], tuple[Any, ...]]:
        branches, batch_stats = forward(
            {**variables, "params": params},
            rows.waveforms,
            rows.lengths,
            config=config,
            train=True,
            keys=rows.keys,
            axis_name=axis_name,
        )
        total = cross_entropy(branches, rows.targets, rows.weights)
        return total, (_totals(total, branches, rows.labels, rows.weights), batch_stats)

    (_, (totals, batch_stats)), gradients = jax.value_and_grad(summed_loss, has_aux=True)(variables["params"])
    return gradients, totals, batch_stats


def _accumulate(variables: Variables, rows: _Rows, config: Config, axis_name: str | None) -> tuple[Any, Totals, Any]:
    """As `_differentiate`, in training.accumulate parts one after the other; each part takes every so manieth row, so
    that the rows which fill a batch up are shared among them."""
    parts = config.training.accumulate
    if parts == 1:
        return _differentiate(variables, rows, config, axis_name)

    def take(batch_stats: Any, part: _Rows) -> tuple[Any, tuple[Any, Totals]]:
        now = {**variables, "batch_stats": batch_stats}
        gradients, totals, batch_stats = _differentiate(now, part, config, axis_name)
        return batch_stats, (gradients, totals)

    def add(carry: tuple[Any, Any], part: _Rows) -> tuple[tuple[Any, Any], None]:
        batch_stats, sums = carry
        batch_stats, more = take(batch_stats, part)
        return (batch_stats, jax.tree.map(jnp.add, sums, more)), None

    split = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), rows)
    batch_stats = variables.get("batch_stats", {})
    shapes = jax.eval_shape(take, batch_stats, jax.tree.map(lambda leaf: leaf[0], split))[1]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (batch_stats, (gradients, totals)), _ = jax.lax.scan(add, (batch_stats, zeros), split)
    return gradients, totals, batch_stats


def train_step(
    state: TrainState,
    batch: Batch,
    seed: int | Int[Array, ""] | None = None,
    *,
    config: Config,
    optimizer: optax.GradientTransformation,
    axis_name: str | None = None,
) -> tuple[TrainState, Totals]:
    """One step down the gradient of the batch's mean loss, weighted by `batch.weights`; padded rows have weight 0.

    With `axis_name`, `batch` is this device's share of the rows, and the step is that of all devices' rows together.
    Augmentation and dropout are drawn from (seed, step, example) alone, so that a resumed run draws what an unbroken
    one would. Given as an array, the seed of another run needs no other program; None is config.training.seed. The
    confusion counts the utterances' own labels, also where mixup makes the targets mixtures.

    Raises:
      ConfigError: mixup is on and the batch has an odd number of rows.
    """
    synchronized = axis_name if config.training.batch_statistics == "synchronized" else None
    rows = _draw(state, batch, config, config.training.seed if seed is None else seed)
    gradients, totals, batch_stats = _accumulate(state.variables, rows, config, synchronized)
    gradients, totals = _add_devices((gradients, totals), axis_name)
    weight = totals.utterances  # their sum, where each weighs 1
    if config.training.class_weights != "none":
        weight = _add_devices(rows.weights.sum(), axis_name)
    gradients = jax.tree.map(lambda leaf: leaf / weight, gradients)
    if axis_name is not None and synchronized is None:
        batch_stats = jax.lax.pmean(batch_stats, axis_name)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.variables["params"])
    variables = {"params": optax.apply_updates(state.variables["params"], updates)}
    if batch_stats:  # an LSTM alone has none, before as after
        variables["batch_stats"] = batch_stats
    averaged = state.average
    if averaged is not None:
        # The first steps count more, lest the average remember the initial weights (as TensorFlow's does).
        decay = jnp.minimum(config.training.ema_decay, (1 + state.step) / (10 + state.step))
        averaged = optax.incremental_update(variables, averaged, 1 - decay)
    return TrainState(state.step + 1, variables, optimizer_state, averaged), totals


def predict_step(
    variables: Variables, batch: Batch, *, config: Config, axis_name: str | None = None
) -> tuple[Totals, Float[Array, "B C"]]:
    """Loss and confusion of one batch under the running statistics, and the probabilities of the classes in each row:
    those of the averaged logits. Both are of all devices' rows together."""
    branches, _ = forward(variables, batch.waveforms, batch.lengths, config=config)
    total = cross_entropy(branches, _targets(variables, batch), batch.weights)
    probabilities = jax.nn.softmax(average(branches))
    if axis_name is not None:
        probabilities = jax.lax.all_gather(probabilities, axis_name, tiled=True)
    return _add_devices(_totals(total, branches, batch.labels, batch.weights), axis_name), probabilities


def eval_step(variables: Variables, batch: Batch, *, config: Config, axis_name: str | None = None) -> Totals:
    """Loss and confusion of one batch, as in `predict_step`."""
    return predict_step(variables, batch, config=config, axis_name=axis_name)[0]

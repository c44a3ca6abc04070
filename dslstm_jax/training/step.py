"""One step of training and of evaluation: pure functions of a state and a batch."""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from dslstm_jax.config import AugmentationConfig, Config, RecognizerConfig, TrainingConfig
from dslstm_jax.data.batches import Batch
from dslstm_jax.features.augmentation import augment_spectrograms, augment_waveforms, example_keys, is_on, mixup
from dslstm_jax.features.trimming import trim
from dslstm_jax.models.recognizer import (
    BranchLogits,
    Recognizer,
    Variables,
    average,
    count_classes,
    features_for,
    forward,
    initialize,
)
from dslstm_jax.ops.metrics import Totals, confusion_matrix
from dslstm_jax.runs.state import TrainState

T = TypeVar("T")


@dataclass(frozen=True)
class StepConfig:
    """All of a run's config that a training step depends on. Runs that agree in it share their compiled program."""

    recognizer: RecognizerConfig
    augmentation: AugmentationConfig
    accumulate: int
    label_smoothing: float
    balanced: bool
    """Whether the utterances' weights differ."""
    ema_decay: float
    synchronized: bool
    """Whether batch statistics are those of all devices."""

    @classmethod
    def of(cls, config: Config) -> Self:
        """Of a run's config."""
        training = config.training
        return cls(
            config.recognizer,
            config.augmentation,
            training.accumulate,
            training.label_smoothing,
            training.class_weights == "balanced",
            training.ema_decay,
            training.batch_statistics == "synchronized",
        )


@dataclass(frozen=True)
class Optimizer:
    """Adam (0.9, 0.999, 1e-8) on a schedule; clips first, and decays kernels (AdamW) where the config says so.

    It is what optax calls a gradient transformation, but compares by its settings, so that runs share programs.
    """

    steps_per_epoch: int
    epochs: int
    learning_rate: float
    schedule: str
    halve_after: tuple[int, ...]
    warmup: float
    weight_decay: float
    clip_norm: float

    def init(self, params: Any) -> Any:
        """The state before the first step."""
        return self._chain.init(params)

    def update(self, gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        """What is to be added to the params, and the state after it."""
        with jax.numpy_dtype_promotion("standard"):  # optax counts in integers and reckons in floats
            return self._chain.update(gradients, state, params)

    @property
    def _chain(self) -> optax.GradientTransformation:
        if self.weight_decay:
            adam = optax.adamw(self._schedule, weight_decay=self.weight_decay, mask=_are_kernels)
        else:
            adam = optax.adam(self._schedule)
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adam) if self.clip_norm else adam

    @property
    def _schedule(self) -> optax.Schedule:
        """The learning rate of each step, from 0."""
        if self.schedule == "halve":
            halvings = {epoch * self.steps_per_epoch: 0.5 for epoch in self.halve_after}
            return optax.piecewise_constant_schedule(self.learning_rate, halvings)
        warmup = int(self.warmup * self.steps_per_epoch)
        # The first step is as long as each rise: from 0 it would learn nothing.
        first = self.learning_rate / (warmup + 1)
        return optax.warmup_cosine_decay_schedule(
            first, self.learning_rate, warmup, self.epochs * self.steps_per_epoch
        )


AnyOptimizer: TypeAlias = Optimizer | optax.GradientTransformation


def make_optimizer(config: TrainingConfig, steps_per_epoch: int) -> Optimizer:
    """The optimizer that the config asks for."""
    names = (field.name for field in fields(Optimizer) if field.name != "steps_per_epoch")
    return Optimizer(steps_per_epoch, **{name: getattr(config, name) for name in names})


def _are_kernels(params: Any) -> Any:
    """Biases, scales and shifts have one axis."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def create_state(config: Config, classes: int, optimizer: AnyOptimizer) -> TrainState:
    """A fresh state; the same for the same training.seed."""
    variables = initialize(jax.random.key(config.training.seed), config.recognizer, classes)
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
    """Rows of a batch as the gradient is taken of them: waveforms, mixed if that is on, and what belongs to each."""

    waveforms: Float[Array, "B N"]
    lengths: Int[Array, " B"]
    labels: Int[Array, " B"]
    targets: Float[Array, "B C"]
    weights: Float[Array, " B"]
    keys: Key[Array, " B"] | None


def _draw(state: TrainState, batch: Batch, config: StepConfig, seed: int | Int[Array, ""]) -> _Rows:
    """The batch with a key for each utterance, where anything is to be drawn; smoothed and mixed if the config says
    so."""
    waveforms, targets, keys = batch.waveforms, _targets(state.variables, batch), None
    if config.label_smoothing > 0:
        targets = optax.smooth_labels(targets, config.label_smoothing)
    if is_on(config.augmentation) or config.recognizer.model.dropout > 0:
        # Threefry by name: other generators' draws for an utterance depend on the rest of the batch.
        key = jax.random.key(seed, impl="threefry2x32")
        keys = example_keys(jax.random.fold_in(key, state.step), batch.examples)
        if config.augmentation.mixup > 0:
            waveforms, targets = mixup(
                keys, waveforms, batch.lengths, targets, batch.weights, config.augmentation.mixup
            )
    return _Rows(waveforms, batch.lengths, batch.labels, targets, batch.weights, keys)


def _loss(
    params: Any, variables: Variables, rows: _Rows, config: StepConfig, axis_name: str | None
) -> tuple[Float[Array, ""], tuple[Totals, Any]]:
    """The rows' summed loss; their totals, and the running statistics after them. `forward`, with augmentation."""
    recognizer, keys = config.recognizer, rows.keys
    waveforms, lengths = trim(rows.waveforms, rows.lengths, recognizer.features.trim)
    if keys is not None:
        waveforms, lengths = augment_waveforms(keys, waveforms, lengths, config.augmentation)
    features = features_for(waveforms, lengths, recognizer)
    if keys is not None:
        features = augment_spectrograms(keys, features, config.augmentation)
    branches, updated = Recognizer(recognizer, count_classes(variables), axis_name).apply(
        {**variables, "params": params}, features, keys, train=True, mutable=["batch_stats"]
    )
    total = cross_entropy(branches, rows.targets, rows.weights)
    return total, (_totals(total, branches, rows.labels, rows.weights), updated.get("batch_stats", {}))


def _accumulate(gradient: Any, variables: Variables, rows: _Rows, parts: int) -> tuple[Any, Totals, Any]:
    """The sums of the gradients and totals of `parts` one after the other, and the running statistics after the last.
    Each part takes every `parts`-th row, so that the rows which fill a batch up are shared among them."""

    def take(batch_stats: Any, part: _Rows) -> tuple[Any, tuple[Any, Totals]]:
        (_, (totals, batch_stats)), gradients = gradient(
            variables["params"], {**variables, "batch_stats": batch_stats}, part
        )
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
    seed: int | Int[Array, ""] = 0,
    *,
    config: StepConfig,
    optimizer: AnyOptimizer,
    axis_name: str | None = None,
) -> tuple[TrainState, Totals]:
    """One step down the gradient of the batch's mean loss, weighted by `batch.weights`; padded rows have weight 0.

    With `axis_name`, `batch` is this device's share of the rows, and the step is that of all devices' rows together.
    Augmentation and dropout are drawn from (seed, step, example) alone, so that a resumed run draws what an unbroken
    one would; the seed is training.seed. The confusion counts the utterances' own labels, also where mixup makes the
    targets mixtures.

    Raises:
      ConfigError: mixup is on and the batch has an odd number of rows.
    """
    rows = _draw(state, batch, config, seed)
    synchronized = axis_name if config.synchronized else None
    gradient = jax.value_and_grad(partial(_loss, config=config, axis_name=synchronized), has_aux=True)
    if config.accumulate == 1:
        (_, (totals, batch_stats)), gradients = gradient(state.variables["params"], state.variables, rows)
    else:
        gradients, totals, batch_stats = _accumulate(gradient, state.variables, rows, config.accumulate)
    gradients, totals = _add_devices((gradients, totals), axis_name)
    # Where each utterance weighs 1, their number is the sum of the weights.
    weight = _add_devices(rows.weights.sum(), axis_name) if config.balanced else totals.utterances
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
        decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
        averaged = optax.incremental_update(variables, averaged, 1 - decay)
    return TrainState(state.step + 1, variables, optimizer_state, averaged), totals


def predict_step(
    variables: Variables, batch: Batch, *, config: RecognizerConfig, axis_name: str | None = None
) -> tuple[Totals, Float[Array, "B C"]]:
    """Loss and confusion of one batch under the running statistics, and the probabilities of the classes in each row:
    those of the averaged logits. Both are of all devices' rows together."""
    branches, _ = forward(variables, batch.waveforms, batch.lengths, config=config)
    total = cross_entropy(branches, _targets(variables, batch), batch.weights)
    probabilities = jax.nn.softmax(average(branches))
    if axis_name is not None:
        probabilities = jax.lax.all_gather(probabilities, axis_name, tiled=True)
    return _add_devices(_totals(total, branches, batch.labels, batch.weights), axis_name), probabilities


def eval_step(
    variables: Variables, batch: Batch, *, config: RecognizerConfig, axis_name: str | None = None
) -> Totals:
    """Loss and confusion of one batch, as in `predict_step`."""
    return predict_step(variables, batch, config=config, axis_name=axis_name)[0]

"""The recognizer: the branches a config names, and the average of their logits."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dslstm_jax.config import Config, ModelConfig
from dslstm_jax.features import Features, blank_features, extract_features
from dslstm_jax.features.augmentation import augment_spectrograms, augment_waveforms
from dslstm_jax.features.trimming import trim
from dslstm_jax.models.branches import (
    CNNLSTMBranch,
    DSLSTMBranch,
    MFCCBranch,
    Span,
    Spans,
    frame_mask,
    shortest_recording,
)
from dslstm_jax.models.params import CARRIED, Normalization
from dslstm_jax.ops.masking import length_mask

Variables = dict[str, Any]
"""Linen's collections `params` and `batch_stats`."""


class BranchLogits(NamedTuple):
    """One branch's answer, and its share p in the average."""

    logits: Float[Array, "B C"]
    weight: float


class Recognizer(nn.Module):
    """Features to the logits of each branch; a row without MFCC frames is padding and disturbs no other row.

    With model.dtype bfloat16, products and activations are bfloat16; weights, statistics, states, logits float32.
    """

    config: ModelConfig
    classes: int
    axis_name: str | None = None
    stretched: bool = False
    """Whether all spectrograms are stretched, which is faster to know in advance."""

    @nn.compact
    def __call__(
        self, features: Features, keys: Key[Array, " B"] | None = None, spans: Spans | None = None, *, train: bool
    ) -> tuple[BranchLogits, ...]:
        """The branches' logits.

        Args:
          features: of the recordings, or of parts of them.
          keys: one for each utterance, for dropout.
          spans: the frames that the recurrences read, of the spectrograms first and then of the MFCC; None: all. With
            the collection CARRIED, which the caller must let change, they go on from where the last part ended.
          train: use and update the batch's statistics.
        """
        config, branches = self.config, []
        features = self.normalize(features, train)
        both = config.mfcc_branch and config.spectrogram_branch != "none"
        if config.spectrogram_branch != "none":
            kind = DSLSTMBranch if config.spectrogram_branch == "ds_lstm" else CNNLSTMBranch
            spectrogram_branch = kind(self.classes, config, self.axis_name, self.stretched, name="spectrogram_branch")
            logits = spectrogram_branch(features.spectrograms, features.spectrogram_lengths, keys, spans, train=train)
            branches.append(BranchLogits(logits, config.spectrogram_weight if both else 1.0))
        if config.mfcc_branch:
            mfcc_branch = MFCCBranch(self.classes, config, name="mfcc_branch")
            mask = frame_mask(features.mfcc_lengths, features.mfcc.shape[1], None if spans is None else spans[-1])
            logits = mfcc_branch(features.mfcc, mask, keys)
            branches.append(BranchLogits(logits, 1 - config.spectrogram_weight if both else 1.0))
        return tuple(branches)

    def normalize(self, features: Features, train: bool) -> Features:
        """Mean 0 and deviation 1, as config.normalize says."""

        def of(x: Float[Array, "B T F"], lengths: Int[Array, " B"], name: str) -> Float[Array, "B T F"]:
            normalization = Normalization(self.config.normalize, self.axis_name, name=f"{name}_normalization")
            return normalization(x, length_mask(lengths, x.shape[1]), train=train)

        mfcc, spectrograms = features.mfcc, features.spectrograms
        if self.config.mfcc_branch:
            mfcc = of(mfcc, features.mfcc_lengths, "mfcc")
        if self.config.spectrogram_branch != "none":
            pairs = zip(spectrograms, features.spectrogram_lengths, strict=True)
            spectrograms = tuple(of(*pair, f"spectrogram_{index}") for index, pair in enumerate(pairs))
        return features._replace(mfcc=mfcc, spectrograms=spectrograms)


def make_recognizer(config: Config, classes: int, axis_name: str | None = None) -> Recognizer:
    """The recognizer of a config, for its own features."""
    stretched = all(spectrogram.frames for spectrogram in config.features.spectrograms)
    return Recognizer(config.model, classes, axis_name, stretched)


def features_for(waveforms: Float[Array, "B N"], lengths: Int[Array, " B"], config: Config) -> Features:
    """`extract_features`, as long as the config's model needs them."""
    return extract_features(waveforms, lengths, config.features, shortest_recording(config))


def average(branches: tuple[BranchLogits, ...]) -> Float[Array, "B C"]:
    """logits = p logits_spectrogram + (1 - p) logits_mfcc."""
    total: jax.Array = sum((branch.weight * branch.logits for branch in branches), start=jnp.zeros(()))
    return total


def forward(
    variables: Variables,
    waveforms: Float[Array, "B N"],
    lengths: Int[Array, " B"],
    *,
    config: Config,
    train: bool = False,
    keys: Key[Array, " B"] | None = None,
    axis_name: str | None = None,
) -> tuple[tuple[BranchLogits, ...], Variables]:
    """Waveforms to the branches' logits: the one way through the system for training, evaluation and prediction.

    Args:
      variables: the recognizer's weights and running statistics.
      waveforms: samples in [-1, 1] at config.features.sample_rate, valid up to `lengths`.
      lengths: samples of each waveform; a row of length 0 is padding.
      config: features, model and, with keys, augmentation.
      train: use the batch's statistics and return the updated running ones.
      keys: one for each utterance: augment as config.augmentation says (mixup, which needs the targets, is the train
        step's), and drop units as model.dropout says. None: neither.
      axis_name: the devices over which the batch's statistics are taken.

    Returns:
      Each branch's logits, and the collection `batch_stats` after this batch.
    """
    waveforms, lengths = trim(waveforms, lengths, config.features.trim)
    if keys is not None:
        waveforms, lengths = augment_waveforms(keys, waveforms, lengths, config.augmentation)
    features = features_for(waveforms, lengths, config)
    if keys is not None:
        features = augment_spectrograms(keys, features, config.augmentation)
    branches, updated = make_recognizer(config, count_classes(variables), axis_name).apply(
        variables, features, keys, train=train, mutable=["batch_stats"]
    )
    return branches, updated.get("batch_stats", {})


class Part(NamedTuple):
    """A cut-out of each recording of a batch, for one of the sequences that the recurrences read."""

    waveforms: Float[Array, "B N"]
    """Samples in [-1, 1], valid up to `lengths`."""
    lengths: Int[Array, " B"]
    span: Span
    """Frames of the sequence that are new, and the same as in the whole recording."""


def forward_parts(
    variables: Variables, carried: Variables, parts: tuple[Part, ...], *, config: Config
) -> tuple[tuple[BranchLogits, ...], Variables]:
    """`forward` of a recording that is given part by part: the logits of what has been seen of it so far.

    Args:
      variables: the recognizer's weights and running statistics.
      carried: what the last call gave; zeros before the first, or nothing.
      parts: one for each of `receptive_fields`.
      config: features and model.

    Returns:
      Each branch's logits, and the collection CARRIED for the next call.
    """
    found = [extract_features(part.waveforms, part.lengths, config.features) for part in parts]
    together = config.model.spectrogram_branch != "lstm"
    sources = [found[0 if together else index] for index in range(len(config.features.spectrograms))]
    features = Features(
        found[-1].mfcc,
        found[-1].mfcc_lengths,
        tuple(source.spectrograms[index] for index, source in enumerate(sources)),
        tuple(source.spectrogram_lengths[index] for index, source in enumerate(sources)),
    )
    branches, updated = make_recognizer(config, count_classes(variables)).apply(
        {**variables, CARRIED: carried},
        features,
        spans=tuple(part.span for part in parts),
        train=False,
        mutable=[CARRIED],
    )
    return branches, updated[CARRIED]


def _initialize(key: jax.Array, config: Config, classes: int) -> Variables:
    # Weights have the shapes that the features ask for, whatever is in them.
    features = blank_features(max(config.features.sample_rate, shortest_recording(config)), config.features)
    return dict(make_recognizer(config, classes).init(key, features, train=False))


def _initializer(compiler_options: dict[str, Any] | None = None) -> Any:
    """`_initialize`, traced once for each of its configs."""
    return jax.jit(_initialize, static_argnames=("config", "classes"), compiler_options=compiler_options)


def _what_shapes(config: Config) -> Config:
    """Runs that differ elsewhere share what was traced, and the program."""
    return Config(features=config.features, model=config.model)


def initialize(key: jax.Array, config: Config, classes: int) -> Variables:
    """New weights, drawn as PyTorch draws them; the same for the same key on any machine."""
    # Drawing the numbers is quick and compiling the drawing is not: on a CPU most of it is LLVM's optimizer.
    hurry = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    variables: Variables = _initializer(hurry)(key, config=_what_shapes(config), classes=classes)
    return variables


def variable_shapes(config: Config, classes: int) -> Variables:
    """Shapes and types of the variables; nothing is computed."""
    shapes: Variables = _initializer().eval_shape(jax.random.key(0), config=_what_shapes(config), classes=classes)
    return shapes


def count_classes(variables: Variables) -> int:
    """Number of emotions that the weights are made for."""
    branch = next(iter(variables["params"].values()))
    return int(branch["classifier"]["bias"].shape[-1])


def scale_logits(variables: Variables, factor: float) -> Variables:
    """Variables of which all logits are `factor` times as large: they are linear in the classifiers' weights."""
    params = {
        name: {**branch, "classifier": jax.tree.map(lambda leaf: factor * leaf, branch["classifier"])}
        for name, branch in variables["params"].items()
    }
    return {**variables, "params": params}


def count_parameters(variables: Variables) -> int:
    """Number of trained values."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))

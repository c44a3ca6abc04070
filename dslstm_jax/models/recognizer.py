"""The recognizer: the branches a config names, and the average of their logits."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dslstm_jax.config import RecognizerConfig
from dslstm_jax.features import Features, blank_features, extract_features
from dslstm_jax.features.trimming import trim
from dslstm_jax.models.branches import (
    Branch,
    CNNLSTMBranch,
    DSLSTMBranch,
    MFCCBranch,
    Read,
    Sequences,
    States,
    shortest_recording,
)
from dslstm_jax.models.params import Normalization
from dslstm_jax.models.pooling import Summary
from dslstm_jax.ops.masking import length_mask

T = TypeVar("T")

Variables = dict[str, Any]
"""Linen's collections `params` and `batch_stats`."""

SPECTROGRAM_WEIGHT = 0.5
"""p in logits = p logits_spectrogram + (1 - p) logits_mfcc, where both branches exist (Wang et al. 2020)."""


class BranchLogits(NamedTuple):
    """One branch's answer, and its share p in the average."""

    logits: Float[Array, "B C"]
    weight: float


class Recognizer(nn.Module):
    """Features to the logits of each branch; a row without MFCC frames is padding and disturbs no other row.

    It works in three stages: `encode`, `recur`, `classify`. Streams call them one by one, all others call the
    recognizer. With model.dtype bfloat16, products and activations are bfloat16; weights, statistics, states, logits
    float32.
    """

    config: RecognizerConfig
    classes: int
    axis_name: str | None = None
    """The devices over which batch statistics are taken."""

    def setup(self) -> None:
        config, model = self.config, self.config.model
        if model.spectrogram_branch != "none":
            kind = DSLSTMBranch if model.spectrogram_branch == "ds_lstm" else CNNLSTMBranch
            self.spectrogram_branch = kind(self.classes, config, self.axis_name)
            for index in range(len(config.features.spectrograms)):
                setattr(self, f"spectrogram_{index}_normalization", Normalization(model.normalize, self.axis_name))
        if model.mfcc_branch:
            self.mfcc_branch = MFCCBranch(self.classes, config, self.axis_name)
            self.mfcc_normalization = Normalization(model.normalize, self.axis_name)

    def __call__(
        self, features: Features, keys: Key[Array, " B"] | None = None, *, train: bool
    ) -> tuple[BranchLogits, ...]:
        """The branches' logits.

        Args:
          features: of the recordings.
          keys: one for each utterance, for dropout; None: no dropout.
          train: use and update the batch's statistics.
        """
        found = self.recur(self.encode(features, train=train), keys=keys, train=train)
        return self.classify([read.summary for read in found])

    def encode(self, features: Features, *, train: bool = False) -> tuple[Sequences, ...]:
        """What the recurrences read: of the spectrograms first, then of the MFCC."""
        features = self._normalize(features, train)
        return tuple(sequence for branch in self._branches for sequence in branch.encode(features, train))

    def recur(
        self,
        sequences: Sequence[Sequences],
        states: Sequence[States] | None = None,
        keys: Key[Array, " B"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Read, ...]:
        """Reads the sequences, from their first frame or on from `states`, where an earlier part of them ended."""
        begun = [None] * len(sequences) if states is None else states
        found: list[Read] = []
        for branch, own, before in zip(
            self._branches, self._by_branch(sequences), self._by_branch(begun), strict=True
        ):
            found += branch.recur(own, before, keys, train)
        return tuple(found)

    def classify(self, summaries: Sequence[Summary]) -> tuple[BranchLogits, ...]:
        """The branches' logits, of the summaries of what was read."""
        both = len(self._branches) == 2
        weights = (SPECTROGRAM_WEIGHT, 1 - SPECTROGRAM_WEIGHT) if both else (1.0,)
        return tuple(
            BranchLogits(branch.classify(own), weight)
            for branch, own, weight in zip(self._branches, self._by_branch(summaries), weights, strict=True)
        )

    @property
    def _branches(self) -> tuple[Branch, ...]:
        model = self.config.model
        spectrogram = (self.spectrogram_branch,) if model.spectrogram_branch != "none" else ()
        return (*spectrogram, *((self.mfcc_branch,) if model.mfcc_branch else ()))

    def _by_branch(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        """One item a sequence, dealt to the branches that read them: the MFCC's is the last one."""
        of_spectrograms = len(items) - self.config.model.mfcc_branch
        parts = (items[:of_spectrograms], items[of_spectrograms:])
        return (part for part in parts if part)

    def _normalize(self, features: Features, train: bool) -> Features:
        """Mean 0 and deviation 1, as model.normalize says."""

        def of(x: Float[Array, "B T F"], lengths: Int[Array, " B"], name: str) -> Float[Array, "B T F"]:
            normalization = getattr(self, f"{name}_normalization")
            normalized: Float[Array, "B T F"] = normalization(x, length_mask(lengths, x.shape[1]), train=train)
            return normalized

        mfcc, spectrograms = features.mfcc, features.spectrograms
        if self.config.model.mfcc_branch:
            mfcc = of(mfcc, features.mfcc_lengths, "mfcc")
        if self.config.model.spectrogram_branch != "none":
            pairs = zip(spectrograms, features.spectrogram_lengths, strict=True)
            spectrograms = tuple(of(*pair, f"spectrogram_{index}") for index, pair in enumerate(pairs))
        return features._replace(mfcc=mfcc, spectrograms=spectrograms)


def features_for(waveforms: Float[Array, "B N"], lengths: Int[Array, " B"], config: RecognizerConfig) -> Features:
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
    config: RecognizerConfig,
    train: bool = False,
    keys: Key[Array, " B"] | None = None,
    axis_name: str | None = None,
) -> tuple[tuple[BranchLogits, ...], Variables]:
    """Waveforms to the branches' logits: the one way through the system for evaluation and prediction.

    The train step goes the same way, and changes waveforms and features on it (`features.augmentation`).

    Args:
      variables: the recognizer's weights and running statistics.
      waveforms: samples in [-1, 1] at config.features.sample_rate, valid up to `lengths`.
      lengths: samples of each waveform; a row of length 0 is padding.
      config: features and model.
      train: use the batch's statistics and return the updated running ones.
      keys: one for each utterance: drop units as model.dropout says. None: no dropout.
      axis_name: the devices over which the batch's statistics are taken.

    Returns:
      Each branch's logits, and the collection `batch_stats` after this batch.
    """
    features = features_for(*trim(waveforms, lengths, config.features.trim), config)
    branches, updated = Recognizer(config, count_classes(variables), axis_name).apply(
        variables, features, keys, train=train, mutable=["batch_stats"]
    )
    return branches, updated.get("batch_stats", {})


def _initialize(key: jax.Array, config: RecognizerConfig, classes: int) -> Variables:
    # Weights have the shapes that the features ask for, whatever is in them.
    features = blank_features(max(config.features.sample_rate, shortest_recording(config)), config.features)
    return dict(Recognizer(config, classes).init(key, features, train=False))


def _initializer(compiler_options: dict[str, Any] | None = None) -> Any:
    """`_initialize`, traced once for each of its configs."""
    return jax.jit(_initialize, static_argnames=("config", "classes"), compiler_options=compiler_options)


def initialize(key: jax.Array, config: RecognizerConfig, classes: int) -> Variables:
    """New weights, drawn as PyTorch draws them; the same for the same key on any machine."""
    # Drawing the numbers is quick and compiling the drawing is not: on a CPU most of it is LLVM's optimizer.
    hurry = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    variables: Variables = _initializer(hurry)(key, config=config, classes=classes)
    return variables


def variable_shapes(config: RecognizerConfig, classes: int) -> Variables:
    """Shapes and types of the variables; nothing is computed."""
    shapes: Variables = _initializer().eval_shape(jax.random.key(0), config=config, classes=classes)
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

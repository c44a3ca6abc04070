"""The paper's branches: each makes sequences of its features, reads them by recurrences, and gives logits."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Bool, Float, Int, Key

from dslstm_jax.config import ModelConfig, RecognizerConfig
from dslstm_jax.errors import ConfigError
from dslstm_jax.features import Features
from dslstm_jax.features.augmentation import Purpose
from dslstm_jax.models.cnn import CNN
from dslstm_jax.models.params import DSLSTMLayer, Linear, LSTMLayer
from dslstm_jax.models.pooling import Pooling, Summary, to_vector
from dslstm_jax.ops.convolution import smallest_size
from dslstm_jax.ops.masking import Frames, length_mask, reverse_frames
from dslstm_jax.recurrence.lstm import lstm_stack
from dslstm_jax.recurrence.lstm_cell import LSTMState

SPECTROGRAM_PLACES = 100
"""Dropout tells this many layers of the MFCC's LSTM, and of each spectrogram's, apart."""

ALIGNED = 4
"""The first frame that `align` makes needs so many of x."""

Recurrence = Callable[..., Float[Array, "B T H"]]
"""Of one or more sequences."""

States = tuple[LSTMState, ...]
"""Of all layers of a recurrence, from below; nothing where it runs both ways, which no recording can go on from."""


class Sequences(NamedTuple):
    """What one recurrence reads frame by frame: one sequence, or the two of the DS-LSTM."""

    values: tuple[Float[Array, "B T F"], ...]
    mask: Bool[Array, "B T"]
    """True at the frames that are read."""

    def within(self, first: Int[Array, " B"], end: Int[Array, " B"]) -> "Sequences":
        """The frames from `first` until before `end` alone are read."""
        frames = jnp.arange(self.mask.shape[1])[None]
        return self._replace(mask=self.mask & (frames >= first[:, None]) & (frames < end[:, None]))


class Read(NamedTuple):
    """What a recurrence found."""

    summary: Summary
    """Of its outputs."""
    states: States
    """After the last frame."""


def shortest_recording(config: RecognizerConfig) -> int:
    """Samples of which spectrograms that are not stretched give the recurrences one frame; 0 if all are stretched."""
    samples, branch = 0, config.model.spectrogram_branch
    if branch == "none":
        return samples
    for index, (spectrogram, kernel) in enumerate(
        zip(config.features.spectrograms, config.model.kernels, strict=True)
    ):
        if not spectrogram.frames:
            frames = ALIGNED if branch == "ds_lstm" and index == 0 else 1
            for _ in config.model.channels:
                frames = smallest_size(frames, kernel[1])
            samples = max(samples, (frames - 1) * spectrogram.hop_length)
    return samples


def align(
    x: Float[Array, "B T1 X"], x_frames: Frames, y: Float[Array, "B T2 Y"], y_frames: Frames
) -> tuple[Float[Array, "B T3 X"], Float[Array, "B T3 Y"], Frames]:
    """Brings the two CNNs' sequences to one frame rate (Wang et al. 2020), and says which frames of it are valid.

    T3 = T1 // 2 - 1; x_t is the mean of x's frames 2t, 2t + 1 and 2t + 2; y is cut to T3 frames. The same law gives
    each row's own length; where its y is shorter, so is the result.

    Raises:
      ConfigError: x is too short, or has more than two frames for one of y's.
    """
    steps = x.shape[1] // 2 - 1
    if export.is_symbolic_dim(steps):
        steps = jax.core.min_dim(steps, y.shape[1])
    elif not 1 <= steps <= y.shape[1]:
        raise ConfigError(
            f"features.spectrograms: their CNNs give {x.shape[1]} and {y.shape[1]} frames, which cannot be aligned "
            "two to one; give the first about twice the frames of the second, and at least 20"
        )
    mean = (x[:, 0 : 2 * steps : 2] + x[:, 1 : 2 * steps : 2] + x[:, 2 : 2 * steps + 1 : 2]) / 3
    return mean, y[:, :steps], x_frames.resized(lambda lengths: jnp.clip(lengths // 2 - 1, 0, y_frames.lengths))


def drop_factors(
    x: Float[Array, "B ..."], keys: Key[Array, " B"] | None, rate: float, place: int, size: int
) -> Float[Array, "B H"] | None:
    """What `drop` multiplies a layer's `size` units by, in x's type: 0 where they are dropped, else 1 / (1 - rate);
    None where nothing is dropped. `place` tells the layers of the recognizer apart."""
    if keys is None or rate == 0:
        return None
    kept = jax.vmap(
        lambda key: jax.random.bernoulli(
            jax.random.fold_in(jax.random.fold_in(key, Purpose.DROPOUT), place), 1 - rate, (size,)
        )
    )(keys)
    return jnp.where(kept, jnp.asarray(1 / (1 - rate), x.dtype), 0)


def drop(x: Float[Array, "B T H"], keys: Key[Array, " B"] | None, rate: float, place: int) -> Float[Array, "B T H"]:
    """Drops each utterance's units with probability `rate`, the same ones in all frames, and scales the others up."""
    factors = drop_factors(x, keys, rate, place, x.shape[-1])
    return x if factors is None else x * factors[:, None]


def both_ways(
    forward: Recurrence, backward: Recurrence, mask: Bool[Array, "B T"], *sequences: Float[Array, "B T F"]
) -> Float[Array, "B T 2*H"]:
    """One recurrence from the first frame to the last and one from the last to the first, side by side."""
    reverse = partial(reverse_frames, mask=mask)
    return jnp.concatenate([forward(*sequences), reverse(backward(*map(reverse, sequences)))], axis=-1)


def stack_layers(config: ModelConfig, layer: Callable[[], nn.Module]) -> dict[str, Any]:
    """A module for each layer, from below, and where both directions are read one for the way back."""
    ways = ("", "_reverse") if config.bidirectional else ("",)
    return {f"{number}{way}": layer() for number in range(config.layers) for way in ways}


def read_by_lstm(
    layers: dict[str, LSTMLayer],
    sequences: Sequences,
    states: States | None,
    keys: Key[Array, " B"] | None,
    config: ModelConfig,
    place: int,
) -> tuple[Float[Array, "B T D"], States]:
    """Runs LSTM layers from below, with dropout after each; `place` is the first layer's.

    Returns:
      The outputs of the last layer, D = H or, both ways, 2H; and the states of all.
    """
    ((x,), mask), rate = sequences, config.dropout
    run = partial(lstm_stack, mask=mask, remat_every=config.remat_every, backend=config.lstm_backend)
    if config.bidirectional:
        for layer in range(config.layers):
            weights = [layers[f"{layer}{way}"](x.shape[-1]) for way in ("", "_reverse")]
            forward, backward = ((lambda x, own=own: run([own], x)[0]) for own in weights)
            x = drop(both_ways(forward, backward, mask, x), keys, rate, place + layer)
        return x, ()
    widths = [x.shape[-1]] + [layer.hidden for layer in layers.values()]
    weights = [layer(width) for layer, width in zip(layers.values(), widths, strict=False)]
    factors = [drop_factors(x, keys, rate, place + number, size) for number, size in enumerate(widths[1:-1])]
    outputs, after = run(weights, x, initial=states, factors=factors)
    return drop(outputs, keys, rate, place + config.layers - 1), after


def read_by_ds_lstm(
    layers: dict[str, DSLSTMLayer],
    sequences: Sequences,
    states: States | None,
    keys: Key[Array, " B"] | None,
    config: ModelConfig,
    train: bool,
) -> tuple[Float[Array, "B T D"], States]:
    """Runs DS-LSTM layers from below, which all read the same y, with dropout after each; as `read_by_lstm`."""
    ((x, y), mask), after = sequences, []
    for number in range(config.layers):
        layer = partial(layers[f"{number}"], mask=mask, train=train)
        if config.bidirectional:
            back = partial(layers[f"{number}_reverse"], mask=mask, train=train)
            forward, backward = ((lambda *pair, way=way: way(*pair)[0]) for way in (layer, back))
            x = both_ways(forward, backward, mask, x, y)
        else:
            x, state = layer(x, y, initial=states[number] if states else None)
            after.append(state)
        x = drop(x, keys, config.dropout, SPECTROGRAM_PLACES + number)
    return x, tuple(after)


class _Branch(nn.Module):
    """What all branches share. Each has two methods more: `encode` makes of the features the sequences that its
    recurrences read, and `recur` reads them, on from the states that it is given, or from the beginning where these
    are None."""

    classes: int
    config: RecognizerConfig
    axis_name: str | None = None
    """The devices over which batch statistics are taken."""

    def setup(self) -> None:
        self.classifier = Linear(self.classes)

    def classify(self, summaries: Sequence[Summary]) -> Float[Array, "B C"]:
        """The logits: all vectors side by side, linear."""
        return self.classifier(jnp.concatenate([to_vector(summary) for summary in summaries], axis=-1))


class MFCCBranch(_Branch):
    """M_LSTM: LSTM over the MFCC, pooled over the valid frames, linear."""

    def setup(self) -> None:
        super().setup()
        model = self.config.model
        self.lstm = stack_layers(model, lambda: LSTMLayer(model.mfcc_hidden))
        self.pooling = Pooling(model.pooling)

    def encode(self, features: Features, train: bool) -> tuple[Sequences, ...]:  # noqa: ARG002 (no statistics here)
        mask = length_mask(features.mfcc_lengths, features.mfcc.shape[1])
        return (Sequences((features.mfcc.astype(self.config.model.dtype),), mask),)

    def recur(
        self,
        sequences: Sequence[Sequences],
        states: Sequence[States | None],
        keys: Key[Array, " B"] | None,
        train: bool,  # noqa: ARG002
    ) -> tuple[Read, ...]:
        (sequence,), (before,) = sequences, states
        x, after = read_by_lstm(self.lstm, sequence, before, keys, self.config.model, place=0)
        return (Read(self.pooling(x, sequence.mask), after),)


class _SpectrogramBranch(_Branch):
    """What the two branches over spectrograms share: a CNN of its own for each spectrogram."""

    def setup(self) -> None:
        super().setup()
        model = self.config.model
        self.cnn = [CNN(model.channels, kernel, self.axis_name, model.dtype) for kernel in model.kernels]

    def convolve(self, features: Features, train: bool) -> list[tuple[Float[Array, "B U D"], Frames]]:
        """The CNNs' outputs and which of their frames are valid, each at its own frame rate."""
        stretched = all(spectrogram.frames for spectrogram in self.config.features.spectrograms)
        return [
            cnn(spectrogram, Frames(lengths, whole=stretched), train=train)
            for cnn, spectrogram, lengths in zip(
                self.cnn, features.spectrograms, features.spectrogram_lengths, strict=True
            )
        ]


class CNNLSTMBranch(_SpectrogramBranch):
    """CNN-LSTM: an LSTM over each CNN's sequence, pooled over time; the vectors side by side, linear."""

    def setup(self) -> None:
        super().setup()
        model = self.config.model
        for index in range(len(model.kernels)):
            setattr(self, f"lstm_{index}", stack_layers(model, lambda: LSTMLayer(model.hidden)))
        self.pooling = [Pooling(model.pooling) for _ in model.kernels]

    def encode(self, features: Features, train: bool) -> tuple[Sequences, ...]:
        return tuple(Sequences((x,), _frame_mask(frames, x)) for x, frames in self.convolve(features, train))

    def recur(
        self,
        sequences: Sequence[Sequences],
        states: Sequence[States | None],
        keys: Key[Array, " B"] | None,
        train: bool,  # noqa: ARG002
    ) -> tuple[Read, ...]:
        found = []
        for index, (sequence, before) in enumerate(zip(sequences, states, strict=True)):
            layers, place = getattr(self, f"lstm_{index}"), SPECTROGRAM_PLACES * (1 + index)
            x, after = read_by_lstm(layers, sequence, before, keys, self.config.model, place)
            found.append(Read(self.pooling[index](x, sequence.mask), after))
        return tuple(found)


class DSLSTMBranch(_SpectrogramBranch):
    """M_DS-LSTM: the two sequences aligned, then DS-LSTM layers that all read the same y; pooling, linear."""

    def setup(self) -> None:
        super().setup()
        model = self.config.model
        self.ds_lstm = stack_layers(
            model, lambda: DSLSTMLayer(model.hidden, model.remat_every, self.axis_name, model.recurrent_norm)
        )
        self.pooling = Pooling(model.pooling)

    def encode(self, features: Features, train: bool) -> tuple[Sequences, ...]:
        (x, x_frames), (y, y_frames) = self.convolve(features, train)
        x, y, frames = align(x, x_frames, y, y_frames)
        return (Sequences((x, y), _frame_mask(frames, x)),)

    def recur(
        self,
        sequences: Sequence[Sequences],
        states: Sequence[States | None],
        keys: Key[Array, " B"] | None,
        train: bool,
    ) -> tuple[Read, ...]:
        (sequence,), (before,) = sequences, states
        x, after = read_by_ds_lstm(self.ds_lstm, sequence, before, keys, self.config.model, train)
        return (Read(self.pooling(x, sequence.mask), after),)


def _frame_mask(frames: Frames, x: Float[Array, "B T F"]) -> Bool[Array, "B T"]:
    return jnp.broadcast_to(frames.mask(x.shape[1]), x.shape[:2])


Branch = MFCCBranch | CNNLSTMBranch | DSLSTMBranch

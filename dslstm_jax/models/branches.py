"""The paper's branches: each reads its features and gives logits of its own."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Bool, Float, Int, Key

from dslstm_jax.config import Config, ModelConfig
from dslstm_jax.errors import ConfigError
from dslstm_jax.features.augmentation import Purpose
from dslstm_jax.models.cnn import CNN
from dslstm_jax.models.params import Carried, DSLSTMLayer, LSTMLayer, linear
from dslstm_jax.models.pooling import Pooling
from dslstm_jax.ops.convolution import smallest_size
from dslstm_jax.ops.masking import length_mask, reverse_frames
from dslstm_jax.recurrence.lstm import lstm_stack

SPECTROGRAM_PLACES = 100
"""Dropout tells this many layers of the MFCC's LSTM, and of each spectrogram's, apart."""

ALIGNED = 4
"""The first frame that `align` makes needs so many of x."""

Spectrograms = tuple[Float[Array, "B T F"], ...]
Lengths = tuple[Int[Array, " B"], ...]
Recurrence = Callable[..., Float[Array, "B T H"]]
"""Of one or more sequences."""


class Span(NamedTuple):
    """The frames of a sequence from `first` until before `end`: those that a recurrence has not read yet."""

    first: Int[Array, " B"]
    end: Int[Array, " B"]


Spans = tuple[Span, ...]
"""One for each sequence that a recurrence reads."""


def frame_mask(
    lengths: Int[Array, " B"], size: int, span: Span | None = None, whole: bool = False
) -> Bool[Array, "B T"]:
    """`length_mask`, and of its valid frames only those in the span, if there is one."""
    mask = jnp.broadcast_to(length_mask(lengths, size, whole), (lengths.shape[0], size))
    if span is None:
        return mask
    frames = jnp.arange(size)
    return mask & (frames >= span.first[:, None]) & (frames < span.end[:, None])


def shortest_recording(config: Config) -> int:
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
    x: Float[Array, "B T1 X"],
    x_lengths: Int[Array, " B"],
    y: Float[Array, "B T2 Y"],
    y_lengths: Int[Array, " B"],
) -> tuple[Float[Array, "B T3 X"], Float[Array, "B T3 Y"], Int[Array, " B"]]:
    """Brings the two CNNs' sequences to one frame rate (Wang et al. 2020), and says how many frames of it are valid.

    T3 = T1 // 2 - 1; x_t is the mean of x's frames 2t, 2t + 1 and 2t + 2; y is cut to T3 frames. The same law gives
    each row's own length; where its y is shorter, so is the result.

    Raises:
      ConfigError: x is too short, or has more than two frames for one of y's.
    """
    steps, lengths = x.shape[1] // 2 - 1, jnp.clip(x_lengths // 2 - 1, 0, y_lengths)
    if export.is_symbolic_dim(steps):
        steps = jax.core.min_dim(steps, y.shape[1])
    elif not 1 <= steps <= y.shape[1]:
        raise ConfigError(
            f"features.spectrograms: their CNNs give {x.shape[1]} and {y.shape[1]} frames, which cannot be aligned "
            "two to one; give the first about twice the frames of the second, and at least 20"
        )
    mean = (x[:, 0 : 2 * steps : 2] + x[:, 1 : 2 * steps : 2] + x[:, 2 : 2 * steps + 1 : 2]) / 3
    return mean, y[:, :steps], lengths


def drop_factors(
    x: Float[Array, "B ..."], keys: Key[Array, " B"] | None, rate: float, place: int, size: int
) -> Float[Array, "B H"] | None:
    """What `drop` multiplies a layer's `size` units by: 0 where they are dropped, else 1 / (1 - rate).

    Args:
      x: gives the type.
      keys: one for each utterance; None drops nothing.
      rate: below 1.
      place: tells the layers of the recognizer apart.
      size: number of units.

    Returns:
      The factors, the same for all frames; None where nothing is dropped.
    """
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


def lstm_layers(
    name: str,
    hidden: int,
    x: Float[Array, "B T F"],
    mask: Bool[Array, "B T"],
    keys: Key[Array, " B"] | None,
    config: ModelConfig,
    place: int,
) -> Float[Array, "B T D"]:
    """The layers from below, called `name`_0 and so on, and the dropout after each, told apart by `place` and so on.

    Returns:
      The outputs of the last one; D = H or, both ways, 2H.
    """
    rate = config.dropout
    run = partial(
        lstm_stack, mask=mask, remat_every=config.remat_every, unroll=config.unroll, backend=config.lstm_backend
    )
    if config.bidirectional:
        for layer in range(config.layers):
            weights = [LSTMLayer(hidden, name=f"{name}_{layer}{way}")(x.shape[-1]) for way in ("", "_reverse")]
            forward, backward = ((lambda x, own=own: run([own], x)[0]) for own in weights)
            x = drop(both_ways(forward, backward, mask, x), keys, rate, place + layer)
        return x
    widths = [x.shape[-1]] + [hidden] * (config.layers - 1)
    weights = [LSTMLayer(hidden, name=f"{name}_{layer}")(width) for layer, width in enumerate(widths)]
    factors = [drop_factors(x, keys, rate, place + layer, hidden) for layer in range(config.layers - 1)]
    outputs = Carried(name=f"{name}_carried")(lambda initial: run(weights, x, initial=initial, factors=factors))
    return drop(outputs, keys, rate, place + config.layers - 1)


def ds_lstm_layers(
    x: Float[Array, "B T X"],
    y: Float[Array, "B T Y"],
    mask: Bool[Array, "B T"],
    keys: Key[Array, " B"] | None,
    config: ModelConfig,
    *,
    train: bool,
    axis_name: str | None = None,
) -> Float[Array, "B T D"]:
    """The layers from below, which all read the same y, and the dropout after each; D as in `lstm_layers`."""

    def make(name: str) -> Recurrence:
        layer = DSLSTMLayer(
            config.hidden,
            remat_every=config.remat_every,
            unroll=config.unroll,
            axis_name=axis_name,
            norm=config.recurrent_norm,
            name=name,
        )
        return partial(layer, mask=mask, train=train)

    for layer in range(config.layers):
        forward = make(f"ds_lstm_{layer}")
        if config.bidirectional:
            x = both_ways(forward, make(f"ds_lstm_{layer}_reverse"), mask, x, y)
        else:
            x = forward(x, y)
        x = drop(x, keys, config.dropout, SPECTROGRAM_PLACES + layer)
    return x


def classify(classes: int, pooled: Float[Array, "B D"]) -> Float[Array, "B C"]:
    """The branch's last layer."""
    logits: Float[Array, "B C"] = linear(classes, pooled.shape[-1], "classifier")(pooled)
    return logits


class MFCCBranch(nn.Module):
    """M_LSTM: LSTM over the MFCC, pooled over the valid frames, linear."""

    classes: int
    config: ModelConfig

    @nn.compact
    def __call__(
        self, mfcc: Float[Array, "B T F"], mask: Bool[Array, "B T"], keys: Key[Array, " B"] | None = None
    ) -> Float[Array, "B C"]:
        config = self.config
        x = lstm_layers("lstm", config.mfcc_hidden, mfcc.astype(config.dtype), mask, keys, config, place=0)
        return classify(self.classes, Pooling(self.config.pooling, name="pooling")(x, mask))


class SpectrogramBranch(nn.Module):
    """What the two branches over spectrograms share: a CNN of its own for each spectrogram."""

    classes: int
    config: ModelConfig
    axis_name: str | None = None
    """The devices over which batch statistics are taken."""
    stretched: bool = False
    """Whether all frames of a valid row are valid, in all spectrograms."""

    def sequences(
        self, spectrograms: Spectrograms, lengths: Lengths, train: bool
    ) -> list[tuple[Float[Array, "B U D"], Int[Array, " B"]]]:
        """The CNNs' outputs and their lengths, each at its own frame rate."""
        cnns = [
            CNN(self.config.channels, kernel, self.axis_name, self.config.dtype, self.stretched, name=f"cnn_{index}")
            for index, kernel in enumerate(self.config.kernels)
        ]
        return [cnn(*rows, train=train) for cnn, *rows in zip(cnns, spectrograms, lengths, strict=True)]

    def mask(self, lengths: Int[Array, " B"], steps: int, spans: Spans | None, index: int) -> Bool[Array, "B T"]:
        """Of the `index`-th sequence that a recurrence reads."""
        return frame_mask(lengths, steps, None if spans is None else spans[index], self.stretched)


class CNNLSTMBranch(SpectrogramBranch):
    """CNN-LSTM: an LSTM over each CNN's sequence, pooled over time; the vectors side by side, linear."""

    @nn.compact
    def __call__(
        self,
        spectrograms: Spectrograms,
        lengths: Lengths,
        keys: Key[Array, " B"] | None = None,
        spans: Spans | None = None,
        *,
        train: bool,
    ) -> Float[Array, "B C"]:
        pooled, config = [], self.config
        for index, (x, valid) in enumerate(self.sequences(spectrograms, lengths, train)):
            mask = self.mask(valid, x.shape[1], spans, index)
            place = SPECTROGRAM_PLACES * (1 + index)
            x = lstm_layers(f"lstm_{index}", config.hidden, x, mask, keys, config, place)
            pooled.append(Pooling(config.pooling, name=f"pooling_{index}")(x, mask))
        return classify(self.classes, jnp.concatenate(pooled, axis=-1))


class DSLSTMBranch(SpectrogramBranch):
    """M_DS-LSTM: the two sequences aligned, then DS-LSTM layers that all read the same y; pooling, linear."""

    @nn.compact
    def __call__(
        self,
        spectrograms: Spectrograms,
        lengths: Lengths,
        keys: Key[Array, " B"] | None = None,
        spans: Spans | None = None,
        *,
        train: bool,
    ) -> Float[Array, "B C"]:
        (x, x_lengths), (y, y_lengths) = self.sequences(spectrograms, lengths, train)
        x, y, valid = align(x, x_lengths, y, y_lengths)
        mask = self.mask(valid, x.shape[1], spans, 0)
        x = ds_lstm_layers(x, y, mask, keys, self.config, train=train, axis_name=self.axis_name)
        return classify(self.classes, Pooling(self.config.pooling, name="pooling")(x, mask))

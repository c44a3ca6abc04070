"""The paper's branches: each reads its features and gives logits of its own."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dslstm_jax.errors import ConfigError
from dslstm_jax.masking import masked_mean
from dslstm_jax.models.cnn import CNN
from dslstm_jax.models.layers import DSLSTMLayer, LSTMLayer, linear


def align(
    x: Float[Array, "B T1 X"], y: Float[Array, "B T2 Y"]
) -> tuple[Float[Array, "B T3 X"], Float[Array, "B T3 Y"]]:
    """Brings the two CNNs' sequences to one frame rate (Wang et al. 2020).

    T3 = T1 // 2 - 1; x_t is the mean of x's frames 2t, 2t + 1 and 2t + 2; y is cut to T3 frames.

    Raises:
      ConfigError: x is too short, or has more than two frames for one of y's.
    """
    steps = x.shape[1] // 2 - 1
    if not 1 <= steps <= y.shape[1]:
        raise ConfigError(
            f"features.spectrograms: their CNNs give {x.shape[1]} and {y.shape[1]} frames, which cannot be aligned "
            "two to one; give the first about twice the frames of the second, and at least 20"
        )
    mean = (x[:, 0 : 2 * steps : 2] + x[:, 1 : 2 * steps : 2] + x[:, 2 : 2 * steps + 1 : 2]) / 3
    return mean, y[:, :steps]


def every_frame(valid: Bool[Array, " B"], steps: int) -> Bool[Array, "B T"]:
    """The mask of stretched sequences: all frames of the valid rows."""
    return jnp.broadcast_to(valid[:, None], (valid.shape[0], steps))


class MFCCBranch(nn.Module):
    """M_LSTM: LSTM over the MFCC, mean over the valid frames, linear."""

    classes: int
    hidden: int
    layers: int

    @nn.compact
    def __call__(self, mfcc: Float[Array, "B T F"], mask: Bool[Array, "B T"]) -> Float[Array, "B C"]:
        x = mfcc
        for layer in range(self.layers):
            x = LSTMLayer(self.hidden, name=f"lstm_{layer}")(x, mask)
        return linear(self.classes, self.hidden, "classifier")(masked_mean(x, mask))


class SpectrogramBranch(nn.Module):
    """What the two branches over spectrograms share: a CNN of its own for each spectrogram."""

    classes: int
    channels: tuple[int, ...]
    kernels: tuple[tuple[int, int], ...]
    hidden: int
    layers: int

    def sequences(
        self, spectrograms: tuple[Float[Array, "B T F"], ...], valid: Bool[Array, " B"], train: bool
    ) -> list[Float[Array, "B U D"]]:
        """The CNNs' outputs, each at its own frame rate."""
        return [
            CNN(self.channels, kernel, name=f"cnn_{index}")(spectrogram, valid, train=train)
            for index, (spectrogram, kernel) in enumerate(zip(spectrograms, self.kernels, strict=True))
        ]


class CNNLSTMBranch(SpectrogramBranch):
    """CNN-LSTM: an LSTM over each CNN's sequence and its mean over time; the means side by side, linear."""

    @nn.compact
    def __call__(
        self, spectrograms: tuple[Float[Array, "B T F"], ...], valid: Bool[Array, " B"], *, train: bool
    ) -> Float[Array, "B C"]:
        means = []
        for index, x in enumerate(self.sequences(spectrograms, valid, train)):
            mask = every_frame(valid, x.shape[1])
            for layer in range(self.layers):
                x = LSTMLayer(self.hidden, name=f"lstm_{index}_{layer}")(x, mask)
            means.append(masked_mean(x, mask))
        return linear(self.classes, len(means) * self.hidden, "classifier")(jnp.concatenate(means, axis=-1))


class DSLSTMBranch(SpectrogramBranch):
    """M_DS-LSTM: the two sequences aligned, then DS-LSTM layers that all read the same y; mean over time, linear."""

    @nn.compact
    def __call__(
        self, spectrograms: tuple[Float[Array, "B T F"], ...], valid: Bool[Array, " B"], *, train: bool
    ) -> Float[Array, "B C"]:
        x, y = align(*self.sequences(spectrograms, valid, train))
        mask = every_frame(valid, x.shape[1])
        for layer in range(self.layers):
            x = DSLSTMLayer(self.hidden, name=f"ds_lstm_{layer}")(x, y, mask, train=train)
        return linear(self.classes, self.hidden, "classifier")(masked_mean(x, mask))

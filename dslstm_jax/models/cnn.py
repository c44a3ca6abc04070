"""The CNN over one spectrogram: twice convolution, batch norm, ReLU, max-pool (Wang et al. 2020, figure 2)."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from dslstm_jax.errors import ConfigError
from dslstm_jax.models.layers import BatchNorm, torch_uniform


def max_pool_2x2(x: Float[Array, "B T F C"]) -> Float[Array, "B U G C"]:
    """Maximum over 2 x 2 positions, stride 2; an odd last row or column is left out, as in PyTorch.

    As three maxima of slices: the gradients of reduce_window and of a maximum over an axis are slow on a CPU.
    """
    batch, time, frequency, channels = x.shape
    even = x[:, : time // 2 * 2, : frequency // 2 * 2].reshape(batch, time // 2, 2, frequency // 2, 2, channels)
    first = jnp.maximum(even[:, :, 0, :, 0], even[:, :, 0, :, 1])
    return jnp.maximum(first, jnp.maximum(even[:, :, 1, :, 0], even[:, :, 1, :, 1]))


class Convolution(nn.Module):
    """Convolution with stride 1 and PyTorch's symmetric padding floor((k - 1) / 2)."""

    channels: int
    kernel: tuple[int, int]
    """(frequency, time)"""

    @nn.compact
    def __call__(self, x: Float[Array, "B T F C"]) -> Float[Array, "B U G D"]:
        frequency, time = self.kernel
        initializer = torch_uniform(x.shape[-1] * frequency * time)
        kernel = self.param("kernel", initializer, (time, frequency, x.shape[-1], self.channels))
        bias = self.param("bias", initializer, (self.channels,))
        padding = [((size - 1) // 2, (size - 1) // 2) for size in (time, frequency)]
        return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias


class CNN(nn.Module):
    """Spectrogram to a sequence of feature vectors, one for each four frames or so."""

    channels: tuple[int, ...]
    kernel: tuple[int, int]
    """(frequency, time)"""

    @nn.compact
    def __call__(
        self, spectrogram: Float[Array, "B T F"], valid: Bool[Array, " B"], *, train: bool
    ) -> Float[Array, "B U D"]:
        """Convolves the spectrograms of the valid rows.

        Returns:
          Channels and frequency flattened into one vector a frame, channel-major (as in the authors' code).

        Raises:
          ConfigError: the spectrogram is too small for so many layers.
        """
        x = spectrogram[..., None]
        for layer, channels in enumerate(self.channels):
            x = Convolution(channels, self.kernel, name=f"convolution_{layer}")(x)
            x = BatchNorm(name=f"batch_norm_{layer}")(x, valid, train=train)
            x = max_pool_2x2(nn.relu(x))
        if 0 in x.shape:
            size = " frames of ".join(map(str, spectrogram.shape[1:]))
            raise ConfigError(f"features.spectrograms: {size} bands are too few for {len(self.channels)} CNN layers")
        return x.swapaxes(2, 3).reshape(*x.shape[:2], -1)

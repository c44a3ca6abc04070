"""The CNN over one spectrogram: twice convolution, batch norm, ReLU, max-pool (Wang et al. 2020, figure 2)."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dslstm_jax.errors import ConfigError
from dslstm_jax.models.params import BatchNorm, torch_uniform
from dslstm_jax.ops.convolution import block_size, convolution_block
from dslstm_jax.ops.masking import Frames


class Convolution(nn.Module):
    """Owns the weights of a convolution."""

    channels: int
    kernel: tuple[int, int]
    """(frequency, time)"""

    @nn.compact
    def __call__(self, from_channels: int) -> tuple[Float[Array, "t f C D"], Float[Array, " D"]]:
        frequency, time = self.kernel
        initializer = torch_uniform(from_channels * frequency * time)
        kernel = self.param("kernel", initializer, (time, frequency, from_channels, self.channels))
        return kernel, self.param("bias", initializer, (self.channels,))


class CNN(nn.Module):
    """Spectrogram to a sequence of feature vectors, one for each four frames or so."""

    channels: tuple[int, ...]
    kernel: tuple[int, int]
    """(frequency, time)"""
    axis_name: str | None = None
    """The devices over which batch statistics are taken."""
    dtype: str = "float32"
    """Of the layers' outputs."""

    @nn.compact
    def __call__(
        self, spectrogram: Float[Array, "B T F"], frames: Frames, *, train: bool
    ) -> tuple[Float[Array, "B U D"], Frames]:
        """Convolves the valid frames of each row; `convolution_block` says more.

        Returns:
          Channels and frequency flattened into one vector a frame, channel-major (as in the authors' code); and which
          frames of it are valid: `block_size` of the lengths for each layer.

        Raises:
          ConfigError: the spectrogram is too small for so many layers.
        """
        time, frequency = spectrogram.shape[1:]
        x = spectrogram[..., None]
        for layer, channels in enumerate(self.channels):
            time, frequency = block_size(time, self.kernel[1]), block_size(frequency, self.kernel[0])
            if time < 1 or frequency < 1:
                size = " frames of ".join(map(str, spectrogram.shape[1:]))
                raise ConfigError(
                    f"features.spectrograms: {size} bands are too few for {len(self.channels)} CNN layers"
                )
            kernel, bias = Convolution(channels, self.kernel, name=f"convolution_{layer}")(x.shape[-1])
            scale, shift, running = BatchNorm(name=f"batch_norm_{layer}")(channels)
            x, statistics = convolution_block(
                x,
                frames,
                kernel,
                bias,
                scale,
                shift,
                running.value,
                train=train,
                axis_name=self.axis_name,
                dtype=self.dtype,
            )
            running.update(statistics)
            frames = frames.resized(partial(_block_lengths, kernel=self.kernel[1]))
        return x.swapaxes(2, 3).reshape(*x.shape[:2], -1), frames


def _block_lengths(lengths: Int[Array, " B"], kernel: int) -> Int[Array, " B"]:
    return jnp.maximum(block_size(lengths, kernel), 0)

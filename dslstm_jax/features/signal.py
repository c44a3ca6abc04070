"""Framing, windows, power spectra, mel filters and the DCT: the parts that both features are made of.

Constants are made in numpy float64 while tracing and baked into the compiled program as float32.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jaxtyping import Array, Bool, Float, Int

from dslstm_jax.ops.masking import length_mask, zero_padding

INT16_SCALE = 32768.0
"""The paper's features take 16-bit sample values; our waveforms are in [-1, 1]."""
CHUNK = 32_768
"""Values of the frames that a CPU takes at once, about as many as its cache holds with what is made of them."""
BANDS = 32
"""Neighboring filters that a CPU applies in one product."""


def frame(x: Float[Array, "B N"], frame_length: int, hop_length: int, frames: int) -> Float[Array, "B T L"]:
    """Overlapping frames: `out[:, t] = x[:, t * hop_length : t * hop_length + frame_length]`.

    Made of a few strided slices of blocks rather than a gather, which is slow on every device. Zeros are added
    where x ends before the last frame does.
    """
    block = math.gcd(frame_length, hop_length)
    step, width = hop_length // block, frame_length // block
    blocks = (frames - 1) * step + width
    x = jnp.pad(x, ((0, 0), (0, max(0, blocks * block - x.shape[1]))))[:, : blocks * block]
    x = x.reshape(x.shape[0], blocks, block)
    last = (frames - 1) * step + 1
    return jnp.concatenate([x[:, i : i + last : step] for i in range(width)], axis=-1)


class Framing(NamedTuple):
    """Where the frames of a padded batch lie; all static."""

    frame_length: int
    hop_length: int
    frames: int
    """Of each row, valid or not."""
    before: int = 0
    """Zeros before the first sample, where the first frame begins; as many follow the last sample."""


OfFrames = Callable[[Float[Array, "B T L"]], Float[Array, "B T F"]]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))  # reverse mode needs to know how long a loop is
def over_frames(
    function: OfFrames, framing: Framing, waveforms: Float[Array, "B N"], lengths: Int[Array, " B"]
) -> Float[Array, "B T F"]:
    """A function of each frame by itself, over all frames of a padded batch.

    A CPU takes some frames after the others, which stay in its cache, and stops where all waveforms have ended. Other
    devices take all at once, and so does every derivative.

    Args:
      function: of frames of 16-bit sample values, to a row of values for each.
      framing: the frames.
      waveforms: samples in [-1, 1], valid up to `lengths`; what lies behind counts as 0.
      lengths: samples of each waveform.

    Returns:
      The function's values; at frames that begin behind their waveform's end they may be 0 instead.
    """
    at_once, in_turn = (partial(way, function, framing) for way in (_at_once, _in_turn))
    if export.is_symbolic_dim(framing.frames):
        return at_once(waveforms, lengths)
    values: Float[Array, "B T F"] = lax.platform_dependent(waveforms, lengths, cpu=in_turn, default=at_once)
    return values


@over_frames.defjvp
def _(function: OfFrames, framing: Framing, primals: Any, tangents: Any) -> Any:
    return jax.jvp(partial(_at_once, function, framing), primals, tangents)


def _at_once(
    function: OfFrames, framing: Framing, waveforms: Float[Array, "B N"], lengths: Int[Array, " B"]
) -> Float[Array, "B T F"]:
    samples = zero_padding(waveforms, length_mask(lengths, waveforms.shape[1])) * INT16_SCALE
    samples = jnp.pad(samples, ((0, 0), (framing.before, framing.before)))
    return function(frame(samples, framing.frame_length, framing.hop_length, framing.frames))


def _in_turn(
    function: OfFrames, framing: Framing, waveforms: Float[Array, "B N"], lengths: Int[Array, " B"]
) -> Float[Array, "B T F"]:
    frame_length, hop_length, frames, before = framing
    chunk = min(frames, max(1, CHUNK // frame_length))
    size = (chunk - 1) * hop_length + frame_length
    waveforms = jnp.pad(waveforms, ((0, 0), (0, max(0, size - waveforms.shape[1]))))

    def of_chunk(first: Int[Array, ""]) -> Float[Array, "B C F"]:
        begin = first * hop_length - before
        within = jnp.clip(begin, 0, waveforms.shape[1] - size)
        samples = lax.dynamic_slice_in_dim(waveforms, within, size, axis=1)
        samples = zero_padding(samples, length_mask(lengths - within, size)) * INT16_SCALE
        if before:  # move them to where they are in the chunk
            around = jnp.zeros((samples.shape[0], before + size + before), samples.dtype)
            samples = lax.dynamic_update_slice_in_dim(around, samples, before + within - begin, axis=1)
            samples = samples[:, before : before + size]
        return function(frame(samples, frame_length, hop_length, chunk))

    chunks, valid_chunks = -(-frames // chunk), -(-(lengths.max(initial=0) + before) // (chunk * hop_length))

    def unfinished(state: tuple[Int[Array, ""], Float[Array, "B T F"]]) -> Bool[Array, ""]:
        return (state[0] < chunks) & (state[0] < valid_chunks)

    def take(state: tuple[Int[Array, ""], Float[Array, "B T F"]]) -> tuple[Int[Array, ""], Float[Array, "B T F"]]:
        index, values = state
        first = jnp.minimum(index * chunk, frames - chunk)  # the last chunk overlaps the one before
        return index + 1, lax.dynamic_update_slice_in_dim(values, of_chunk(first), first, axis=1)

    shape = jax.eval_shape(of_chunk, jnp.int32(0))
    values = jnp.zeros((shape.shape[0], frames, shape.shape[2]), shape.dtype)
    return lax.while_loop(unfinished, take, (jnp.int32(0), values))[1]


def power_spectrum(frames: Float[Array, "B T L"], n_fft: int) -> Float[Array, "B T K"]:
    """|FFT|^2 at the n_fft // 2 + 1 frequencies 0..rate/2; frames shorter than n_fft are zero-padded at the end."""
    spectrum = jnp.fft.rfft(frames, n=n_fft)
    return spectrum.real**2 + spectrum.imag**2


def project(values: Float[Array, "B T K"], matrix: np.ndarray) -> Float[Array, "B T M"]:
    """values @ matrix [K, M] in full float32, also where a device's default product is coarser."""
    return jnp.matmul(values, matrix.astype(np.float32).astype(values.dtype), precision=lax.Precision.HIGHEST)


def filter_bank(power: Float[Array, "B T K"], filters: np.ndarray) -> Float[Array, "B T M"]:
    """`project(power, filters)` for filters [K, M] that are triangles: a CPU leaves out most of their zeros."""

    def in_blocks(power: Float[Array, "B T K"]) -> Float[Array, "B T M"]:
        outputs = []
        for block in np.array_split(filters, -(-filters.shape[1] // BANDS), axis=1):
            heard = np.flatnonzero(block.any(axis=1))
            band = slice(heard.min(initial=len(filters)), heard.max(initial=-1) + 1)
            outputs.append(project(power[..., band], block[band]))
        return jnp.concatenate(outputs, axis=-1)

    mel: Float[Array, "B T M"] = lax.platform_dependent(
        power, cpu=in_blocks, default=partial(project, matrix=filters)
    )
    return mel


def hann_window(size: int) -> np.ndarray:
    """Periodic Hann window, as in librosa.stft. [size]"""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def hamming_window(size: int) -> np.ndarray:
    """Symmetric Hamming window (HTK book, section 5.2). [size]"""
    return 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(size) / (size - 1))


def _slaney_mel_to_hz(mel: np.ndarray) -> np.ndarray:
    linear = mel * (200 / 3)
    return np.where(mel < 15, linear, 1000 * np.exp((mel - 15) * (np.log(6.4) / 27)))


def _slaney_hz_to_mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + np.log(hertz / 1000) * 27 / np.log(6.4)


def slaney_mel_filters(sample_rate: int, n_fft: int, bands: int) -> np.ndarray:
    """librosa.filters.mel with its defaults: Slaney's mel scale, triangles linear in Hz, unit area. [K, bands]"""
    edges = _slaney_mel_to_hz(np.linspace(0, _slaney_hz_to_mel(sample_rate / 2), bands + 2))
    hertz = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    rising = (hertz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])


def htk_mel_filters(sample_rate: int, n_fft: int, bands: int) -> np.ndarray:
    """HTK's filter bank (HTK book, section 5.4): triangles equally spaced and linear in mel. [K, bands]"""
    hertz = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    mel = 1127 * np.log1p(hertz / 700)
    edges = np.linspace(0, mel[-1], bands + 2)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling))


def cepstral_matrix(bands: int, cepstra: int, lifter: int) -> np.ndarray:
    """DCT-II rows 1..cepstra and HTK's sinusoidal lifter (HTK book, section 5.6), as one matrix. [bands, cepstra]"""
    order = np.arange(1, cepstra + 1)
    cosines = np.cos(np.pi * (np.arange(bands)[:, None] + 0.5) * order / bands)
    return np.sqrt(2 / bands) * cosines * (1 + lifter / 2 * np.sin(np.pi * order / lifter))

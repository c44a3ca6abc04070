"""Framing, windows, power spectra, mel filters and the DCT: the parts that both features are made of.

Constants are made in numpy float64 while tracing and baked into the compiled program as float32.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

INT16_SCALE = 32768.0
"""The paper's features take 16-bit sample values; our waveforms are in [-1, 1]."""


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


def power_spectrum(frames: Float[Array, "B T L"], n_fft: int) -> Float[Array, "B T K"]:
    """|FFT|^2 at the n_fft // 2 + 1 frequencies 0..rate/2; frames shorter than n_fft are zero-padded at the end."""
    spectrum = jnp.fft.rfft(frames, n=n_fft)
    return spectrum.real**2 + spectrum.imag**2


def project(values: Float[Array, "B T K"], matrix: np.ndarray) -> Float[Array, "B T M"]:
    """values @ matrix [K, M] in full float32, also where a device's default product is coarser."""
    return jnp.matmul(values, matrix.astype(np.float32), precision=lax.Precision.HIGHEST)


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

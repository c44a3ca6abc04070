"""Mel-spectrograms against librosa, the stretch against PyTorch, and the edges of both."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_arrays import SPEECH, SYNTHETIC, golden

from dslstm_jax.config import SPECTROGRAM_256, SPECTROGRAM_512, SPECTROGRAM_1024
from dslstm_jax.features import mel_power, mel_spectrogram, stretch
from dslstm_jax.features.mel import stretch_indices
from dslstm_jax.features.signal import slaney_mel_filters

RESOLUTIONS = [SPECTROGRAM_256, SPECTROGRAM_512, SPECTROGRAM_1024]
by_n_fft = pytest.mark.parametrize("config", RESOLUTIONS, ids=lambda config: str(config.n_fft))


def as_batch(samples: np.ndarray) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(samples[None] / np.float32(32768)), jnp.array([len(samples)])


@by_n_fft
@pytest.mark.parametrize("name", SPEECH + SYNTHETIC)
def test_equals_librosa(name, config):
    arrays = golden(f"features_{name}")
    batch = as_batch(arrays["samples_int16"])
    power, counts = jax.jit(partial(mel_power, config=config))(*batch)
    decibels, _ = jax.jit(partial(mel_spectrogram, config=config))(*batch)
    expected, expected_decibels = (arrays[f"mel_{kind}_{config.n_fft}"].T for kind in ("power", "db"))
    assert power.shape[1:] == expected.shape
    assert counts[0] == len(expected)
    heard = expected > 1e-6 * expected.max()
    relative = (np.abs(power[0] - expected) / expected)[heard].max()
    difference = np.abs(decibels[0] - expected_decibels)[heard].max()
    print(f"{name} n_fft {config.n_fft}: mel power against librosa {relative:.1e} relative, {difference:.1e} dB")
    assert relative <= 1e-4
    assert difference <= 1e-3


@by_n_fft
@pytest.mark.parametrize("name", SPEECH + SYNTHETIC)
def test_stretches_as_torch_does(name, config):
    arrays = golden(f"features_{name}")
    before = arrays[f"mel_db_{config.n_fft}"].T
    after = stretch(jnp.asarray(before)[None], jnp.array([len(before)]), config.frames)
    np.testing.assert_array_equal(after[0], arrays[f"mel_db_resized_{config.n_fft}"].T)


@pytest.mark.parametrize("frames", [120, 230, 460])
def test_stretch_indices_are_exact_at_every_length(frames):
    counts = np.arange(1, 8000)
    scale = counts.astype(np.float32) / np.float32(frames)
    expected = np.minimum(np.floor(np.arange(frames, dtype=np.float32) * scale[:, None]), counts[:, None] - 1)
    found = jax.jit(stretch_indices, static_argnums=1)(jnp.asarray(counts), frames)
    np.testing.assert_array_equal(found, expected)
    integer = np.arange(frames) * counts[:, None] // frames
    assert (expected != integer).any(), "where integer arithmetic would differ is what this test is for"


@by_n_fft
def test_filters_equal_librosa(config):
    expected = golden("features_03a01Fa")[f"librosa_melfb_slaney_{config.n_fft}"]
    found = slaney_mel_filters(16_000, config.n_fft, config.mel_bands)
    np.testing.assert_allclose(found.T, expected, atol=1e-8)


@by_n_fft
@pytest.mark.parametrize("samples", [1, 255, 256, 257, 511, 512, 513, 1024, 1025])
def test_counts_frames_at_the_edges(config, samples):
    values, counts = mel_spectrogram(jnp.full((1, 1100), 0.1), jnp.array([samples]), config)
    assert counts[0] == 1 + samples // config.hop_length
    assert bool(jnp.isfinite(values).all())
    np.testing.assert_allclose(values[0, int(counts[0]) :], -100)


def test_a_row_of_no_samples_has_no_frames():
    values, counts = mel_spectrogram(jnp.full((1, 1000), jnp.nan), jnp.array([0]), SPECTROGRAM_512)
    assert counts[0] == 0
    np.testing.assert_allclose(values, -100)
    np.testing.assert_allclose(stretch(values, counts, 230), -100)


def test_half_a_minute():
    values, counts = mel_spectrogram(jnp.zeros((1, 480_000)), jnp.array([480_000]), SPECTROGRAM_1024)
    assert counts[0] == values.shape[1] == 1 + 480_000 // 512

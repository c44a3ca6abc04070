"""MFCC_E_D_A against openSMILE, and at the edges."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_arrays import SPEECH, SYNTHETIC, golden

from dslstm_jax.config import MfccConfig
from dslstm_jax.features import mfcc

compute = jax.jit(partial(mfcc, config=MfccConfig()))


def as_batch(samples: np.ndarray) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(samples[None] / np.float32(32768)), jnp.array([len(samples)])


@pytest.mark.parametrize("name", SPEECH + SYNTHETIC)
def test_equals_opensmile(name, record_property):
    arrays = golden(f"features_{name}")
    values, counts = compute(*as_batch(arrays["samples_int16"]))
    expected = arrays["mfcc12_e_d_a"]
    assert values.shape[1:] == expected.shape
    assert counts[0] == len(expected)
    difference = np.abs(values[0] - expected).max(axis=0)
    print(f"{name}: MFCC against openSMILE, max abs difference {difference.max():.1e}, ", end="")
    print(f"cepstra {difference[:12].max():.1e}, energy {difference[12]:.1e}, rest {difference[13:].max():.1e}")
    record_property("max_abs_difference", float(difference.max()))
    assert difference.max() <= 2e-3


@pytest.mark.parametrize("loudest", [9000, 0.2], ids=["speech", "some bands below the floor of 1"])
def test_equals_the_equations_in_float64(loudest):
    """The HTK book's definition, written out for one signal with loops over frames."""
    samples = np.random.default_rng(0).uniform(-loudest, loudest, 1777).astype(np.float32)
    frames = np.stack([samples[t * 160 : t * 160 + 400] for t in range(1 + (1777 - 400) // 160)]).astype(float)
    emphasized = np.concatenate([frames[:, :1] * 0.03, frames[:, 1:] - 0.97 * frames[:, :-1]], axis=1)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)
    power = np.abs(np.fft.rfft(emphasized * window, 512)) ** 2
    mel = 1127 * np.log(1 + np.arange(257) * 16000 / 512 / 700)
    edges = np.linspace(0, mel[-1], 28)
    bands = np.stack([np.interp(mel, edges[m : m + 3], [0, 1, 0]) for m in range(26)], axis=1)
    n, k = np.arange(26), np.arange(1, 13)
    dct = np.sqrt(2 / 26) * np.cos(np.pi * k * (n[:, None] + 0.5) / 26) * (1 + 11 * np.sin(np.pi * k / 22))
    energy = np.log(np.maximum(1, (frames**2).sum(axis=1, keepdims=True)))
    assert (power @ bands < 1).any() == (loudest < 1)
    assert (power @ bands > 2).any()
    static = np.concatenate([np.log(np.maximum(power @ bands, 1)) @ dct, energy], axis=1)

    def delta(x, t):
        return sum(k * (x(t + k) - x(t - k)) for k in (1, 2)) / 10

    last = len(static) - 1
    deltas = [delta(lambda t: static[min(max(t, 0), last)], t) for t in range(last + 3)]
    accelerations = [delta(lambda t: deltas[max(t, 0)], t) for t in range(last + 1)]
    expected = np.concatenate([static, deltas[: last + 1], accelerations], axis=1)
    np.testing.assert_allclose(compute(*as_batch(samples))[0][0], expected, atol=1e-3)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (1, 1), (399, 1), (400, 1), (401, 1), (559, 1), (560, 2)])
def test_counts_frames_at_the_edges(samples, frames):
    waveform = jnp.full((1, 800), 0.1)
    values, counts = compute(waveform, jnp.array([samples]))
    assert counts[0] == frames
    assert bool(jnp.isfinite(values).all())
    assert not values[0, frames:].any()


def test_counts_frames_of_half_a_minute():
    values, counts = compute(jnp.zeros((1, 480_000)), jnp.array([480_000]))
    assert values.shape == (1, 2998, 39)
    assert counts[0] == 2998


def test_completes_a_short_recording_with_zeros():
    short = np.random.default_rng(1).normal(size=(1, 300)).astype(np.float32) * 0.1
    alone, _ = compute(jnp.asarray(short), jnp.array([300]))
    whole, _ = compute(jnp.asarray(np.pad(short, ((0, 0), (0, 100)))), jnp.array([400]))
    np.testing.assert_allclose(alone, whole, rtol=1e-6)


def test_one_more_sample_than_a_frame_changes_nothing():
    samples = np.random.default_rng(2).normal(size=(1, 401)).astype(np.float32) * 0.1
    longer, _ = compute(jnp.asarray(samples), jnp.array([401]))
    frame, _ = compute(jnp.asarray(samples[:, :400]), jnp.array([400]))
    np.testing.assert_allclose(longer, frame, atol=1e-5)
    assert not frame[0, :, 13:].any(), "a single frame has no slope"


def test_other_sizes():
    """A hop that does not divide the frame, and fewer bands and cepstra."""
    config = MfccConfig(hop_length=120, mel_bands=20, cepstra=8)
    values, counts = mfcc(jnp.ones((2, 2000)) * 0.01, jnp.array([2000, 700]), config)
    assert values.shape == (2, 1 + (2000 - 400) // 120, 27)
    assert counts.tolist() == [14, 3]

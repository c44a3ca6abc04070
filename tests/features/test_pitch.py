"""Pitch: known tones, an independent autocorrelation in float64, noise and silence; padding counts nothing."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import FEATURES, tiny_config

from dslstm_jax.config import MfccConfig
from dslstm_jax.features import extract_features, mfcc, pitch
from dslstm_jax.features.pitch import MIDDLE, OCTAVE_COST
from dslstm_jax.models.recognizer import initialize

RATE = 16_000
CONFIG = MfccConfig(hop_length=320)
of_batch = jax.jit(pitch, static_argnames=("config", "sample_rate"))


def of(samples, config=CONFIG, rate=RATE):
    """The rows of one recording."""
    samples = np.asarray(samples, np.float32)
    values, counts = of_batch(samples[None], np.array([len(samples)], np.int32), config=config, sample_rate=rate)
    assert values.shape[1] == int(counts[0])
    return np.asarray(values[0])


def voice(pitches, rate=RATE):
    """Harmonics, weaker by 12 dB an octave, of a pitch that may change from sample to sample, in hertz."""
    phase = 2 * np.pi * np.cumsum(pitches) / rate
    harmonics = range(1, int(rate / 2 / np.max(pitches)))
    sound = sum(np.sin(k * phase + k) / k**2 for k in harmonics)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def hertz(values):
    return MIDDLE * 2 ** (values[:, 1] / values[:, 0] ** 2)


@pytest.mark.parametrize("frequency", [65.0, 110.0, 181.3, 260.0, 441.7, 580.0])
@pytest.mark.parametrize("rate", [8000, 16_000])
def test_a_steady_voice_has_its_pitch(frequency, rate):
    config = replace(CONFIG, hop_length=rate // 50)
    values = of(voice(np.full(rate, frequency), rate), config, rate)[2:-2]
    assert values[:, 0].min() > 0.95
    np.testing.assert_allclose(hertz(values), frequency, rtol=0.01)
    np.testing.assert_allclose(values[4:-4, 2:], 0, atol=0.02)


def test_a_melody_is_followed_and_its_slope_is_the_delta():
    octaves_a_second = 0.8
    frequencies = 110 * 2 ** (octaves_a_second * np.arange(2 * RATE) / RATE)
    values = of(voice(frequencies))
    middles = frequencies[np.arange(len(values)) * 320 + 200]
    inner = slice(3, -3)
    np.testing.assert_allclose(hertz(values)[inner], middles[inner], rtol=0.01)
    np.testing.assert_allclose(np.mean(values[inner, 3]), octaves_a_second * 320 / RATE, rtol=0.05)


def test_noise_and_silence_have_no_pitch():
    noise = of(np.random.default_rng(0).normal(size=RATE) * 0.1)
    assert noise[:, 0].mean() < 0.4
    assert np.abs(noise[:, 1]).mean() < 0.2
    assert not of(np.zeros(RATE)).any()
    assert not of(np.full(RATE, 0.5))[2:-2].any()
    faint = of(voice(np.full(RATE, 200.0)) * 1e-5)
    assert faint[:, 0].max() < 0.1


def test_the_level_does_not_count():
    sound = voice(np.linspace(150, 250, RATE)) + np.random.default_rng(0).normal(size=RATE) * 0.01
    np.testing.assert_allclose(of(sound), of(0.1 * sound), atol=0.01)


def test_equal_to_the_definition_in_float64():
    """Frames one by one, lags one by one, on a sound that is partly noise."""
    generator = np.random.default_rng(1)
    sound = voice(np.linspace(90, 330, RATE)) + generator.normal(size=RATE) * np.linspace(0, 0.1, RATE)
    sound = sound.astype(np.float32)
    found, samples = of(sound)[:, :2], np.pad(sound.astype(np.float64) * 32768, 200)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 800)

    def correlation(x, lag):
        return np.dot(x[: len(x) - lag], x[lag:])

    differences = 0
    for frame, row in enumerate(found):
        x = samples[frame * 320 : frame * 320 + 800]
        x = (x - x.mean()) * window
        ours = {
            lag: correlation(x, lag)
            / (correlation(x, 0) + np.sum(window**2))
            * correlation(window, 0)
            / correlation(window, lag)
            for lag in range(25, 268)
        }
        peaks = [lag for lag in range(26, 267) if ours[lag] >= max(ours[lag - 1], ours[lag + 1], 1e-12)]
        best = max(peaks, key=lambda lag: ours[lag] - OCTAVE_COST * np.log2(lag / 26))
        before, here, after = (ours[best + k] for k in (-1, 0, 1))
        period = best + 0.5 * (before - after) / (before - 2 * here + after)
        expected = [min(here, 1), min(here, 1) ** 2 * np.log2(RATE / period / MIDDLE)]
        differences += not np.allclose(row, expected, atol=2e-3)
    assert len(found) == 49
    assert differences <= 1  # two peaks may be as good as one another


def test_padding_and_other_rows_count_nothing():
    sounds = [voice(np.linspace(100, 200, 9000))[:samples] for samples in (9000, 5000, 300, 0)]
    rows = np.stack([np.pad(sound, (0, 10_000 - len(sound)), constant_values=np.nan) for sound in sounds])
    lengths = jnp.array([len(sound) for sound in sounds], jnp.int32)
    values, counts = of_batch(rows, lengths, config=CONFIG, sample_rate=RATE)
    assert counts.tolist() == mfcc(rows, lengths, CONFIG)[1].tolist() == [27, 15, 1, 0]
    for row, count, sound in zip(values, counts, sounds, strict=True):
        assert not row[count:].any()
        if len(sound):
            np.testing.assert_allclose(row[:count], of(np.pad(sound, (0, max(0, 400 - len(sound))))), atol=1e-4)
    gradient = jax.grad(lambda x: of_batch(x, lengths, config=CONFIG, sample_rate=RATE)[0].sum())(rows)
    assert np.isfinite(gradient).all()
    assert not gradient[1, 5000:].any()


def test_the_recognizer_reads_it_beside_the_mfcc():
    sound = voice(np.linspace(100, 200, 8000))[None]
    lengths = jnp.array([8000])
    plain, both = (extract_features(sound, lengths, replace(FEATURES, pitch=on)) for on in (False, True))
    assert both.mfcc.shape == (1, 48, 45)
    np.testing.assert_array_equal(both.mfcc[..., :39], plain.mfcc)
    np.testing.assert_array_equal(both.mfcc[..., 39:], pitch(sound, lengths, FEATURES.mfcc)[0])
    variables = initialize(
        jax.random.key(0), replace(tiny_config("unused"), features=replace(FEATURES, pitch=True)), 4
    )
    assert 45 in {size for leaf in jax.tree.leaves(variables["params"]["mfcc_branch"]) for size in leaf.shape}

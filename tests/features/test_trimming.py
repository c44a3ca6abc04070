"""Silence at the ends: the same cut on the host and on the device, once is enough, and nothing else is lost."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from tiny import FEATURES, tiny_config

from dslstm_jax.config import Config, FeaturesConfig, ModelConfig
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.dataset import make_dataset
from dslstm_jax.data.index import measure
from dslstm_jax.data.pipeline import make_loader
from dslstm_jax.data.resident import read_recordings
from dslstm_jax.errors import ConfigError
from dslstm_jax.features import trimming
from dslstm_jax.features.trimming import BLOCK, MARGIN, trim, trim_recording
from dslstm_jax.models.recognizer import average, forward, initialize
from dslstm_jax.serving.predictor import Predictor

KEPT = BLOCK * MARGIN


def speech(before, samples, after, seed=0):
    """Noise of rising and falling level between noise 50 dB below it."""
    generator = np.random.default_rng(seed)
    loud = np.sin(np.linspace(0.2, 3.0, samples)) * generator.uniform(-0.5, 0.5, samples)
    quiet = [generator.uniform(-0.5, 0.5, count) * 10 ** (-50 / 20) for count in (before, after)]
    return np.concatenate([quiet[0], loud, quiet[1]]).astype(np.float32)


def padded(recordings, padding=np.nan):
    size = max(map(len, recordings)) + 100
    rows = [np.pad(recording, (0, size - len(recording)), constant_values=padding) for recording in recordings]
    return jnp.array(rows), jnp.array([len(recording) for recording in recordings], jnp.int32)


def test_silence_is_cut_up_to_the_margin():
    recording = speech(20 * BLOCK, 10 * BLOCK, 30 * BLOCK + 77)
    np.testing.assert_array_equal(trim_recording(recording, 35), recording[20 * BLOCK - KEPT : 30 * BLOCK + KEPT])


def test_pauses_and_what_is_less_far_below_the_peak_stay():
    pause = np.concatenate([speech(20 * BLOCK, 5000, 9000), speech(9000, 5000, 20 * BLOCK, seed=1)])
    kept = trim_recording(pause, 35)
    assert len(pause) - 2 * (20 * BLOCK - KEPT) - BLOCK <= len(kept) <= len(pause) - 2 * (20 * BLOCK - KEPT) + BLOCK
    assert trim_recording(pause, 60) is not pause
    np.testing.assert_array_equal(trim_recording(pause, 60), pause)
    assert trim_recording(pause, 0) is pause


@pytest.mark.parametrize("decibels", [6, 35, 60])
def test_device_and_host_cut_the_same_and_see_no_padding(decibels):
    generator = np.random.default_rng(3)
    recordings = [speech(*generator.integers(1, 18_000, 3), seed=seed) for seed in range(12)]
    waveforms, lengths = jax.jit(trim, static_argnames="decibels")(*padded(recordings), decibels=decibels)
    assert len({int(length) for length in lengths}) > 6
    for row, length, recording in zip(waveforms, lengths, recordings, strict=True):
        expected = trim_recording(recording, decibels)
        np.testing.assert_array_equal(row[:length], expected)
        assert not row[length:].any()
        np.testing.assert_array_equal(trim_recording(expected, decibels), expected)  # once is enough


def test_no_peak_nothing_is_cut():
    waveforms, lengths = padded([np.zeros(3000, np.float32), np.zeros(0, np.float32)])
    trimmed, kept = trim(waveforms, lengths, 35)
    assert kept.tolist() == [3000, 0]
    assert not trimmed.any()
    assert len(trim_recording(np.zeros(0, np.float32), 35)) == 0
    assert len(trim_recording(np.zeros(300, np.float32), 35)) == 300


def test_the_recognizer_hears_no_silence():
    config = replace(
        tiny_config("unused"),
        features=replace(FEATURES, trim=35.0),
        model=ModelConfig(spectrogram_branch="none", mfcc_hidden=5, layers=1, normalize="utterance"),
    )
    recording = speech(9000, 8000, 7000)
    variables = initialize(jax.random.key(0), config, 4)

    def logits(recording, config):
        return average(jax.jit(partial(forward, config=config))(variables, *padded([recording]))[0])

    untrimmed = replace(config, features=replace(config.features, trim=0.0))
    cut = trim_recording(recording, 35)
    np.testing.assert_allclose(logits(recording, config), logits(cut, untrimmed), atol=1e-6)
    np.testing.assert_allclose(logits(recording, config), logits(cut, config), atol=1e-6)
    assert abs(logits(recording, config) - logits(recording, untrimmed)).max() > 1e-3


def test_no_gradient_comes_from_padding():
    waveforms, lengths = padded([speech(3000, 2000, 3000)])
    gradient = jax.grad(lambda x: (trim(x, lengths, 35)[0] ** 2).sum())(waveforms)
    cut = trim_recording(speech(3000, 2000, 3000), 35)
    np.testing.assert_allclose(gradient[gradient != 0], 2 * cut[cut != 0])


def test_lengths_are_measured_anew_where_another_version_cut_otherwise(corpus, tmp_path, monkeypatch):
    config = tiny_config(corpus)
    utterances = load_corpus(config.corpus).utterances[:3]

    def lengths(decibels):
        return measure(utterances, 16_000, 60, decibels, cache=tmp_path / "cache")

    whole, cut, less = lengths(0.0), lengths(35.0), lengths(60.0)
    assert all(a > b for a, b in zip(whole, cut, strict=True))
    monkeypatch.setattr(trimming, "MARGIN", MARGIN + 3)
    assert lengths(35.0) == [length + 6 * BLOCK for length in cut]
    monkeypatch.undo()
    assert (lengths(0.0), lengths(35.0), lengths(60.0)) == (whole, cut, less)


@pytest.fixture
def corpus(tones, tmp_path):
    """The tones, half a second of near silence around each."""
    for path in sorted((tones / "wav").glob("*.wav")):
        samples, rate = soundfile.read(path, dtype="float32")
        (tmp_path / "wav").mkdir(exist_ok=True)
        quiet = np.random.default_rng(0).normal(size=8000) * 1e-4
        soundfile.write(tmp_path / "wav" / path.name, np.concatenate([quiet, samples, quiet]), rate, subtype="PCM_16")
    return tmp_path


def test_batches_are_as_short_as_the_speech(corpus):
    whole = tiny_config(corpus)
    config = replace(whole, features=replace(FEATURES, trim=35.0))
    loaded = load_corpus(config.corpus)
    for _ in range(2):  # the second time lengths are remembered
        dataset, longer = make_dataset(loaded, config), make_dataset(loaded, whole)
        assert max(dataset.lengths) <= 9600 + 2 * KEPT + 2 * BLOCK < 16_000 < min(longer.lengths)
    loader = make_loader(dataset, range(48), config, 48)
    (batch,) = loader.batches()
    assert batch.waveforms.shape[1] < 16_000
    assert [int(length) for length in batch.lengths] == [dataset.lengths[example] for example in batch.examples]
    recordings = read_recordings(dataset, 16_000, 35.0)
    for row, example, length in zip(batch.waveforms, batch.examples, batch.lengths, strict=True):
        start = recordings.starts[example]
        np.testing.assert_array_equal(row[:length], recordings.samples[start : start + length])


def test_a_prediction_tells_the_length_of_the_whole_recording(corpus):
    config = replace(tiny_config(corpus), features=replace(FEATURES, trim=35.0))
    predictor = Predictor(initialize(jax.random.key(0), config, 4), config, ("a", "b", "c", "d"))
    recording = speech(16_000, 16_000, 16_000)
    whole, cut = predictor(recording, 16_000), predictor(trim_recording(recording, 35), 16_000)
    assert whole.duration_seconds == 3.0
    np.testing.assert_allclose(list(whole.probabilities.values()), list(cut.probabilities.values()), atol=1e-6)


def test_negative_decibels_are_an_error():
    with pytest.raises(ConfigError, match=r"features\.trim is -1; it must be at least 0"):
        Config(features=FeaturesConfig(trim=-1))

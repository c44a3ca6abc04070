"""Spectrograms that are not stretched: every utterance gives what it gives alone, whatever stands beside it."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import FEATURES, MODEL, SPECTROGRAMS

from dslstm_jax.config import AugmentationConfig, FeaturesConfig, RecognizerConfig, from_dict, to_dict
from dslstm_jax.errors import ConfigError
from dslstm_jax.features import Features, augmentation, extract_features, mel_spectrogram
from dslstm_jax.features.augmentation import augment_spectrograms, example_keys
from dslstm_jax.models.branches import align, shortest_recording
from dslstm_jax.models.recognizer import features_for, forward, initialize
from dslstm_jax.ops.masking import Frames

OWN_FRAMES = FeaturesConfig(spectrograms=tuple(replace(spectrogram, frames=0) for spectrogram in SPECTROGRAMS))
CONFIG = RecognizerConfig(features=OWN_FRAMES, model=replace(MODEL, layers=1, recurrent_norm="layer"))
LENGTHS = (9000, 6400, 0, 100)
"""The last one is shorter than anything that the CNNs can read."""


def recordings(padding=0.0, samples=9000, lengths=LENGTHS):
    noise = np.random.default_rng(0).normal(size=(len(lengths), 9000)).astype(np.float32)
    noise *= np.geomspace(0.3, 0.003, len(lengths), dtype=np.float32)[:, None]
    noise = np.pad(noise, ((0, 0), (0, samples - 9000)))
    lengths = jnp.array(lengths)
    return jnp.where(jnp.arange(samples)[None] < lengths[:, None], noise, padding), lengths


def test_features_keep_their_own_frames():
    waveforms, lengths = recordings(jnp.nan)
    found = jax.jit(partial(extract_features, config=OWN_FRAMES))(waveforms, lengths)
    for values, counts, resolution in zip(
        found.spectrograms, found.spectrogram_lengths, OWN_FRAMES.spectrograms, strict=True
    ):
        hop = resolution.hop_length
        assert values.shape[1] == 1 + 9000 // hop
        np.testing.assert_array_equal(counts, [1 + 9000 // hop, 1 + 6400 // hop, 0, 1 + 100 // hop])
        expected, _ = jax.jit(partial(mel_spectrogram, config=resolution))(waveforms, lengths)
        np.testing.assert_allclose(values, expected, atol=1e-3)
    stretched = jax.jit(partial(extract_features, config=FEATURES))(waveforms[1:3], lengths[1:3])
    assert [counts.tolist() for counts in stretched.spectrogram_lengths] == [[60, 0], [32, 0]]


def test_short_recordings_go_on_with_zeros():
    """Also where the whole batch is short. The MFCC has a frame anyway."""
    shortest = shortest_recording(CONFIG)
    assert shortest == 256 * 18, "0.288 s at 16 kHz"
    samples, _ = recordings()
    short, lengths = jnp.where(jnp.arange(300)[None] < 100, samples[:2, :300], jnp.nan), jnp.array([100, 0])
    found = jax.jit(partial(features_for, config=CONFIG))(short, lengths)
    silent = jnp.pad(short[:1, :100], ((0, 0), (0, shortest - 100)))
    expected = jax.jit(partial(extract_features, config=OWN_FRAMES))(silent, jnp.array([shortest]))
    assert [counts.tolist() for counts in found.spectrogram_lengths] == [[19, 0], [10, 0]]
    for values, reference in zip(found.spectrograms, expected.spectrograms, strict=True):
        np.testing.assert_allclose(values[:1], reference, atol=1e-3)
    assert found.mfcc_lengths.tolist() == [1, 0]
    assert shortest_recording(replace(CONFIG, features=FEATURES)) == 0


@pytest.mark.parametrize("branch", ["ds_lstm", "lstm"])
def test_the_shortest_recording_gives_one_frame(branch):
    """And one sample less gives none."""
    config = replace(CONFIG, model=replace(CONFIG.model, spectrogram_branch=branch))
    shortest, frames = shortest_recording(config), []
    for samples in (shortest, shortest - 1):
        sizes = [1 + samples // spectrogram.hop_length for spectrogram in OWN_FRAMES.spectrograms]
        for _ in MODEL.channels:
            sizes = [(size - 1) // 2 for size in sizes]
        frames.append(min(sizes[0] // 2 - 1, sizes[1]) if branch == "ds_lstm" else min(sizes))
    assert frames == [1, 0]


def test_rows_are_aligned_by_their_own_lengths():
    x, y = jnp.arange(2 * 11.0).reshape(2, 11, 1), jnp.arange(2 * 5.0).reshape(2, 5, 1)
    lengths = np.array([11, 8]), np.array([5, 3])
    found, cut, frames = align(x, Frames(lengths[0]), y, Frames(lengths[1]))
    valid = frames.lengths
    assert valid.tolist() == [4, 3]
    for row in range(2):
        own = (
            part
            for z, n in zip((x, y), lengths, strict=True)
            for part in (z[row : row + 1, : n[row]], Frames(n[row : row + 1]))
        )
        alone = align(*own)
        np.testing.assert_array_equal(found[row, : valid[row]], alone[0][0])
        np.testing.assert_array_equal(cut[row, : valid[row]], alone[1][0])
    first = align(x, Frames(np.array([11, 0])), y, Frames(np.array([2, 0])))[2]
    assert first.lengths.tolist() == [2, 0], "y may end first"


@pytest.fixture(scope="module", params=["ds_lstm", "lstm"])
def trained(request):
    """A recognizer with running statistics of its own, and its training step."""
    config = replace(CONFIG, model=replace(CONFIG.model, spectrogram_branch=request.param))
    variables = initialize(jax.random.key(0), config, 3)

    @jax.jit
    def step(waveforms, lengths):
        def loss(params):
            now = {**variables, "params": params}
            branches, statistics = forward(now, waveforms, lengths, config=config, train=True)
            valid = lengths[:, None] > 0
            return sum(jnp.sum(jnp.where(valid, jnp.sin(b.logits), 0)) for b in branches), (branches, statistics)

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    return config, variables, step


def test_padding_changes_neither_outputs_nor_gradients_nor_statistics(trained):
    _, _, step = trained
    expected = step(*recordings())
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(np.testing.assert_array_equal, step(*recordings(jnp.nan)), expected)
    longer = step(*recordings(jnp.nan, samples=11_000))
    for a, b in zip(jax.tree.leaves(longer), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4 * max(1, np.abs(b).max()))


def test_every_row_is_what_it_is_alone(trained):
    config, variables, step = trained
    (_, (_, statistics)), _ = step(*recordings())
    variables = {**variables, "batch_stats": statistics}
    evaluate = jax.jit(partial(forward, config=config))
    together, _ = evaluate(variables, *recordings())
    for row, length in enumerate(LENGTHS):
        if length:
            waveforms, _ = recordings()
            alone, _ = evaluate(variables, waveforms[row : row + 1, :length], jnp.array([length]))
            for one, all_rows in zip(alone, together, strict=True):
                np.testing.assert_allclose(one.logits[0], all_rows.logits[row], atol=1e-5)
    logits = together[0].logits
    assert np.abs(logits[0] - logits[1]).max() > 1e-4, "they do differ"


def test_masks_are_shares_of_the_valid_frames(monkeypatch):
    monkeypatch.setattr(augmentation, "TIME_MASK_WIDTH", 0.25)
    generator, lengths = np.random.default_rng(1), np.resize([200, 80, 1, 0], 400)
    spectrogram = jnp.asarray(generator.normal(size=(400, 200, 4)) - 40, jnp.float32)
    valid = np.arange(200)[None] < lengths[:, None]
    spoiled = jnp.where(valid[..., None], spectrogram, jnp.nan)
    features = Features(jnp.ones((400, 9, 39)), jnp.full(400, 9), (spoiled,), (jnp.asarray(lengths),))
    keys = example_keys(jax.random.key(0), jnp.arange(400))
    config = AugmentationConfig(time_masks=1)
    found = jax.jit(partial(augment_spectrograms, config=config))(keys, features).spectrograms[0]
    hidden = np.asarray((found != spectrogram).any(axis=2) & valid)
    for length in (200, 80):
        rows = lengths == length
        share = hidden[rows].sum(axis=1) / length
        assert 0.23 < share.max() < 0.26
        assert abs(share.mean() - 0.125) < 0.03
        last = hidden[rows].nonzero()[1].max()
        assert 0.9 * length < last < length, "masks lie all over the utterance"
        for row in rows.nonzero()[0][:9]:
            mean = spectrogram[row, :length].mean()
            np.testing.assert_allclose(found[row][hidden[row]], mean, rtol=1e-5)
    assert bool(jnp.isfinite(found[valid]).all())


def test_configs_of_variable_length():
    assert from_dict(to_dict(CONFIG), kind=RecognizerConfig) == CONFIG
    first, second = OWN_FRAMES.spectrograms
    for spectrograms, said in [
        ((first, SPECTROGRAMS[1]), "frames are 0 and 32; the DS-LSTM needs both stretched or both not"),
        ((first, replace(second, hop_length=256)), "hop_length is 256 and 256.*the second to be twice the first"),
    ]:
        with pytest.raises(ConfigError, match=f"features.spectrograms: {said}"):
            replace(CONFIG, features=FeaturesConfig(spectrograms=spectrograms))
    with pytest.raises(ConfigError, match=r"features\.spectrograms.frames is -1; it must be at least 0"):
        replace(first, frames=-1)
    with pytest.raises(ConfigError, match=r"model\.recurrent_norm is step.*set it to shared, layer or none"):
        replace(CONFIG, model=replace(CONFIG.model, recurrent_norm="step"))

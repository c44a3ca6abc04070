"""All features of a batch: the same however they are computed, and differentiable."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dslstm_jax.config import FeaturesConfig, MfccConfig, SpectrogramConfig
from dslstm_jax.features import Features, blank_features, extract_features

CONFIG = FeaturesConfig()
LENGTHS = [16_000, 300, 400, 401, 9_001, 12_345, 1, 15_999]
extract = partial(extract_features, config=CONFIG)


def recordings(padding: float = 0.0) -> tuple[jax.Array, jax.Array]:
    generator = np.random.default_rng(0)
    time = np.arange(16_000) / 16_000
    waveforms = np.full((len(LENGTHS), 16_000), padding, np.float32)
    for row, length in enumerate(LENGTHS):
        tone = np.sin(2 * np.pi * (150 + 90 * row) * time) * 0.3 + generator.normal(size=16_000) * 0.01
        waveforms[row, :length] = tone[:length]
    return jnp.asarray(waveforms), jnp.array(LENGTHS)


def scaled_difference(found: Features, expected: Features) -> float:
    """Largest difference, on the scale of each feature's largest value; the MFCC may be padded differently."""
    frames = min(found.mfcc.shape[1], expected.mfcc.shape[1])
    found, expected = (x._replace(mfcc=x.mfcc[:, :frames]) for x in (found, expected))
    np.testing.assert_array_equal(found.mfcc_lengths, expected.mfcc_lengths)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(np.abs(np.asarray(a) - b).max() / np.abs(b).max()) for a, b in pairs)


@pytest.fixture(scope="module")
def batch() -> Features:
    return jax.jit(extract)(*recordings())


def test_shapes(batch):
    assert batch.mfcc.shape == (8, 98, 39)
    assert [spectrogram.shape for spectrogram in batch.spectrograms] == [(8, 230, 128), (8, 120, 256)]


def test_alone_equals_in_a_padded_batch(batch):
    waveforms, lengths = recordings()
    for row, length in list(enumerate(LENGTHS))[1:5]:
        alone = jax.jit(extract)(waveforms[row : row + 1, :length], lengths[row : row + 1])
        expected = jax.tree.map(lambda x, row=row: x[row : row + 1], batch)
        difference = scaled_difference(alone, expected)
        print(f"{length} samples alone against in a batch: {difference:.1e}")
        assert difference <= 1e-5


def test_without_jit_equals_jit(batch):
    assert scaled_difference(extract(*recordings()), batch) <= 1e-5


def test_vmap_equals_the_batch(batch):
    def one(waveform, length):
        return jax.tree.map(lambda x: x[0], extract(waveform[None], length[None]))

    assert scaled_difference(jax.jit(jax.vmap(one))(*recordings()), batch) <= 1e-5


def test_two_devices_equal_one(batch):
    assert len(jax.devices()) == 2
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    found = jax.jit(extract)(*jax.device_put(recordings(), sharding))
    assert len(found.mfcc.sharding.device_set) == 2
    assert scaled_difference(jax.device_get(found), batch) <= 1e-5


def test_nan_in_the_padding_changes_nothing(batch):
    found = jax.jit(extract)(*recordings(padding=float("nan")))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(batch), strict=True):
        np.testing.assert_array_equal(a, b)


def total(waveforms: jax.Array, lengths: jax.Array) -> jax.Array:
    features = extract(waveforms, lengths)
    return features.mfcc.sum() + sum(spectrogram.sum() for spectrogram in features.spectrograms)


@pytest.mark.parametrize("kind", ["speech", "silence", "silence within speech", "nan padding"])
def test_gradients_are_finite(kind):
    waveforms, lengths = recordings(float("nan") if kind == "nan padding" else 0.0)
    if kind == "silence":
        waveforms = jnp.zeros_like(waveforms)
    elif kind == "silence within speech":
        waveforms = waveforms.at[:, 3000:6000].set(0)
    gradient = jax.jit(jax.grad(total))(waveforms, lengths)
    assert bool(jnp.isfinite(gradient).all())
    padded = np.arange(16_000) >= np.array(LENGTHS)[:, None]
    assert not np.asarray(gradient)[padded].any(), "padding has no influence"
    if kind != "silence":
        assert np.abs(np.asarray(gradient)[:, :300]).max() > 0


def test_gradient_equals_a_finite_difference():
    waveforms, lengths = recordings()
    row, direction = waveforms[4:5], jnp.asarray(np.random.default_rng(3).normal(size=(1, 16_000)), jnp.float32)
    with jax.enable_x64(True):
        row, direction = row.astype(jnp.float64), direction.astype(jnp.float64)
        function = jax.jit(lambda x: total(x, lengths[4:5]))
        _, slope = jax.jvp(function, (row,), (direction,))
        step = 1e-7
        after, before = (function(row + sign * step * direction) for sign in (1, -1))
        found, expected = float(slope), (float(after) - float(before)) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("samples", [300, 16_000, 50_001])
def test_blank_features_have_the_shape_of_those_of_a_recording(samples):
    spectrograms = (SpectrogramConfig(256, 100, 10, 0), SpectrogramConfig(512, 256, 20, 33))
    config = FeaturesConfig(mfcc=MfccConfig(hop_length=77, cepstra=9), spectrograms=spectrograms)
    blank = blank_features(samples, config)
    found = jax.jit(extract_features, static_argnums=2)(jnp.ones((1, samples)), jnp.array([samples]), config)
    for ours, theirs in zip(jax.tree.leaves(blank), jax.tree.leaves(found), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    np.testing.assert_array_equal(blank.mfcc_lengths, found.mfcc_lengths)
    np.testing.assert_array_equal(blank.spectrogram_lengths, found.spectrogram_lengths)

"""Pooling and normalization see valid frames only, and are what numpy makes of those."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from jax.test_util import check_grads
from tiny import FEATURES, MODEL

from dslstm_jax.config import RecognizerConfig, from_dict, to_dict
from dslstm_jax.errors import ConfigError
from dslstm_jax.features import extract_features
from dslstm_jax.models.params import Normalization
from dslstm_jax.models.pooling import Pooling, to_vector
from dslstm_jax.models.recognizer import forward, initialize, variable_shapes

B, T, H = 5, 7, 4
LENGTHS = (7, 4, 0, 1, 5)
MASK = jnp.arange(T)[None] < jnp.array(LENGTHS)[:, None]
X = jnp.asarray(3 + 2 * np.random.default_rng(0).normal(size=(B, T, H)), jnp.float32)
KINDS = ("mean", "attention", "statistics")


def pooling(kind):
    """The module as a function of (weights, x, mask), and its weights."""
    module = Pooling(kind)
    pool = jax.jit(lambda variables, x, mask: to_vector(module.apply(variables, x, mask)))
    return pool, jax.jit(module.init)(jax.random.key(0), X, MASK)


def in_numpy(kind, variables, frames):
    """Of the valid frames of one row. [T, H]"""
    if kind == "mean":
        return frames.mean(0)
    if kind == "statistics":
        return np.concatenate([frames.mean(0), frames.std(0)])
    kernel, bias, vector = (np.asarray(variables["params"][f"score_{name}"]) for name in ("kernel", "bias", "vector"))
    scores = np.exp(np.tanh(frames @ kernel + bias) @ vector)
    return scores @ frames / scores.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_pooled_over_its_valid_frames(kind):
    pool, variables = pooling(kind)
    found = pool(variables, jnp.where(MASK[..., None], X, jnp.nan), MASK)
    assert found.shape == (B, 2 * H if kind == "statistics" else H)
    assert not found[2].any(), "a row without a frame"
    for row, length in enumerate(LENGTHS):
        if length:
            expected = in_numpy(kind, variables, np.asarray(X[row, :length]))
            np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-6)
    if kind == "statistics":
        np.testing.assert_array_equal(found[3, H:], 0, err_msg="one frame deviates from nothing")


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_pooling(kind):
    """Finite though padding is NaN and a row does not vary; 0 at padding; equal to a difference quotient."""
    pool, variables = pooling(kind)
    constant = X.at[1].set(X[1, 0])

    @jax.jit
    def loss(variables, x):
        return jnp.sum(jnp.sin(pool(variables, x, MASK)))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    of_variables, of_x = gradient(variables, jnp.where(MASK[..., None], constant, jnp.nan))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((of_variables, of_x)))
    assert not of_x[~MASK].any()
    assert np.abs(of_x[0]).min() > 0
    with jax.enable_x64(True):
        point = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (variables, X))
        check_grads(loss, point, order=1, modes="rev", atol=1e-5, rtol=1e-5)


def test_attention_in_bfloat16_adds_up_in_float32():
    pool, variables = pooling("attention")
    short = X.astype(jnp.bfloat16)
    found, kernel = pool(variables, short, MASK), variables["params"]["score_kernel"].astype(jnp.bfloat16)
    rounded = {"params": {**variables["params"], "score_kernel": kernel}}
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, pool(rounded, short.astype(jnp.float32), MASK), rtol=1e-5)


def normalization(kind, x=X, mask=MASK, train=False, batch_stats=None, **options):
    """The normalized features, and the running statistics after them."""
    module = Normalization(kind, **options)
    variables = {"batch_stats": batch_stats or module.init(jax.random.key(0), X, MASK, train=False)["batch_stats"]}
    apply = jax.jit(partial(module.apply, train=train, mutable=["batch_stats"]))
    found, updated = apply(variables, x, mask)
    return found, updated["batch_stats"]


def test_an_utterance_is_normalized_by_its_own_frames():
    spoiled = jnp.where(MASK[..., None], X, jnp.nan)
    found, gradient = jax.jit(
        lambda x: jax.vjp(lambda x: Normalization("utterance").apply({}, x, MASK, train=True), x)
    )(spoiled)
    np.testing.assert_array_equal(found[~MASK], 0)
    np.testing.assert_array_equal(found[3], 0, err_msg="one frame is its own mean")
    for row, length in enumerate(LENGTHS):
        if length:
            frames = np.asarray(X[row, :length])
            expected = (frames - frames.mean(0)) / np.sqrt(frames.var(0) + 1e-5)
            np.testing.assert_allclose(found[row, :length], expected, atol=2e-5)
    (of_x,) = gradient(jnp.cos(jnp.arange(X.size)).reshape(X.shape))
    assert bool(jnp.isfinite(of_x).all())
    assert not of_x[~MASK].any()


def test_a_corpus_is_normalized_by_the_batch_and_then_by_what_was_remembered():
    spoiled, frames = jnp.where(MASK[..., None], X, jnp.nan), np.asarray(X[MASK])
    found, after = normalization("corpus", spoiled, train=True)
    np.testing.assert_array_equal(found[~MASK], 0)
    expected = (frames - frames.mean(0)) / np.sqrt(frames.var(0) + 1e-5)
    np.testing.assert_allclose(found[MASK], expected, atol=1e-5)
    mean, variance = 0.1 * frames.mean(0), 0.9 + 0.1 * frames.var(0, ddof=1)
    np.testing.assert_allclose(after["running_mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(after["running_variance"], variance, rtol=1e-5)
    later, same = normalization("corpus", spoiled, batch_stats=after)
    np.testing.assert_allclose(later[MASK], (frames - mean) / np.sqrt(variance + 1e-5), atol=1e-5)
    np.testing.assert_array_equal(later[~MASK], 0)
    jax.tree.map(np.testing.assert_array_equal, same, after)


def test_two_devices_normalize_as_one():
    x, mask = X[:4], MASK[:4]
    expected = normalization("corpus", x, mask, train=True)
    split, whole = PartitionSpec("data"), PartitionSpec()
    mapped = jax.shard_map(
        lambda x, mask: normalization("corpus", x, mask, train=True, axis_name="data"),
        mesh=Mesh(jax.devices()[:2], "data"),
        in_specs=(split, split),
        out_specs=(split, whole),
        check_vma=False,
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), jax.jit(mapped)(x, mask), expected)


def configured(**changes):
    return RecognizerConfig(features=FEATURES, model=replace(MODEL, **changes))


@pytest.mark.parametrize(("field", "value"), [("pooling", "last"), ("normalize", "speaker")])
def test_configs_of_pooling_and_normalization(field, value):
    config = configured(pooling="attention", normalize="corpus")
    assert from_dict(to_dict(config), kind=RecognizerConfig) == config
    with pytest.raises(ConfigError, match=f"model.{field} is {value}; it must be one of"):
        configured(**{field: value})


def test_the_papers_variables_stay_what_they_were():
    """No options, no new weights or statistics."""
    shapes = variable_shapes(configured(layers=2), 3)
    assert shapes["params"].keys() == shapes["batch_stats"].keys() | {"mfcc_branch"}
    assert shapes["params"]["mfcc_branch"].keys() == {"lstm_0", "lstm_1", "classifier"}


@pytest.mark.parametrize(
    ("branch", "pooling", "normalize"), [("ds_lstm", "attention", "corpus"), ("lstm", "statistics", "utterance")]
)
def test_a_recognizer_with_both_sees_nothing_of_padding(branch, pooling, normalize):
    model = replace(MODEL, spectrogram_branch=branch, pooling=pooling, normalize=normalize)
    config = RecognizerConfig(features=FEATURES, model=model)
    variables, lengths = initialize(jax.random.key(0), config, 3), jnp.array([8000, 6000, 0])
    noise = 0.1 * np.random.default_rng(0).normal(size=(3, 8000)).astype(np.float32)

    @jax.jit
    def step(waveforms):
        def loss(params):
            now = {**variables, "params": params}
            branches, statistics = forward(now, waveforms, lengths, config=config, train=True)
            return sum(jnp.sum(jnp.sin(branch.logits[:2])) for branch in branches), statistics

        features = extract_features(waveforms, lengths, FEATURES)
        return *jax.value_and_grad(loss, has_aux=True)(variables["params"]), features

    valid = jnp.arange(8000)[None] < lengths[:, None]
    silent, spoiled = (jnp.where(valid, noise, padding) for padding in (0, jnp.nan))
    (value, statistics), gradient, features = step(silent)
    jax.tree.map(np.testing.assert_array_equal, step(spoiled)[:2], ((value, statistics), gradient))
    assert min(float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(gradient["mfcc_branch"])) > 0
    means = {name: 10 * leaves["running_mean"] for name, leaves in statistics.items() if "normalization" in name}
    if normalize == "utterance":
        assert not means
        return
    frames = np.concatenate([features.mfcc[row, : features.mfcc_lengths[row]] for row in range(2)])
    expected = {"mfcc_normalization": frames.mean(0)}
    for index, spectrogram in enumerate(features.spectrograms):
        expected[f"spectrogram_{index}_normalization"] = np.asarray(spectrogram[:2]).mean((0, 1))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), means, expected)

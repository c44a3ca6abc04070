"""Layers that also run backward are what two layers over unpadded sequences are, one of them reversed."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn
from jax.sharding import Mesh, PartitionSpec
from tiny import MODEL, SPECTROGRAMS

from dslstm_jax.config import FeaturesConfig, ModelConfig, RecognizerConfig, from_dict, to_dict
from dslstm_jax.models.branches import Sequences, read_by_ds_lstm, read_by_lstm, stack_layers
from dslstm_jax.models.params import DSLSTMLayer, LSTMLayer
from dslstm_jax.models.recognizer import forward, initialize, variable_shapes
from dslstm_jax.ops.masking import reverse_frames
from dslstm_jax.recurrence import LSTMWeights, lstm

B, T, F, H = 3, 5, 4, 3
LENGTHS = (5, 3, 0)
MASK = jnp.arange(T)[None] < jnp.array(LENGTHS)[:, None]
CONFIG = ModelConfig(hidden=H, mfcc_hidden=H, bidirectional=True, recurrent_norm="layer")
DRAW = np.random.default_rng(0)
X, Y = (jnp.asarray(DRAW.normal(size=(B, T, size)), jnp.float32) for size in (F, F + 1))


def spoiled(x):
    return jnp.where(MASK[..., None], x, jnp.nan)


def test_frames_are_reversed_in_each_row():
    found, pull = jax.vjp(lambda x: reverse_frames(x, MASK), spoiled(X))
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(found[row, :length], X[row, :length][::-1])
        assert bool(jnp.isnan(found[row, length:]).all())
    (gradient,) = pull(X)
    backward = np.concatenate([X[0, ::-1], X[1, 2::-1], X[1, 3:], X[2]]).reshape(X.shape)
    np.testing.assert_array_equal(gradient, backward)


class Layers(nn.Module):
    """The recurrent layers of a branch."""

    config: ModelConfig
    dual: bool

    def setup(self):
        self.lstm = stack_layers(self.config, lambda: LSTMLayer(H))
        self.ds_lstm = stack_layers(self.config, lambda: DSLSTMLayer(H, norm=self.config.recurrent_norm))

    def __call__(self, x, y, mask):
        if self.dual:
            return read_by_ds_lstm(self.ds_lstm, Sequences((x, y), mask), None, None, self.config, train=False)[0]
        return read_by_lstm(self.lstm, Sequences((x,), mask), None, None, self.config, place=0)[0]


def alone(params, name, x, y, config):
    """One layer over one unpadded sequence. [1, T, F]"""
    mask = jnp.ones(x.shape[:2], bool)
    if name.startswith("lstm"):
        return lstm(LSTMWeights(**params[name]), x, mask)[0]
    layer = DSLSTMLayer(H, norm=config.recurrent_norm)
    return layer.apply({"params": params[name]}, x, y, mask, train=False)[0]


@pytest.mark.parametrize("dual", [False, True], ids=["lstm", "ds_lstm"])
def test_each_row_equals_its_unpadded_sequence_run_both_ways(dual):
    layers = Layers(CONFIG, dual)
    variables = layers.init(jax.random.key(0), X, Y, MASK)
    found = jax.jit(layers.apply)(variables, spoiled(X), spoiled(Y), MASK)
    assert found.shape == (B, T, 2 * H)
    assert not found[~MASK].any()
    for row, length in enumerate(LENGTHS[:2]):
        x, y = X[row : row + 1, :length], Y[row : row + 1, :length]
        for layer in range(CONFIG.layers):
            name = f"{'ds_' if dual else ''}lstm_{layer}"
            ahead = alone(variables["params"], name, x, y, CONFIG)
            back = alone(variables["params"], f"{name}_reverse", x[:, ::-1], y[:, ::-1], CONFIG)
            x = jnp.concatenate([ahead, back[:, ::-1]], axis=-1)
        np.testing.assert_allclose(found[row, :length], x[0], atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sin(layers.apply(variables, x, spoiled(Y), MASK)).sum())(spoiled(X))
    assert bool(jnp.isfinite(gradient).all())
    assert not gradient[~MASK].any()


def test_cudnn_runs_both_ways(monkeypatch):
    """JAX's reference of cuDNN, which wants the valid frames first, stands in for it."""

    def reference(x, hidden, cell, packed, lengths, *sizes):
        matrices = rnn.unpack_lstm_weights(packed, *sizes[:3], sizes[4])
        outputs, *final = rnn.lstm_ref(x, hidden, cell, *matrices, lengths, *sizes)
        return outputs, *final

    layers = Layers(CONFIG, False)
    variables = layers.init(jax.random.key(0), X, Y, MASK)
    expected = layers.apply(variables, X, Y, MASK)
    monkeypatch.setattr(rnn, "lstm", reference)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = Layers(replace(CONFIG, lstm_backend="cudnn"), False).apply(variables, X, Y, MASK)
    np.testing.assert_allclose(found, expected, atol=1e-6)


EVERYTHING = RecognizerConfig(
    features=FeaturesConfig(spectrograms=tuple(replace(spectrogram, frames=0) for spectrogram in SPECTROGRAMS)),
    model=replace(
        MODEL,
        layers=1,
        bidirectional=True,
        recurrent_norm="shared",
        pooling="attention",
        normalize="corpus",
        dropout=0.2,
        remat_every=3,
    ),
)
"""All options together."""


def test_widths_and_names():
    assert from_dict(to_dict(EVERYTHING), kind=RecognizerConfig) == EVERYTHING
    params = variable_shapes(EVERYTHING, 3)["params"]
    assert {"lstm_0", "lstm_0_reverse"} <= params["mfcc_branch"].keys()
    assert {"ds_lstm_0", "ds_lstm_0_reverse"} <= params["spectrogram_branch"].keys()
    for branch in params.values():
        assert branch["classifier"]["kernel"].shape == (2 * MODEL.hidden, 3)
    statistics = replace(EVERYTHING, model=replace(EVERYTHING.model, pooling="statistics", spectrogram_branch="lstm"))
    kernels = [
        branch["classifier"]["kernel"].shape[0] for branch in variable_shapes(statistics, 3)["params"].values()
    ]
    assert sorted(kernels) == [4 * MODEL.hidden, 8 * MODEL.hidden]


def gradient_step(config, axis_name=None):
    """Of (variables, waveforms, lengths, keys): the loss and the running statistics, and the gradient."""

    def step(variables, waveforms, lengths, keys):
        def loss(params):
            now = {**variables, "params": params}
            branches, statistics = forward(
                now, waveforms, lengths, config=config, train=True, keys=keys, axis_name=axis_name
            )
            valid = lengths[:, None] > 0
            return sum(jnp.sum(jnp.where(valid, jnp.sin(b.logits), 0)) for b in branches), statistics

        found = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        if axis_name is None:
            return found
        (value, statistics), gradient = found
        value, gradient = jax.lax.psum((value, gradient), axis_name)
        return (value, statistics), gradient

    return step


def arguments():
    lengths = jnp.array([9000, 7000, 0, 100])
    noise = 0.1 * np.random.default_rng(1).normal(size=(4, 9000)).astype(np.float32)
    return noise, jnp.arange(9000)[None] < lengths[:, None], lengths, jax.random.split(jax.random.key(2), 4)


@pytest.mark.long
def test_everything_together_on_two_devices_with_nan_padding_equals_one():
    variables = initialize(jax.random.key(0), EVERYTHING, 3)
    noise, valid, lengths, keys = arguments()
    expected = jax.jit(gradient_step(EVERYTHING))(variables, jnp.where(valid, noise, 0), lengths, keys)
    split, whole = PartitionSpec("data"), PartitionSpec()
    mapped = jax.shard_map(
        gradient_step(EVERYTHING, "data"),
        mesh=Mesh(jax.devices()[:2], "data"),
        in_specs=(whole, split, split, split),
        out_specs=whole,
        check_vma=False,
    )
    found = jax.jit(mapped)(variables, jnp.where(valid, noise, jnp.nan), lengths, keys)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(found))
    # Where the longest row is alone, its statistics make much of rounding errors.
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) <= 3e-3 * np.linalg.norm(b) + 1e-5


def test_everything_in_bfloat16_keeps_the_rest_in_float32():
    config = replace(EVERYTHING, model=replace(EVERYTHING.model, dtype="bfloat16"))
    noise, _, lengths, keys = arguments()
    shapes = jax.eval_shape(gradient_step(config), variable_shapes(config, 3), noise, lengths, keys)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    program = jax.make_jaxpr(partial(forward, config=config, train=True))(variable_shapes(config, 3), noise, lengths)
    assert str(program).count("bf16") > 50

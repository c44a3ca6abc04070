"""Functions of frames, taken in turn or at once; filter banks without their zeros."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dslstm_jax.config import FeaturesConfig
from dslstm_jax.features import extract_features, signal
from dslstm_jax.features.signal import Framing, filter_bank, over_frames, slaney_mel_filters

ROWS, SAMPLES = 5, 203
FRAMINGS = [
    Framing(8, 4, 1 + SAMPLES // 4, before=4),
    Framing(10, 4, 1 + (SAMPLES - 10) // 4),
    Framing(6, 8, 1 + (SAMPLES - 6) // 8),
    Framing(400, 160, 1),
    Framing(256, 128, 2, before=128),
]
each_framing = pytest.mark.parametrize("framing", FRAMINGS, ids=lambda framing: "-".join(map(str, framing)))


def moments(frames: jax.Array) -> jax.Array:
    """Something of each frame that is not 0 where the frame is."""
    weights = jnp.cos(jnp.arange(frames.shape[-1], dtype=frames.dtype))
    return jnp.stack([1 + frames @ weights, (frames * frames).sum(-1)], axis=-1)


def recordings(padding: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([0, 1, 80, SAMPLES - 1, SAMPLES])
    waveforms = np.random.default_rng(0).normal(size=(ROWS, SAMPLES)).astype(np.float32) / signal.INT16_SCALE
    waveforms[np.arange(SAMPLES) >= lengths[:, None]] = padding
    return waveforms, lengths


def by_definition(framing: Framing) -> np.ndarray:
    frame_length, hop_length, frames, before = framing
    padded = np.pad(recordings()[0] * signal.INT16_SCALE, ((0, 0), (before, frame_length + before)))
    cut = [padded[:, t * hop_length : t * hop_length + frame_length] for t in range(frames)]
    return np.asarray(moments(jnp.asarray(np.stack(cut, axis=1))))


@pytest.fixture(params=[1, 40, 100_000])
def _chunk(request, monkeypatch):
    monkeypatch.setattr(signal, "CHUNK", request.param)


def check_valid_frames(found: jax.Array, framing: Framing) -> None:
    begins = np.arange(framing.frames) * framing.hop_length - framing.before
    valid = begins < recordings()[1][:, None]
    np.testing.assert_allclose(np.asarray(found)[valid], by_definition(framing)[valid], rtol=1e-5, atol=1e-5)
    assert np.isfinite(found).all()


@pytest.mark.usefixtures("_chunk")
@each_framing
@pytest.mark.parametrize("padding", [0.0, np.nan])
def test_frames_in_turn_are_those_of_the_definition(framing, padding):
    check_valid_frames(jax.jit(partial(over_frames, moments, framing))(*recordings(padding)), framing)


@pytest.mark.usefixtures("_chunk")
@each_framing
def test_frames_by_vmap_are_those_of_the_definition(framing):
    def alone(waveform, length):
        return over_frames(moments, framing, waveform[None], length[None])[0]

    check_valid_frames(jax.jit(jax.vmap(alone))(*recordings()), framing)


def test_a_cpu_stops_where_the_longest_waveform_ends(monkeypatch):
    monkeypatch.setattr(signal, "CHUNK", 80)
    waveforms, _ = recordings()
    found = over_frames(moments, FRAMINGS[0], waveforms, jnp.array([0, 1, 30, 75, 2]))
    assert (found[:, :20, 0] != 0).all()
    assert not found[:, 20:].any()


def test_gradients_are_those_of_all_frames_at_once(monkeypatch):
    monkeypatch.setattr(signal, "CHUNK", 80)
    waveforms, lengths = recordings()
    found = jax.jit(jax.grad(lambda x: over_frames(moments, FRAMINGS[0], x, lengths)[:, :9].sum()))(waveforms)

    def plain(waveforms):
        samples = jnp.pad(waveforms * signal.INT16_SCALE, ((0, 0), (4, 4)))
        return moments(jnp.stack([samples[:, 4 * t : 4 * t + 8] for t in range(9)], axis=1)).sum()

    expected = np.where(np.arange(SAMPLES) < lengths[:, None], jax.grad(plain)(waveforms), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-2)
    assert np.abs(expected).max() > 1e4


@pytest.mark.parametrize(("platform", "loops"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_only_a_cpu_takes_them_in_turn(platform, loops):
    arguments = jax.ShapeDtypeStruct((2, 40_000), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    traced = jax.jit(partial(extract_features, config=FeaturesConfig())).trace(*arguments)
    assert ("stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()) == loops


@pytest.mark.parametrize(("n_fft", "bands"), [(512, 128), (1024, 256), (256, 64), (512, 26), (64, 999)])
def test_a_filter_bank_leaves_out_nothing_but_zeros(n_fft, bands):
    filters = slaney_mel_filters(16_000, n_fft, bands)
    blocks = np.array_split(filters, -(-bands // signal.BANDS), axis=1)
    assert all(block.any() for block in blocks) == (bands < 999), "some filters fall between two frequencies"
    power = np.random.default_rng(1).random((3, 7, n_fft // 2 + 1)).astype(np.float32)
    np.testing.assert_allclose(filter_bank(jnp.asarray(power), filters), power @ filters, rtol=1e-5, atol=1e-9)

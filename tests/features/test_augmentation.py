"""Augmentation: what each change does to the sound, how its draws are distributed, and that they belong to the
utterance, not to its row, batch, padding or device."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import soxr
from tiny import FEATURES, MODEL

from dslstm_jax.config import AugmentationConfig, Config
from dslstm_jax.data.batches import Batch
from dslstm_jax.errors import ConfigError
from dslstm_jax.features import Features, augmentation, extract_features
from dslstm_jax.features.augmentation import (
    augment_spectrograms,
    augment_waveforms,
    change_speed,
    example_keys,
    is_on,
    mixup,
)
from dslstm_jax.models.recognizer import Recognizer, forward
from dslstm_jax.training.step import StepConfig, create_state, cross_entropy, train_step

RATE = 16_000
OFF = AugmentationConfig()
ALL = AugmentationConfig(noise=0.5, gain=6.0, speed=0.1, frequency_masks=2, time_masks=1, mixup=0.4)
augment = jax.jit(augment_waveforms, static_argnames="config")
mask = jax.jit(augment_spectrograms, static_argnames="config")
mix = jax.jit(mixup)
play = jax.jit(change_speed, static_argnames="most")


def compiled(config: AugmentationConfig):
    """`augment_waveforms`, traced again, so that it sees the constants as they are now."""
    return jax.jit(partial(augment_waveforms, config=config))


def keys(count: int, step: int = 0) -> jax.Array:
    return example_keys(jax.random.fold_in(jax.random.key(7), step), jnp.arange(count))


def sounds(lengths: list[int], samples: int, padding: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Noisy tones of different pitch and level; a length of 0 is a padding row."""
    waveforms = np.full((len(lengths), samples), padding, np.float32)
    for row, length in enumerate(lengths):
        generator, time = np.random.default_rng(row), np.arange(length) / RATE
        tone = np.sin(2 * np.pi * (200 + 150 * row) * time)
        waveforms[row, :length] = (tone + 0.1 * generator.normal(size=length)) * 0.1 * (1 + row % 3)
    return jnp.asarray(waveforms), jnp.array(lengths, jnp.int32)


def decibels(ratio) -> np.ndarray:
    return 10 * np.log10(ratio)


def power(x) -> np.ndarray:
    return np.mean(np.square(np.asarray(x, np.float64)), axis=-1)


# Noise


def test_noise_has_its_snr_over_the_valid_samples(monkeypatch):
    snr, lengths = 12.0, [16_000, 200, 5_000, 9_999]
    monkeypatch.setattr(augmentation, "NOISE_SNR", (snr, snr))
    waveforms, counts = sounds(lengths, 16_000)
    found, same = compiled(AugmentationConfig(noise=1.0))(keys(4), waveforms, counts)
    np.testing.assert_array_equal(same, counts)
    for row, length in enumerate(lengths):
        noise = np.asarray(found[row, :length], np.float64) - np.asarray(waveforms[row, :length], np.float64)
        measured = decibels(power(waveforms[row, :length]) / power(noise))
        assert abs(measured - snr) < 0.1, row
        assert not found[row, length:].any()


def test_noise_is_white_and_no_block_of_it_comes_twice():
    waveforms, lengths = sounds([40_000, 40_000], 40_000)
    found, _ = augment(keys(2), waveforms, lengths, config=AugmentationConfig(noise=1.0))
    later, _ = augment(keys(2, step=1), waveforms, lengths, config=AugmentationConfig(noise=1.0))
    noise, other = (np.asarray(x - waveforms, np.float64) for x in (found, later))
    noise, other = (x / x.std(axis=1, keepdims=True) for x in (noise, other))
    spectrum = np.abs(np.fft.rfft(noise)) ** 2 / 40_000
    bands = spectrum[:, 1:].reshape(2, 20, -1).mean(axis=2)
    np.testing.assert_allclose(bands, 1, atol=0.15)
    for lag in (1, 2, 1024, 2048, 4096, 8192, 16_384):
        assert abs((noise[0, lag:] * noise[0, :-lag]).mean()) < 0.04, lag
    assert abs((noise[0] * noise[1]).mean()) < 0.03, "of another utterance"
    assert np.abs((noise * other).mean(axis=1)).max() < 0.03, "of another step"
    np.testing.assert_allclose([np.mean(noise**3), np.mean(noise**4)], [0, 1.8], atol=0.1)


def test_noise_comes_with_its_probability_at_an_snr_uniform_in_its_range(monkeypatch):
    monkeypatch.setattr(augmentation, "NOISE_SNR", (5.0, 15.0))
    count = 2000
    waveforms, lengths = jnp.ones((count, 16)), jnp.full(count, 16)
    found, _ = compiled(AugmentationConfig(noise=0.3))(keys(count), waveforms, lengths)
    noise = np.asarray(power(found - waveforms))
    noisy = noise > 0
    assert abs(noisy.mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / count)
    place = (-decibels(noise[noisy]) - 5) / 10
    assert -1e-3 < place.min() < 0.02
    assert 0.98 < place.max() < 1.001
    assert abs(place.mean() - 0.5) < 4 * math.sqrt(1 / 12 / noisy.sum())


def test_silence_stays_silent():
    found, _ = augment(keys(2), jnp.zeros((2, 500)), jnp.array([500, 0]), config=replace(OFF, noise=1.0, gain=6.0))
    np.testing.assert_array_equal(found, np.zeros_like(found))


# Gain


def test_gain_is_uniform_in_decibels_up_and_down():
    count = 2000
    waveforms, lengths = sounds([100], 120)
    waveforms, lengths = jnp.tile(waveforms, (count, 1)), jnp.tile(lengths, count)
    found, same = augment(keys(count), waveforms, lengths, config=AugmentationConfig(gain=6.0))
    np.testing.assert_array_equal(same, lengths)
    gains = decibels(power(found) / power(waveforms))
    assert -6.001 < gains.min() < -5.9
    assert 5.9 < gains.max() < 6.001
    assert abs(gains.mean()) < 4 * 12 / math.sqrt(12 * count)
    np.testing.assert_allclose(found, waveforms * 10 ** (gains[:, None] / 20), rtol=1e-4)


# Speed


def units(draw: float, most: float) -> int:
    """The speed in parts of 65536."""
    return 65_536 + round((2 * draw - 1) * math.floor(most * 65_536))


@pytest.mark.parametrize("most", [0.1, 0.5])
def test_the_new_length_is_the_old_over_the_speed_rounded_up(most):
    draws = np.array([0, 0.25, 0.5, 0.875, 1], np.float32).repeat(6)
    lengths = np.tile([0, 1, 2, 777, 9_000, 10_000], 5)
    found, counts = play(jnp.ones((30, 10_000)), jnp.asarray(lengths), jnp.asarray(draws), most=most)
    assert found.shape[1] == math.ceil(10_000 / (1 - most))
    expected = [-(-length * 65_536 // units(draw, most)) for length, draw in zip(lengths, draws, strict=True)]
    np.testing.assert_array_equal(counts, expected)
    behind = np.arange(found.shape[1])[None] >= counts[:, None]
    assert not np.asarray(found)[behind].any()


def test_positions_are_exact_after_minutes():
    """A click late in a long recording lands where exact arithmetic puts it, to a hundredth of a sample."""
    samples, click, draw, most = 3_000_000, 2_900_000, 0.9, 0.5
    waveform = np.zeros((1, samples), np.float32)
    waveform[0, click] = 1
    found, _ = play(jnp.asarray(waveform), jnp.array([samples]), jnp.array([draw], jnp.float32), most=most)
    place = click * 65_536 / units(np.float32(draw), most)
    near = np.arange(round(place) - 40, round(place) + 41)
    values = np.asarray(found, np.float64)[0, near]
    assert abs((values * near).sum() / values.sum() - place) < 0.01


def sweep(highest: float, samples: int) -> np.ndarray:
    """From 50 Hz to `highest`, faded in and out."""
    time = np.arange(samples) / RATE
    phase = 50 * time + (highest - 50) * time**2 / (2 * time[-1])
    return 0.5 * np.sin(2 * np.pi * phase) * np.hanning(samples) ** 0.25


def voice(samples: int) -> np.ndarray:
    """Harmonics of a gliding pitch up to 4.5 kHz, in syllables."""
    time = np.arange(samples) / RATE
    phase = np.cumsum(150 + 40 * np.sin(2 * np.pi * 1.3 * time)) / RATE
    harmonics = sum(np.sin(2 * np.pi * k * phase + k * k) / k for k in range(1, 24))
    return 0.2 * harmonics * np.sin(np.pi * 4 * time) ** 2


@pytest.mark.parametrize(("most", "draw"), [(0.1, 0.0), (0.1, 0.3), (0.1, 0.5), (0.1, 1.0), (0.5, 0.0), (0.5, 1.0)])
def test_speed_equals_soxr_within_60_db(most, draw):
    """For what both let pass; soxr at HQ."""
    step = units(draw, most)
    highest = RATE / 2 * (min(1, 65_536 / step) - 0.12)
    for name, signal in {"sweep": sweep(highest, 48_000), "voice": voice(40_000)}.items():
        if name == "voice" and highest < 4600:
            continue
        waveform = jnp.asarray(signal[None], jnp.float32)
        found, counts = play(waveform, jnp.array([len(signal)]), jnp.array([draw], jnp.float32), most=most)
        expected = soxr.resample(signal, step, 65_536, quality="HQ")
        size = min(int(counts[0]), len(expected))
        assert abs(int(counts[0]) - len(expected)) <= 1
        difference = np.asarray(found, np.float64)[0, :size] - expected[:size]
        snr = decibels(power(expected[:size]) / power(difference))
        print(f"{name} at {step / 65_536:.3f} of the speed: {snr:.0f} dB from soxr")
        assert snr > 60


@pytest.mark.parametrize(
    ("hertz", "draw", "most", "level"),
    [(7000, 0.0, 0.1, 0), (6300, 1.0, 0.1, 0), (7260, 1.0, 0.1, -6), (6350, 1.0, 0.5, -60), (7900, 1.0, 0.5, -60)],
)
def test_what_would_alias_is_removed_and_the_rest_kept(hertz, draw, most, level):
    tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(32_000) / RATE) * np.hanning(32_000)
    waveform = jnp.asarray(tone[None], jnp.float32)
    found, counts = play(waveform, jnp.array([32_000]), jnp.array([draw], jnp.float32), most=most)
    change = decibels(power(found[0, : int(counts[0])]) / power(tone))
    assert change < level if level < -6 else change == pytest.approx(level, abs=0.5 if level else 0.01)


def test_speeds_are_uniform():
    count = 2000
    _, lengths = augment(keys(count), jnp.ones((count, 400)), jnp.full(count, 400), config=replace(OFF, speed=0.2))
    speeds = 400 / (np.asarray(lengths) - 0.5)
    assert 0.799 < speeds.min() < 0.805
    assert 1.195 < speeds.max() < 1.203
    assert abs(speeds.mean() - 1) < 4 * 0.4 / math.sqrt(12 * count)


# Masks


def flat_features(rows: int) -> Features:
    generator = np.random.default_rng(1)
    shapes = ((rows, 230, 128), (rows, 120, 256))
    spectrograms = tuple(jnp.asarray(generator.normal(size=shape).astype(np.float32) - 40) for shape in shapes)
    lengths = tuple(jnp.full(rows, x.shape[1]) for x in spectrograms)
    return Features(jnp.ones((rows, 9, 39)), jnp.full(rows, 9), spectrograms, lengths)


@pytest.mark.parametrize(("axis", "masks"), [(1, "time"), (2, "frequency")])
def test_one_mask_is_a_stretch_of_mean_value_as_wide_as_its_share(monkeypatch, axis, masks):
    count = 400
    monkeypatch.setattr(augmentation, f"{masks.upper()}_MASK_WIDTH", 0.25)
    config = AugmentationConfig(**{f"{masks}_masks": 1})
    features = flat_features(count)
    found = jax.jit(partial(augment_spectrograms, config=config))(keys(count), features)
    np.testing.assert_array_equal(found.mfcc, features.mfcc)
    np.testing.assert_array_equal(found.mfcc_lengths, features.mfcc_lengths)
    shares, starts = [], []
    for before, after in zip(features.spectrograms, found.spectrograms, strict=True):
        hidden = np.asarray(before != after)
        lines = hidden.mean(axis=3 - axis) > 0.5
        whole = np.broadcast_to(np.expand_dims(lines, 3 - axis), hidden.shape)
        assert (hidden != whole).mean() < 1e-3, "but for a value that is the mean by chance"
        edges = np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(int), axis=1)
        assert ((edges == 1).sum(axis=1) <= 1).all(), "one stretch"
        mean = np.broadcast_to(np.asarray(before).mean(axis=(1, 2), keepdims=True), before.shape)
        np.testing.assert_allclose(np.asarray(after)[hidden], mean[hidden], rtol=1e-4)
        shares.append(lines.mean(axis=1))
        starts.append(lines.argmax(axis=1) / lines.shape[1])
    assert np.abs(shares[0] - shares[1]).max() <= 1 / 120 + 1 / 128, "the same share in both spectrograms"
    seen = (shares[0] > 0) & (shares[1] > 0)
    assert np.abs(starts[0] - starts[1])[seen].max() <= 1 / 120 + 1 / 128
    for share in shares:
        assert 0.24 < share.max() < 0.26
        assert share.min() < 0.01
        assert abs(share.mean() - 0.125) < 4 * 0.25 / math.sqrt(12 * count)
    middle = (starts[0] + shares[0] / 2)[seen]
    assert middle.min() < 0.1
    assert middle.max() > 0.9
    assert abs(middle.mean() - 0.5) < 4 * 0.26 / math.sqrt(count)


def test_masks_are_as_many_as_asked_and_different(monkeypatch):
    monkeypatch.setattr(augmentation, "FREQUENCY_MASK_WIDTH", 0.05)
    mask = jax.jit(partial(augment_spectrograms, config=AugmentationConfig(frequency_masks=3)))
    features = flat_features(200)
    hidden = np.asarray(mask(keys(200), features).spectrograms[1] != features.spectrograms[1])
    edges = np.diff(np.pad(hidden[:, 0], ((0, 0), (1, 1))).astype(int), axis=1)
    stretches = (edges == 1).sum(axis=1)
    assert stretches.max() == 3
    assert 2 < stretches.mean() < 3, "some of them overlap or vanish"


# Mixup


def pairs(rows: int, samples: int = 3000):
    lengths = [samples - 400 * (row % 4) for row in range(rows)]
    targets = jnp.eye(5)[jnp.arange(rows) % 5]
    return *sounds(lengths, samples), targets, jnp.ones(rows)


def test_a_pair_shares_one_mixture_and_each_row_leads_in_its_own():
    waveforms, lengths, targets, weights = pairs(8)
    found, mixed = mix(keys(8), waveforms, lengths, targets, weights, alpha=0.4)
    for row in range(8):
        other = row ^ 1
        own = float(mixed[row, row % 5])
        assert 0.5 <= own <= 1
        np.testing.assert_allclose(own, float(mixed[other, other % 5]), rtol=1e-6)
        np.testing.assert_allclose(float(mixed[row, other % 5]), 1 - own, atol=1e-6)
        expected = own * np.asarray(waveforms[row]) + (1 - own) * np.asarray(waveforms[other])
        expected[int(lengths[row]) :] = 0
        np.testing.assert_allclose(found[row], expected, atol=1e-6)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, rtol=1e-6)
    assert len(np.unique(np.asarray(mixed.max(axis=1)).round(5))) == 4


def test_the_mixture_does_not_depend_on_the_order_of_the_pair_or_the_pairs():
    batch = (keys(8), *pairs(8))
    order = np.array([5, 4, 0, 1, 7, 6, 3, 2])
    expected = mix(*batch, alpha=0.4)
    found = mix(*(x[order] for x in batch), alpha=0.4)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[order]), found, expected)


def test_nothing_is_mixed_with_a_padding_row():
    waveforms, lengths, targets, _ = pairs(8)
    weights = jnp.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    found, mixed = mix(keys(8), waveforms, lengths, targets, weights, alpha=1.0)
    np.testing.assert_array_equal(found[:4], waveforms[:4])
    np.testing.assert_array_equal(mixed[:4], targets[:4])
    assert (np.asarray(mixed[4:]) != np.asarray(targets[4:])).any()


@pytest.mark.parametrize(("alpha", "mean"), [(1.0, 0.75), (0.2, 0.906), (8.0, 0.599)])
def test_shares_are_betas(alpha, mean):
    """Means of max(l, 1 - l) for l ~ Beta(alpha, alpha), by scipy's quadrature."""
    count = 4000
    targets = jnp.eye(2)[jnp.arange(count) % 2]
    _, mixed = mix(keys(count), jnp.ones((count, 4)), jnp.full(count, 4), targets, jnp.ones(count), alpha=alpha)
    own = np.asarray(mixed.max(axis=1))
    assert abs(own.mean() - mean) < 4 * 0.15 / math.sqrt(count / 2)


def test_an_odd_number_of_rows_is_refused():
    with pytest.raises(ConfigError, match=r"training\.batch_size"):
        mixup(keys(3), *pairs(3), alpha=0.2)


# Draws belong to the utterance


def prepare(step, examples, waveforms, lengths, targets, weights):
    """What a training step does to its batch before the network."""
    own = example_keys(jax.random.fold_in(jax.random.key(0), step), examples)
    waveforms, targets = mixup(own, waveforms, lengths, targets, weights, ALL.mixup)
    waveforms, lengths = augment_waveforms(own, waveforms, lengths, ALL)
    return waveforms, lengths, targets, augment_spectrograms(own, extract_features(waveforms, lengths, FEATURES), ALL)


def everything(*batch):
    """The same without the MFCC, which are as long as the padding."""
    *rest, features = prepare(*batch)
    return *rest, features.spectrograms


changed = jax.jit(everything)


@pytest.fixture(scope="module")
def batch():
    waveforms, lengths = sounds([12_000, 9_000, 3_000, 12_000, 5_001, 7_000, 8_000, 0], 12_000)
    targets = jnp.eye(3)[jnp.arange(8) % 3]
    return jnp.array([31, 4, 15, 92, 65, 35, 89, 0]), waveforms, lengths, targets, (lengths > 0).astype(jnp.float32)


def assert_same(found, expected):
    """The same numbers but for the order of sums, whichever is padded further."""
    waveforms, *rest = found
    expected_waveforms, *expected_rest = expected
    size = min(waveforms.shape[1], expected_waveforms.shape[1])
    np.testing.assert_allclose(waveforms[:, :size], expected_waveforms[:, :size], atol=2e-6)
    assert not waveforms[:, size:].any()
    assert not expected_waveforms[:, size:].any()
    # Where a band's power is at the rounding of float32, decibels magnify it.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=0.02), rest, expected_rest)


def test_the_same_in_any_row(batch):
    order = np.array([5, 4, 2, 3, 7, 6, 0, 1])
    found = changed(3, *(x[order] for x in batch))
    assert_same(found, jax.tree.map(lambda x: x[order], changed(3, *batch)))


def test_the_same_in_a_smaller_batch_with_longer_padding(batch):
    examples, waveforms, *rest = (x[2:4] for x in batch)
    longer = jnp.pad(waveforms, ((0, 0), (0, 18_001)), constant_values=np.nan)
    assert_same(changed(3, examples, longer, *rest), jax.tree.map(lambda x: x[2:4], changed(3, *batch)))


def test_the_same_on_two_devices(batch):
    halves = jax.pmap(partial(everything, 3))(*(x.reshape(2, 4, *x.shape[1:]) for x in batch))
    assert_same(jax.tree.map(lambda x: np.asarray(x).reshape(8, *x.shape[2:]), halves), changed(3, *batch))


@pytest.mark.parametrize("partitionable", [True, False])
def test_the_same_noise_with_longer_padding_however_jax_numbers_a_draw(monkeypatch, partitionable):
    monkeypatch.setattr(augmentation, "NOISE_SNR", (0.0, 0.0))
    short, long = (jnp.ones((3, samples)) for samples in (5_000, 17_000))
    lengths, noisy = jnp.array([5_000, 4_000, 4_096]), compiled(AugmentationConfig(noise=1.0))
    with jax.threefry_partitionable(partitionable):
        noise = [np.asarray(noisy(keys(3), x, lengths)[0])[:, :5_000] - 1 for x in (short, long)]
    assert noise[0].std() > 0.9
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-6)


def test_other_draws_in_another_step_and_for_another_utterance(batch):
    _, waveforms, lengths, _, _ = batch
    same = jnp.tile(waveforms[:1], (8, 1)), jnp.tile(lengths[:1], 8)
    rows = (jnp.arange(8), *same, jnp.eye(3)[jnp.arange(8) % 2], jnp.ones(8))
    first, second = changed(0, *rows), changed(1, *rows)
    for found in (first, second):
        assert len(np.unique(found[1])) > 5, "speeds"
        assert len(np.unique(np.asarray(found[2]), axis=0)) == 8, "mixtures"
        assert len(np.unique(np.asarray(found[0])[:, 100])) == 8
    for a, b in zip(first[:3], second[:3], strict=True):
        assert (np.asarray(a) != np.asarray(b)).reshape(8, -1).any(axis=1).sum() > 5


def test_draws_of_different_changes_are_independent(monkeypatch):
    count = 1000
    monkeypatch.setattr(augmentation, "NOISE_SNR", (30.0, 40.0))
    change = compiled(replace(OFF, speed=0.2, gain=6.0, noise=0.5))
    found, lengths = change(keys(count), jnp.ones((count, 400)), jnp.full(count, 400))
    middle = np.asarray(found)[:, 100:200]
    quantities = [lengths, middle.mean(axis=1), middle.std(axis=1) / middle.mean(axis=1) > 0.005]
    correlations = np.corrcoef(quantities)
    assert np.abs(correlations - np.eye(3)).max() < 4 / math.sqrt(count)


def test_a_change_does_not_move_the_draws_of_another(monkeypatch):
    monkeypatch.setattr(augmentation, "NOISE_SNR", (60.0, 60.0))
    waveforms, lengths = sounds([4_000, 3_000], 4_000)
    alone, _ = augment(keys(2), waveforms, lengths, config=replace(OFF, gain=6.0))
    both, _ = compiled(replace(OFF, gain=6.0, noise=1.0))(keys(2), waveforms, lengths)
    np.testing.assert_allclose(both, alone, atol=0.01 * float(jnp.abs(alone).max()))


# Padding is data


def mixed(waveforms, lengths):
    return mixup(keys(8), waveforms, lengths, jnp.eye(8), (lengths > 0).astype(jnp.float32), 0.4)


def sounding(config: AugmentationConfig):
    return lambda waveforms, lengths: augment_waveforms(keys(8), waveforms, lengths, config)


def masked(waveforms, lengths):
    features = extract_features(waveforms, lengths, FEATURES)
    return augment_spectrograms(keys(8), features, ALL).spectrograms


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(mixed, id="mixup"),
        pytest.param(sounding(AugmentationConfig(speed=0.1)), id="speed"),
        pytest.param(sounding(AugmentationConfig(noise=1.0)), id="noise"),
        pytest.param(sounding(AugmentationConfig(gain=6.0)), id="gain"),
        pytest.param(sounding(replace(ALL, noise=1.0)), id="all"),
        pytest.param(masked, id="masks"),
    ],
)
def test_nan_padding_never_leaks(change, batch):
    """Neither into a value nor into a gradient; a silent recording and a padding row have gradients too."""
    _, waveforms, lengths, _, _ = batch
    waveforms = waveforms.at[5].set(0)
    valid = jnp.arange(12_000)[None] < lengths[:, None]

    def total(waveforms):
        found = change(waveforms, lengths)
        return sum((x**2).sum() for x in jax.tree.leaves(found) if jnp.issubdtype(x.dtype, jnp.floating)), found

    run = jax.jit(jax.value_and_grad(total, has_aux=True))
    expected, found = run(jnp.where(valid, waveforms, 0)), run(jnp.where(valid, waveforms, np.nan))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    gradient = np.asarray(found[1])
    assert not gradient[~np.asarray(valid)].any()
    assert gradient[0].any()


# Off, and in the train step

CONFIG = Config(features=FEATURES, model=MODEL, augmentation=ALL)
OPTIMIZER = optax.sgd(1e-2)
learn = jax.jit(partial(train_step, config=StepConfig.of(CONFIG), optimizer=OPTIMIZER))


@pytest.fixture(scope="module")
def state():
    return create_state(CONFIG, 3, OPTIMIZER)


@pytest.fixture(scope="module")
def utterances(batch) -> Batch:
    examples, waveforms, lengths, _, weights = batch
    return Batch(waveforms, lengths, jnp.array([0, 1, 2, 0, 1, 2, 0, 99]), weights, examples)


def test_off_means_off(state, utterances):
    assert not is_on(OFF)
    for name in ("noise", "gain", "speed", "frequency_masks", "time_masks", "mixup"):
        assert is_on(replace(OFF, **{name: getattr(ALL, name)}))
    off = replace(CONFIG, augmentation=OFF)
    run = jax.jit(partial(forward, config=off, train=True))
    plain = run(state.variables, utterances.waveforms, utterances.lengths)
    keyed = run(state.variables, utterances.waveforms, utterances.lengths, keys=keys(8))
    jax.tree.map(np.testing.assert_array_equal, keyed, plain)
    step = jax.make_jaxpr(partial(train_step, config=StepConfig.of(off), optimizer=OPTIMIZER))(state, utterances)
    assert "random" not in str(step)
    step = jax.make_jaxpr(partial(train_step, config=StepConfig.of(CONFIG), optimizer=OPTIMIZER))(state, utterances)
    assert "random" in str(step)


def test_a_step_lowers_the_loss_and_counts_the_utterances_own_labels(state, utterances):
    after, before = learn(state, utterances)
    assert after.step == 1
    _, again = learn(after.replace(step=state.step), utterances)  # the same step, so the same draws
    assert 0 < again.loss < before.loss
    assert before.utterances == 7
    np.testing.assert_array_equal(before.confusion.sum(axis=1), [3, 2, 2])


def test_a_step_learns_from_what_is_mixed_changed_and_masked(state, utterances):
    @jax.jit
    def loss(variables, batch):
        *_, targets, features = prepare(
            state.step, batch.examples, batch.waveforms, batch.lengths, jax.nn.one_hot(batch.labels, 3), batch.weights
        )
        branches, _ = Recognizer(CONFIG.recognizer, 3).apply(variables, features, train=True, mutable=["batch_stats"])
        return cross_entropy(branches, targets, batch.weights)

    _, totals = learn(state, utterances)
    np.testing.assert_allclose(totals.loss, loss(state.variables, utterances), rtol=1e-5)


def test_steps_draw_anew(state, utterances):
    _, first = learn(state, utterances)
    _, second = learn(state.replace(step=state.step + 1), utterances)
    assert first.loss != second.loss


def test_a_step_is_the_same_for_other_orders_of_the_pairs(state, utterances):
    order = np.array([3, 2, 6, 7, 1, 0, 4, 5])
    found, totals = learn(state, jax.tree.map(lambda x: x[order], utterances))
    expected, same = learn(state, utterances)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), totals, same)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found.variables, expected.variables)


def test_an_odd_batch_is_refused_only_where_it_must_be_paired(state, utterances):
    odd = jax.tree.map(lambda x: x[:7], utterances)
    with pytest.raises(ConfigError, match=r"training\.batch_size"):
        jax.eval_shape(learn, state, odd)
    unpaired = replace(CONFIG, augmentation=replace(ALL, mixup=0.0))
    jax.eval_shape(partial(train_step, config=StepConfig.of(unpaired), optimizer=OPTIMIZER), state, odd)

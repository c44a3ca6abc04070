"""Streaming: sound in pieces of any size, the answer of the whole recording at the end."""

import gc
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from tiny import FEATURES, MODEL

from dslstm_jax.config import (
    FeaturesConfig,
    MfccConfig,
    ModelConfig,
    RecognizerConfig,
    SpectrogramConfig,
    load_config,
)
from dslstm_jax.data.batches import pad_waveforms
from dslstm_jax.errors import AudioError, ConfigError
from dslstm_jax.features import pitch
from dslstm_jax.models.pooling import Summary, combine
from dslstm_jax.models.receptive_field import receptive_fields
from dslstm_jax.models.recognizer import initialize
from dslstm_jax.serving import streaming
from dslstm_jax.serving.predictor import Prediction, Predictor, predict

RATE = 16_000
CONFIGS = Path(__file__).parents[2] / "configs"
OWN_FRAMES = FeaturesConfig(
    spectrograms=tuple(replace(spectrogram, frames=0) for spectrogram in FEATURES.spectrograms)
)
BRANCHES = {
    "attention": ModelConfig("ds_lstm", normalize="corpus", pooling="attention", recurrent_norm="none"),
    "statistics": ModelConfig("ds_lstm", pooling="statistics", recurrent_norm="layer"),
    "mean": ModelConfig("ds_lstm", pooling="mean", recurrent_norm="shared"),
    "spectrograms only": ModelConfig("ds_lstm", mfcc_branch=False, recurrent_norm="shared"),
    "cnn_lstm": ModelConfig("lstm", normalize="corpus", pooling="attention"),
    "mfcc only": ModelConfig("none", pooling="statistics"),
}
SMALL = {name: getattr(MODEL, name) for name in ("channels", "hidden", "mfcc_hidden", "layers")}
CASES = {
    name: RecognizerConfig(features=OWN_FRAMES, model=replace(model, **SMALL)) for name, model in BRANCHES.items()
}
CASES["odd sizes"] = RecognizerConfig(
    features=FeaturesConfig(
        sample_rate=11_025,
        mfcc=MfccConfig(hop_length=112),
        spectrograms=(SpectrogramConfig(405, 150, 16, 0), SpectrogramConfig(700, 300, 24, 0)),
    ),
    model=replace(CASES["mean"].model, kernels=((4, 3), (3, 5)), layers=1),
)
CASES["mfcc of a stretched model"] = RecognizerConfig(model=replace(CASES["mfcc only"].model, pooling="mean"))
CASES["pitch"] = replace(CASES["mfcc only"], features=replace(OWN_FRAMES, pitch=True))
CHUNKS = (1, 160, 333, 16_000)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Of a level that rises and falls, so that no part is like another one."""
    generator = np.random.default_rng(seed)
    times = np.arange(samples) / RATE
    return (generator.normal(size=samples) * 0.1 * np.exp(2 * np.sin(3 * times))).clip(-1, 1).astype(np.float32)


def lively(config: RecognizerConfig, classes: int = 4) -> Predictor:
    """An untrained recognizer that decibels do not saturate and whose answers are far apart."""
    variables = initialize(jax.random.key(0), config, classes)
    first = "batch_norm_0" if config.model.normalize == "none" else "normalization"
    variables["batch_stats"] = jax.tree.map_with_path(
        lambda path, leaf: 100 * leaf if first in jax.tree_util.keystr(path) else leaf,
        variables.get("batch_stats", {}),
    )
    for branch in variables["params"].values():
        # With layer norm, whose outputs vary more, 30 would leave one class alone.
        branch["classifier"]["kernel"] *= 5 if config.model.recurrent_norm == "layer" else 30
        for name in branch:
            if "gate_scale" in branch[name]:
                branch[name]["gate_scale"] *= 10
    return Predictor(variables, config, [f"class {index}" for index in range(classes)])


FAST = ("attention", "pitch", "odd sizes", "mfcc only", "cnn_lstm")
"""Cases that have every kind of pooling, branch and frame; the others are combinations of what these have."""


@pytest.fixture(
    scope="module", params=[name if name in FAST else pytest.param(name, marks=pytest.mark.long) for name in CASES]
)
def predictor(request) -> Predictor:
    return lively(CASES[request.param])


@pytest.fixture(scope="module")
def attention() -> Predictor:
    return lively(CASES["attention"])


def shares(prediction: Prediction) -> np.ndarray:
    return np.array(list(prediction.probabilities.values()))


def stream(predictor: Predictor, samples: np.ndarray, chunk: int, rate: float | None = None) -> list[Prediction]:
    """All answers, that of the whole last."""
    opened = predictor.stream(rate or predictor.sample_rate)
    pushed = [opened.push(samples[start : start + chunk]) for start in range(0, len(samples), chunk)]
    return [*filter(None, pushed), opened.finish()]


def whole(predictor: Predictor, samples: np.ndarray) -> np.ndarray:
    """`Predictor.__call__` by one program for all lengths."""
    padded, lengths = pad_waveforms([samples], 1, 40_000)
    return np.asarray(predict(predictor.variables, padded, lengths, config=predictor.config))[0]


def test_the_answer_is_that_of_the_whole_recording_at_any_length(predictor):
    rate = predictor.sample_rate
    sound, hop = noise(40_000), round(streaming.STEP * rate)
    edges = {field.after for field in receptive_fields(predictor.config)} | {hop, 3 * hop}
    edges |= {field.shortest for field in receptive_fields(predictor.config)} | {280, 281, 400, 401}
    lengths = {edge + more for edge in edges for more in (-1, 0, 1)} | set(range(160, 24_000, 2285)) | {40_000}
    answers, differences = [], {}
    for length in sorted(length for length in lengths if length >= 0.01 * rate):
        found = stream(predictor, sound[:length], 5000)[-1]
        assert found.duration_seconds == length / rate
        answers.append(shares(found))
        differences[length] = np.abs(answers[-1] - whole(predictor, sound[:length])).max()
    worst = max(differences, key=differences.__getitem__)
    print(f"{len(answers)} lengths: at most {differences[worst]:.1e} apart, at {worst} samples")
    assert differences[worst] <= 2e-5
    assert np.ptp(answers, axis=0).max() > 0.02, "the answers do differ"


@pytest.mark.parametrize("case", ["cnn_lstm", "odd sizes", "attention", "pitch"])
def test_a_frame_depends_on_its_receptive_field_alone(case):
    """One frame by itself, of the whole sound and of the smallest cut-out that has it; a step of a stream that were
    wrong by a frame would hardly show in an answer."""
    predictor = lively(CASES[case])
    fields, sound, frame = receptive_fields(predictor.config), noise(30_000), 8

    @jax.jit
    def logits(parts):
        return jnp.log(streaming.step(predictor.variables, None, parts, config=predictor.config)[0])

    def alone(number, samples, frame):
        """The logits of one frame of the `number`-th sequence, and of no frame of the others."""
        padded, lengths = pad_waveforms([samples], 1, len(sound))
        first, ends = np.array([frame]), [np.array([frame + (index == number)]) for index in range(len(fields))]
        return np.asarray(logits(tuple(streaming.Part(padded, lengths, first, end) for end in ends)))

    for number, field in enumerate(fields):
        start, end = (frame - field.context) * field.hop, frame * field.hop + field.after
        expected = alone(number, sound, frame)
        np.testing.assert_allclose(alone(number, sound[start:end], field.context), expected, atol=1e-5)
        assert np.abs(alone(number, sound, frame + 1) - expected).max() > 1e-3, "frames do differ"


def test_the_pitch_of_a_frame_depends_on_its_receptive_field_alone():
    """Seen in the pitch itself: beside the MFCC it moves an untrained recognizer little."""
    config, sound, frame = CASES["pitch"], noise(30_000), 8
    (field,) = receptive_fields(config)
    start, end = (frame - field.context) * field.hop, frame * field.hop + field.after
    whole, part = (pitch(samples[None], jnp.array([len(samples)]))[0][0] for samples in (sound, sound[start:end]))
    np.testing.assert_allclose(part[field.context], whole[frame], atol=1e-5)


def test_the_answer_is_that_of_the_predictor(attention):
    sound = noise(30_001, 3)
    expected = attention(sound, RATE)
    found = stream(attention, sound, 700)[-1]
    assert (found.label, found.duration_seconds) == (expected.label, expected.duration_seconds)
    np.testing.assert_allclose(shares(found), shares(expected), atol=2e-5)


def test_chunks_make_no_difference_to_any_bit(attention):
    sound = noise(29_000)
    by_chunk = [stream(attention, sound, chunk) for chunk in CHUNKS]
    times = [0.5, 1.0, 1.5, 29_000 / RATE]
    assert [answer.duration_seconds for answer in by_chunk[0]] == times
    assert by_chunk[1] == by_chunk[2] == by_chunk[0]
    assert by_chunk[3] == by_chunk[0][1:], "two steps at once give one answer"
    assert stream(attention, sound, len(sound)) == by_chunk[0][2:]
    for answer in by_chunk[0]:
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert len({tuple(shares(answer)) for answer in by_chunk[0]}) == 4, "every step learns more"


def test_sound_is_heard_within_the_latency(attention):
    """And not before it came."""
    sound = noise(40_000)
    for change in (0, 4321, 16_000):
        other = sound.copy()
        other[change] = 1 - other[change]
        pairs = zip(stream(attention, sound, 160), stream(attention, other, 160), strict=True)
        heard = next(a.duration_seconds for a, b in pairs if a != b)
        latency = attention.stream(RATE).latency_seconds
        assert change / RATE < heard <= change / RATE + latency
    assert latency == pytest.approx(0.5 + 5120 / RATE)


def test_one_program_serves_all_streams(attention):
    config = replace(attention.config, model=replace(attention.config.model, dropout=0.4))
    before = streaming.step._cache_size()
    for length, chunk, rate in [(160, 160, RATE), (30_000, 1, RATE), (50_000, 441, 44_100), (24_000, 24_000, RATE)]:
        stream(Predictor(attention.variables, config, attention.labels), noise(length), chunk, rate)
    assert streaming.step._cache_size() - before == 1


def test_what_lies_behind_the_sound_leaks_nowhere(predictor, monkeypatch):
    samples = noise(21_000)
    expected = stream(predictor, samples, 3000)
    parts, spoiled = streaming.Stream._parts, []

    def spoil(self, ended):
        for part in parts(self, ended):
            silent = max(int(part.lengths[0]), *(field.shortest for field in receptive_fields(predictor.config)))
            part.waveforms[:, silent:] = np.nan
            spoiled.append(part.waveforms.shape[1] - silent)
            yield part

    monkeypatch.setattr(streaming.Stream, "_parts", lambda self, ended: tuple(spoil(self, ended)))
    assert stream(predictor, samples, 3000) == expected
    assert max(spoiled) > 0


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000, 16_000.5])
def test_other_rates_are_resampled_as_they_come(attention, rate):
    """By the same resampler, and equal to the last bit before the recognizer."""
    sound = noise(round(1.3 * rate))
    expected = attention(sound, rate)
    for chunk in (1, 441, len(sound)):
        found = stream(attention, sound, chunk, rate)[-1]
        assert found.duration_seconds == expected.duration_seconds
        np.testing.assert_allclose(shares(found), shares(expected), atol=2e-5)


def test_channels_and_integers_are_taken_as_they_come(attention):
    stereo = np.round(np.stack([noise(20_000, 1), noise(20_000, 2)], axis=1) * 32767).astype(np.int16)
    expected = shares(attention(stereo, RATE))
    for samples in (stereo, stereo / 32768):
        for chunk in (1, 333):
            np.testing.assert_allclose(shares(stream(attention, samples, chunk)[-1]), expected, atol=2e-5)


def test_a_chunk_may_be_changed_after_it_was_pushed(attention):
    opened, chunk, sound = attention.stream(RATE), np.zeros(333, np.float32), noise(333 * 40)
    for start in range(0, len(sound), 333):
        chunk[:] = sound[start : start + 333]
        opened.push(chunk)
        chunk[:] = np.nan
    assert opened.finish() == stream(attention, sound, 333)[-1]


def test_bfloat16_streams_too(attention):
    config = replace(attention.config, model=replace(attention.config.model, dtype="bfloat16"))
    short = Predictor(attention.variables, config, attention.labels)
    sound = noise(30_000)
    np.testing.assert_allclose(shares(stream(short, sound, 777)[-1]), whole(short, sound), atol=2e-2)


def test_a_chunk_that_is_refused_changes_nothing(attention):
    opened, sound = attention.stream(RATE), noise(20_000)
    for start in range(0, len(sound), 1000):
        for bad in (np.full(5, np.nan), np.full(5, 1e4), np.zeros((5, 5, 5)), np.zeros((5, 33)), "sound"):
            with pytest.raises(AudioError):
                opened.push(bad)
        assert opened.push(np.zeros(0)) is None, "nothing is not bad"
        opened.push(sound[start : start + 1000])
    found = opened.finish()
    assert found == stream(attention, sound, 1000)[-1]
    for call in (opened.finish, lambda: opened.push(sound)):
        with pytest.raises(AudioError, match=r"^the stream has ended; begin another one with Predictor\.stream$"):
            call()


def test_silence_has_no_answer(attention):
    opened = attention.stream(RATE)
    assert opened.push(np.zeros(20_000)) is None
    assert opened.push(np.zeros(4_000)) is None
    with pytest.raises(AudioError, match=r"^digital silence"):
        opened.finish()
    opened, sound = attention.stream(RATE), np.concatenate([np.zeros(24_100, np.float32), noise(9_000)])
    assert opened.push(sound[:24_000]) is None
    assert opened.push(sound[24_000:32_100]).duration_seconds == 2.0
    opened.push(sound[32_100:])
    np.testing.assert_allclose(shares(opened.finish()), whole(attention, sound), atol=2e-5)


@pytest.mark.parametrize("samples", [0, 159])
def test_too_little_is_said(attention, samples):
    opened = attention.stream(RATE)
    assert opened.push(noise(samples)) is None
    with pytest.raises(AudioError, match=rf"^too short: {samples} samples at 16000 Hz, less than 0.01 s$"):
        opened.finish()


def test_bad_rates_are_refused(attention):
    for rate in (0, 16, float("nan"), "fast"):
        with pytest.raises(AudioError, match=r"^sample rate"):
            attention.stream(rate)


@pytest.mark.parametrize(
    ("said", "features", "changes"),
    [
        (r"features\.spectrograms: frames are \[60, 32\].* must be 0", FEATURES, {}),
        (r"features\.trim is 35\.0.* must be 0", replace(OWN_FRAMES, trim=35.0), {}),
        (r"model\.normalize is utterance.* must be corpus or none", OWN_FRAMES, {"normalize": "utterance"}),
        (r"model\.bidirectional is True.* must be False", OWN_FRAMES, {"bidirectional": True}),
    ],
)
def test_what_needs_the_whole_recording_is_refused(attention, said, features, changes):
    config = RecognizerConfig(features=features, model=replace(CASES["attention"].model, **changes))
    with pytest.raises(ConfigError, match=f"^{said}"):
        Predictor(attention.variables, config, attention.labels).stream(RATE)


def test_the_paper_s_rows_that_stream():
    """Only the MFCC's LSTM does not wait for the end."""
    rows = ("m_lstm", "cnn_lstm_512", "m_ds_lstm", "dual_level")
    causal = []
    for row in rows:
        try:
            streaming.check_causal(load_config(f"{CONFIGS / 'paper.py'}:{row}").recognizer)
            causal.append(row)
        except ConfigError:
            pass
    assert causal == ["m_lstm"]


@pytest.mark.parametrize("kind", ["mean", "statistics", "attention"])
def test_summaries_of_an_hour_are_exact(kind):
    """7200 parts of 50 frames, in float32, against numpy's float64 over all frames."""
    generator = np.random.default_rng(0)
    frames = 0.7 + 0.2 * generator.normal(size=(7200, 50, 3)) + np.linspace(-0.3, 0.3, 7200)[:, None, None]
    scores = generator.normal(size=(7200, 50)) * 3 - 100 + np.linspace(0, 30, 7200)[:, None]
    weights = np.exp(scores - scores.max()) if kind == "attention" else np.ones_like(scores)
    part_weights = np.exp(scores - scores.max(1, keepdims=True)) if kind == "attention" else weights

    def summary(weights, frames, scores):
        shares = weights / weights.sum()
        mean = shares @ frames
        return {
            "weight": weights.sum(keepdims=True)[None],
            "mean": mean[None],
            "variance": (shares @ (frames - mean) ** 2)[None] if kind == "statistics" else None,
            "largest": scores.max(keepdims=True)[None] if kind == "attention" else None,
        }

    parts = [summary(*part) for part in zip(part_weights, frames, scores, strict=True)]
    parts = jax.tree.map(lambda *rows: jnp.asarray(np.stack(rows), jnp.float32), *(Summary(**part) for part in parts))
    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), parts)

    def add(before, part):
        return combine(combine(before, part), nothing), None

    found, _ = jax.jit(lambda parts: jax.lax.scan(add, nothing, parts))(parts)
    expected = summary(weights.ravel(), frames.reshape(-1, 3), scores.ravel())
    np.testing.assert_allclose(found.mean, expected["mean"], rtol=3e-6)
    np.testing.assert_allclose(found.weight, expected["weight"], rtol=3e-5)
    if kind == "statistics":
        np.testing.assert_allclose(found.variance, expected["variance"], rtol=3e-6)
    if kind == "attention":
        np.testing.assert_allclose(found.largest, expected["largest"], rtol=1e-6)


@pytest.fixture(scope="module")
def real() -> Predictor:
    """Of the size of a real one."""
    return lively(load_config(str(CONFIGS / "pretrained.py")).recognizer, 8)


@pytest.mark.corpus
@pytest.mark.long
def test_20_ravdess_files_in_chunks_of_any_size(real):
    root = os.environ.get("DSLSTM_TEST_DATA")
    if root is None:
        pytest.skip("DSLSTM_TEST_DATA is not set")
    files = sorted(Path(root, "data", "ravdess").glob("Actor_*/*.wav"))[::72]
    assert len(files) == 20
    differences, answers = dict.fromkeys(CHUNKS, 0.0), []
    for file in files:
        samples, rate = soundfile.read(file)
        expected = shares(real(samples, rate))
        answers.append(expected)
        for chunk in CHUNKS:
            found = shares(stream(real, samples, chunk, rate)[-1])
            differences[chunk] = max(differences[chunk], np.abs(found - expected).max())
    print("20 files, streamed and whole: " + ", ".join(f"{k}: {v:.1e}" for k, v in differences.items()))
    assert max(differences.values()) <= 1e-4
    assert np.ptp(answers, axis=0).max() > 0.1, "the answers do differ"


def resident() -> float:
    """Megabytes of memory that this process has now."""
    gc.collect()
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.mark.long
def test_an_hour_takes_no_more_memory_than_a_minute(real):
    """And ten minutes, the longest that can be recognized whole, have the same answer."""
    minute, sizes = [noise(60 * RATE, seed) for seed in range(5)], []
    opened, start = real.stream(RATE), time.perf_counter()
    for number in range(60):
        sound = minute[number % 5] * np.float32(1 + number % 7 / 10)
        for place in range(0, len(sound), 1600):
            opened.push(sound[place : place + 1600])
        sizes.append(resident())
    answer, seconds = opened.finish(), time.perf_counter() - start
    print(
        f"one hour in {seconds:.0f} s, real-time factor {seconds / 3600:.4f}; "
        f"{sizes[0]:.0f} MB after one minute, {sizes[9]:.0f} after ten, {sizes[-1]:.0f} after sixty"
    )
    assert answer.duration_seconds == 3600
    assert max(sizes[9:]) - sizes[0] < 8
    sound = np.concatenate(minute * 2)
    expected, found = shares(real(sound, RATE)), shares(stream(real, sound, 1600)[-1])
    print(f"ten minutes, streamed and whole: {np.abs(found - expected).max():.1e}")
    np.testing.assert_allclose(found, expected, atol=1e-4)

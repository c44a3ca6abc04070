"""Prediction: any sound in, one answer out, whatever it is padded with."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import dslstm_jax
from dslstm_jax.data.batches import pad_waveforms
from dslstm_jax.errors import AudioError, RunError
from dslstm_jax.serving import predictor as predictor_module
from dslstm_jax.serving.predictor import GROUP, Prediction, Predictor, predict


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return dslstm_jax.load(trained)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Pink-ish noise, different for every seed."""
    generator = np.random.default_rng(seed)
    return np.clip(np.cumsum(generator.normal(size=round(seconds * 16_000))) * 0.003, -1, 1).astype(np.float32)


def shares(predictions: list[Prediction]) -> np.ndarray:
    return np.array([list(prediction.probabilities.values()) for prediction in predictions])


def test_one_recording(predictor, tones):
    samples, rate = soundfile.read(tones / "wav" / "03a01Wa.wav")
    prediction = predictor(samples, rate)
    assert list(prediction.probabilities) == ["happy", "neutral", "angry", "sad"]
    assert prediction.label == max(prediction.probabilities, key=prediction.probabilities.get)
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert prediction.duration_seconds == pytest.approx(len(samples) / rate)
    assert len(set(shares([prediction])[0])) > 1


def test_a_path_bytes_or_an_open_file_need_no_rate(predictor, tones, tmp_path):
    path = tones / "wav" / "03a01Wa.wav"
    expected = predictor(*soundfile.read(path))
    with path.open("rb") as file:
        answers = [predictor(sound) for sound in (path, str(path), path.read_bytes(), file)]
    np.testing.assert_allclose(shares(answers), shares([expected] * 4), atol=1e-6)
    with path.open() as text:
        for sound in (noise(0.5), [0.1, 0.2], text):
            with pytest.raises(AudioError, match=r"^give a path, bytes or .* samples with their sample_rate$"):
                predictor(sound)
    with pytest.raises(AudioError, match=r"^not a sound file"):
        predictor(b"RIFF but no more")
    with pytest.raises(AudioError, match=r"missing\.wav: no such file"):
        predictor(tmp_path / "missing.wav")


@pytest.mark.parametrize("backend", ["cudnn", "pallas_tpu"])
def test_a_run_that_was_trained_on_an_accelerator_predicts_here(predictor, trained, tmp_path, backend):
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    config["model"]["lstm_backend"] = backend
    file.write_text(json.dumps(config))
    assert dslstm_jax.load(tmp_path / "run")(noise(1), 16_000) == predictor(noise(1), 16_000)


def test_rates_channels_and_types_are_taken_as_they_come(predictor, tones):
    samples, rate = soundfile.read(tones / "wav" / "08a01Fa.wav", dtype="int16")
    expected = shares([predictor(samples / 32768, rate)])
    np.testing.assert_allclose(shares([predictor(samples, rate)]), expected, atol=1e-6)
    np.testing.assert_allclose(shares([predictor(np.stack([samples] * 2, axis=1), rate)]), expected, atol=1e-6)
    doubled = np.repeat(samples, 2)  # crude, but the same sound at 32 kHz below the images
    np.testing.assert_allclose(shares([predictor(doubled, 2 * rate)]), expected, atol=0.2)


def test_batch_equals_one_by_one(predictor):
    recordings = [
        noise(seconds, seed) for seed, seconds in enumerate([0.5, 1.7, 0.02, 0.9, 2.5, 1.0, 0.4, 0.3, 0.8, 0.6])
    ]
    together = predictor.batch(recordings, 16_000)
    alone = [predictor(recording, 16_000) for recording in recordings]
    np.testing.assert_allclose(shares(together), shares(alone), atol=1e-5)
    assert [prediction.duration_seconds for prediction in together] == [len(x) / 16_000 for x in recordings]
    assert np.ptp(shares(together), axis=0).max() > 1e-3, "the recordings do differ"


def test_more_padding_changes_no_probability(predictor):
    recordings = [noise(0.7, 1), noise(0.31, 2)]
    answers = []
    for rows, length in [(2, 16_000), (3, 16_000), (7, 40_000)]:
        padded, lengths = pad_waveforms(recordings, rows, length)
        answers.append(np.asarray(predict(predictor.variables, padded, lengths, config=predictor.config))[:2])
    differences = [np.abs(answer - answers[0]).max() for answer in answers[1:]]
    print(f"padding further changes probabilities by at most {max(differences):.1e}")
    assert max(differences) <= 1e-5


def test_nan_in_the_padding_changes_nothing(predictor):
    padded, lengths = pad_waveforms([noise(0.7, 1), noise(0.31, 2)], 3, 16_000)
    behind = np.arange(16_000) >= lengths[:, None]
    expected = predict(predictor.variables, padded, lengths, config=predictor.config)
    found = predict(predictor.variables, np.where(behind, np.nan, padded), lengths, config=predictor.config)
    np.testing.assert_array_equal(found[:2], expected[:2])


def test_predict_is_pure_and_differentiable(predictor):
    padded, lengths = pad_waveforms([noise(0.5, 3)], 1, 16_000)

    def first(waveforms):
        return predict(predictor.variables, waveforms, lengths, config=predictor.config)[0, 0]

    gradient = jax.grad(first)(jnp.asarray(padded))
    assert bool(jnp.isfinite(gradient).all())
    assert np.abs(gradient[0, : lengths[0]]).max() > 0
    assert not gradient[0, lengths[0] :].any()


def test_200_files_of_mixed_length_compile_at_most_6_programs(predictor, tmp_path):
    lengths = np.geomspace(0.03, 31, 200)
    paths = []
    for index, seconds in enumerate(np.random.default_rng(0).permutation(lengths)):
        paths.append(tmp_path / f"{index:03}.wav")
        soundfile.write(paths[-1], noise(seconds, index), 16_000)
    before = predict._cache_size()
    answers = list(predictor.files(paths))
    programs = predict._cache_size() - before
    print(f"200 files from {lengths[0]:.2f} to {lengths[-1]:.0f} s compiled {programs} programs")
    assert all(isinstance(answer, Prediction) for answer in answers)
    assert programs <= 6
    durations = [answer.duration_seconds for answer in answers]
    assert durations == [soundfile.info(path).frames / 16_000 for path in paths], "answers come in the order asked"


def test_a_bad_file_among_good_ones_yields_its_error(predictor, tones, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF but no more")
    good = tones / "wav" / "03a01Wa.wav"
    answers = list(predictor.files([good, bad, good]))
    assert isinstance(answers[1], AudioError)
    assert str(bad) in str(answers[1])
    assert answers[0] == answers[2]


def test_files_reads_no_further_than_it_must(predictor, tones):
    """A generator without end is served window by window."""

    def endless():
        while True:
            yield tones / "wav" / "03a01Wa.wav"

    answers = predictor.files(endless())
    assert next(answers) == next(answers)


def test_arrays_come_from_a_generator_without_end_that_uses_its_memory_again(predictor):
    given = 0

    def endless():
        nonlocal given
        block = np.empty(8_000, np.float32)
        while True:
            block[:] = 0 if given % 5 == 4 else noise(0.5, given % 5)
            given += 1
            yield block

    answers = list(islice(predictor.arrays(endless(), 16_000), 100))
    assert given < 100 + 2 * GROUP, "it is read as far as it must be"
    expected = [predictor(noise(0.5, seed), 16_000) for seed in range(4)]
    for index, answer in enumerate(answers):
        if index % 5 == 4:
            assert str(answer) == "digital silence: all samples are zero"
        else:
            np.testing.assert_allclose(shares([answer]), shares([expected[index % 5]]), atol=1e-5)


def test_answers_do_not_depend_on_the_groups_before(predictor, tmp_path):
    """What a resumed job starts with."""
    for seed in range(10):
        soundfile.write(tmp_path / f"{seed}.wav", noise(0.3 + 0.07 * seed, seed), 16_000)
    paths = [tmp_path / f"{index * index % 11}.wav" for index in range(3 * GROUP - 9)]  # some are missing
    whole = list(map(str, predictor.files(paths)))
    assert list(map(str, predictor.files(paths[GROUP:]))) == whole[GROUP:]


def test_much_sound_is_recognized_before_more_is_read(predictor, monkeypatch):
    monkeypatch.setattr(predictor_module, "LONGEST", 2.0)
    groups = []
    monkeypatch.setattr(predictor, "_answer", lambda group, _: groups.append(len(group)) or iter(group))
    recordings = [noise(seconds) for seconds in [0.9] * 7 + [0.015] * (GROUP + 2)]
    assert len(list(predictor.arrays(recordings, 16_000))) == len(recordings)
    assert groups == [3, 3, GROUP - 6, 9]


def test_eight_threads_have_the_answers_of_one(predictor):
    """500 calls at once, of one recording and of several, equal to the last bit."""
    recordings = [noise(seconds, seed) for seed, seconds in enumerate([0.4, 0.9, 1.3, 0.6, 1.9])]

    def call(number: int) -> list[Prediction]:
        if number % 10 == 0:
            return predictor.batch(recordings, 16_000)
        return [predictor(recordings[number % 5], 16_000)]

    expected = [call(number) for number in range(10)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(call, range(500)))
    assert answers == [expected[number % 10] for number in range(500)]
    assert expected[1] != expected[2]


@pytest.mark.parametrize(
    ("samples", "rate"),
    [(np.zeros(0), 16_000), (np.full(100, np.nan), 16_000), (np.ones(100), 0), (np.ones((2, 2, 2)), 8000)],
)
def test_samples_without_sense_raise_one_error(predictor, samples, rate):
    with pytest.raises(AudioError):
        predictor(samples, rate)


def test_silence_and_clicks_are_no_speech(predictor):
    with pytest.raises(AudioError, match=r"^digital silence"):
        predictor(np.zeros(16_000), 16_000)
    with pytest.raises(AudioError, match=r"^recording 1: too short"):
        predictor.batch([noise(0.5), noise(0.005)], 16_000)


def test_recordings_over_ten_minutes_are_refused_before_they_are_decoded(predictor, tmp_path, monkeypatch):
    with pytest.raises(AudioError, match=r"^600.5 s long, but at most 600 s can be used; cut it into utterances$"):
        predictor(np.ones(601 * 1_000 - 500, np.float32), 1_000)
    soundfile.write(tmp_path / "long.wav", np.ones(601 * 1_000), 1_000)
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    (error,) = predictor.files([tmp_path / "long.wav"])
    assert str(error).startswith(f"{tmp_path / 'long.wav'}: 601.0 s long")


def test_long_recordings_are_recognized_one_by_one(predictor, monkeypatch):
    shapes = []

    def answer(_, waveforms, lengths, **__):
        shapes.append(waveforms.shape)
        return np.full((len(lengths), 4), 0.25)

    monkeypatch.setattr(predictor_module, "predict", answer)
    long, short = noise(65.0), noise(0.5)
    assert len(predictor.batch([long, short, long], 16_000)) == 3
    assert sorted(shapes) == [(1, 128 * 16_000), (1, 128 * 16_000), (8, 16_000)]


def test_a_missing_model_is_one_clear_error(tmp_path):
    with pytest.raises(RunError, match="no such run folder"):
        dslstm_jax.load(tmp_path / "nowhere")
    with pytest.raises(RunError, match="not a run folder"):
        dslstm_jax.load(tmp_path)


def test_the_package_names_what_it_lacks():
    with pytest.raises(AttributeError, match="no attribute 'perdict'"):
        _ = dslstm_jax.perdict

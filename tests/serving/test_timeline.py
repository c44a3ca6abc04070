"""Sliding windows: where they lie, what they say, and that a recording in pieces is the recording."""

import json
import resource

import numpy as np
import pytest
import soundfile

import dslstm_jax
from dslstm_jax.cli import main
from dslstm_jax.data.audio import read_audio, read_blocks
from dslstm_jax.errors import AudioError, ConfigError
from dslstm_jax.serving import predictor as predictor_module
from dslstm_jax.serving.predictor import Predictor
from dslstm_jax.serving.timeline import cut, window_sizes

RATE = 16_000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return dslstm_jax.load(trained)


@pytest.mark.parametrize(
    ("count", "window", "hop", "starts"),
    [
        (10, 4, 2, [0, 2, 4, 6]),
        (11, 4, 2, [0, 2, 4, 6, 7]),
        (4, 4, 4, [0]),
        (3, 4, 2, [0]),
        (9, 4, 4, [0, 4, 5]),
        (5, 4, 1, [0, 1]),
    ],
)
def test_windows_cover_the_recording_and_the_last_ends_with_it(count, window, hop, starts):
    samples = np.arange(count, dtype=np.float32)
    for size in (1, 2, 3, count):
        parts = list(cut(np.split(samples, range(size, count, size)), window, hop))
        assert [part.start for part in parts] == starts
        for part in parts:
            np.testing.assert_array_equal(part.samples, samples[part.start : part.start + window])
    assert starts[-1] + min(window, count) == count


def test_cutting_holds_a_block_and_a_window():
    pieces = []
    for part in cut((np.zeros(1_000, np.float32) for _ in range(1_000)), 3_000, 500):
        pieces.append(part.samples.base if part.samples.base is not None else part.samples)
        assert len(pieces[-1]) <= 3_000 + 1_000 + 500


@pytest.mark.parametrize(
    ("window", "hop"), [(0.001, 1), (3, 4), (3, 0), (3, -1), (601, 1), (float("nan"), 1), (3, float("nan"))]
)
def test_windows_without_sense_are_one_error(predictor, window, hop):
    with pytest.raises(ConfigError, match=r"seconds; give"):
        window_sizes(window, hop, 600.0, RATE)
    with pytest.raises(ConfigError):
        predictor.timeline(noise(1), RATE, window, hop)
    with pytest.raises(ConfigError):
        predictor.files([], window=window, hop=hop)


def test_each_window_is_what_the_predictor_says_of_it(predictor):
    samples = noise(3.3)
    samples[RATE : 2 * RATE] *= np.sin(np.arange(RATE) / 5) * 0.3
    windows = predictor.timeline(samples, RATE, window=1.0, hop=0.5)
    assert [(window.start, window.end) for window in windows] == [
        (0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5), (2, 3), (2.3, 3.3),
    ]  # fmt: skip
    for window in windows:
        alone = predictor(samples[round(window.start * RATE) : round(window.end * RATE)], RATE)
        assert list(window.probabilities.values()) == pytest.approx(list(alone.probabilities.values()), abs=1e-5)
        assert window.label == alone.label
    assert np.ptp([window.probabilities["sad"] for window in windows]) > 1e-4, "the windows do differ"


def test_silence_in_a_recording_has_no_emotion(predictor):
    samples = np.concatenate([noise(1), np.zeros(3 * RATE, np.float32), noise(1)])
    labels = [window.label for window in predictor.timeline(samples, RATE, window=1.0, hop=1.0)]
    assert [label is None for label in labels] == [False, True, True, True, False]
    with pytest.raises(AudioError, match="silence"):
        predictor.timeline(np.zeros(RATE), RATE)


def test_a_short_recording_is_one_window(predictor):
    (window,) = predictor.timeline(noise(0.4), RATE)
    assert (window.start, window.end) == (0, 0.4)


def test_files_have_the_answers_of_today_and_their_windows(predictor, tmp_path):
    paths = [tmp_path / f"{index}.wav" for index in range(3)]
    for index, path in enumerate(paths):
        soundfile.write(path, noise(0.5 + index, index), RATE)
    (tmp_path / "bad.wav").write_text("no sound")
    paths.insert(1, tmp_path / "bad.wav")
    plain = list(predictor.files(paths))
    answers = list(predictor.files(paths, window=1.0, hop=0.5))
    assert isinstance(answers[1], AudioError)
    for path, before, answer in zip(paths, plain, answers, strict=True):
        if path.stem != "bad":
            assert (answer.label, answer.probabilities) == (before.label, before.probabilities)
            assert before.windows is None
            expected = predictor.timeline(read_audio(path, RATE), RATE, 1.0, 0.5)
            assert [(w.start, w.end, w.label) for w in answer.windows] == [
                (w.start, w.end, w.label) for w in expected
            ]


def test_a_recording_without_end_is_read_in_blocks(predictor, tmp_path, monkeypatch):
    """With LONGEST at one second, a file of five is long; its answer is the mean over its windows."""
    path = tmp_path / "long.wav"
    soundfile.write(path, noise(5.2), RATE)
    whole = predictor.timeline(noise(5.2), RATE, 1.0, 1.0)
    monkeypatch.setattr(predictor_module, "LONGEST", 1.0)
    monkeypatch.setattr("dslstm_jax.data.audio._BLOCK", 1_000)
    (refused,) = predictor.files([path])
    assert "5.2 s long, but at most 1 s" in str(refused)
    (answer,) = predictor.files([path], window=1.0, hop=1.0)
    assert answer.duration_seconds == 5.2
    assert [(w.start, w.end) for w in answer.windows] == [(w.start, w.end) for w in whole]
    mean = np.mean([list(window.probabilities.values()) for window in answer.windows], axis=0)
    assert list(answer.probabilities.values()) == pytest.approx(mean.tolist())
    path.write_bytes(path.read_bytes()[:-20_000])
    (error,) = predictor.files([path], window=1.0)
    assert isinstance(error, AudioError)
    assert str(error).startswith(f"{path}: truncated")


def test_an_hour_is_read_in_the_memory_of_a_minute(tmp_path):
    path = tmp_path / "hour.flac"
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        minute = noise(60)
        for _ in range(60):
            file.write(minute)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = sum(len(block) for block in read_blocks(path, 8_000))
    assert count == pytest.approx(3600 * 8_000, abs=2)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"an hour in blocks took {grown:.0f} MiB; at once it is {3600 * RATE * 4 / 2**20:.0f} MiB")
    assert grown < 60


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1), (44_100, 2), (8_000, 1)])
def test_blocks_side_by_side_are_the_recording(tmp_path, monkeypatch, suffix, rate, channels):
    path = tmp_path / f"a.{suffix}"
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (20_000, channels))
    soundfile.write(path, samples, rate)
    monkeypatch.setattr("dslstm_jax.data.audio._BLOCK", 3_001)
    blocks = list(read_blocks(path, RATE))
    assert len(blocks) > 5
    whole = read_audio(path, RATE)
    found = np.concatenate(blocks)
    assert found.shape == whole.shape
    np.testing.assert_allclose(found, whole, atol=1e-5)
    assert all(block.dtype == np.float32 for block in blocks)


@pytest.mark.parametrize("samples", [np.zeros(9_000), np.full(9_000, np.nan), np.ones(50), np.full(9_000, 99.0)])
def test_blocks_of_bad_files_raise_what_the_whole_raises(tmp_path, monkeypatch, samples):
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    monkeypatch.setattr("dslstm_jax.data.audio._BLOCK", 3_001)
    with pytest.raises(AudioError) as whole:
        read_audio(path, RATE)
    with pytest.raises(AudioError) as pieces:
        list(read_blocks(path, RATE))
    assert str(pieces.value) == str(whole.value)


@pytest.mark.parametrize("suffix", ["wav", "au", "ogg", "mp3", "flac"])
def test_blocks_of_a_cut_file_raise_what_the_whole_raises(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(2), RATE)
    path.write_bytes(path.read_bytes()[:-3_000])
    monkeypatch.setattr("dslstm_jax.data.audio._BLOCK", 3_001)
    with pytest.raises(AudioError, match="truncated") as whole:
        read_audio(path, RATE)
    with pytest.raises(AudioError) as pieces:
        list(read_blocks(path, RATE))
    assert str(pieces.value) == str(whole.value)


def test_the_command_writes_windows_and_pictures(trained, tmp_path, capsys):
    for folder, seconds in (("a", 2.5), ("b", 0.5)):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "x.wav", noise(seconds), RATE)
    flags = ["predict", "--model", str(trained), str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "no.wav")]
    output = tmp_path / "out" / "answers.jsonl"
    output.parent.mkdir()
    assert main([*flags, "--timeline", "--window", "1", "--output", str(output)]) == 1
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [[(part["start"], part["end"]) for part in row["windows"]] for row in rows[:2]] == [
        [(0, 1), (1, 2), (1.5, 2.5)],
        [(0, 0.5)],
    ]
    assert set(rows[0]["windows"][0]) == {"start", "end", "label", "probabilities"}
    assert set(rows[2]) == {"path", "error"}
    pictures = sorted(path.name for path in output.parent.glob("*.png"))
    assert pictures == ["x-2.timeline.png", "x.timeline.png"]
    assert sorted(path.name for path in output.parent.iterdir()) == ["answers.jsonl", *pictures], "FILE.part is gone"
    capsys.readouterr()
    elsewhere = tmp_path / "new" / "pictures"
    assert main([*flags[:4], "--timeline", "--pictures", str(elsewhere)]) == 0
    assert [path.name for path in elsewhere.iterdir()] == ["x.timeline.png"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:2] == ["0.0-2.5", "s"]

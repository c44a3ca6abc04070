"""The synthetic voices: the same every time, written whole or not at all, and a fair test on unseen voices."""

import dataclasses
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile

from dslstm_jax.config import CorpusConfig, SyntheticConfig
from dslstm_jax.data.corpora import synthetic
from dslstm_jax.data.corpora.base import Corpus
from dslstm_jax.errors import ConfigError, CorpusError

SMALL = SyntheticConfig(speakers=2, utterances_per_emotion=1)


def small(root: Path, **changes: int) -> CorpusConfig:
    return CorpusConfig("synthetic", root=str(root), synthetic=dataclasses.replace(SMALL, **changes))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def default_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return synthetic.load(CorpusConfig(root=str(tmp_path_factory.mktemp("default"))))


# --- the sound ---


def test_an_utterance_depends_on_its_key_alone() -> None:
    config = SyntheticConfig()
    sound = synthetic.synthesize(config, 3, "angry", 1)
    synthetic.synthesize(config, 0, "sad", 0)
    np.testing.assert_array_equal(synthetic.synthesize(config, 3, "angry", 1), sound)
    more = SyntheticConfig(speakers=100, utterances_per_emotion=9)
    np.testing.assert_array_equal(synthetic.synthesize(more, 3, "angry", 1), sound)
    others = [
        synthetic.synthesize(SyntheticConfig(seed=1), 3, "angry", 1),
        synthetic.synthesize(config, 4, "angry", 1),
        synthetic.synthesize(config, 3, "happy", 1),
        synthetic.synthesize(config, 3, "angry", 2),
    ]
    assert len({other.tobytes() for other in (sound, *others)}) == 5


@pytest.mark.parametrize("overlap", [0.0, 1.0])
@pytest.mark.parametrize("emotion", synthetic.EMOTIONS)
def test_the_sound_is_speech_sized(emotion: str, overlap: float) -> None:
    for speaker in range(6):
        sound = synthetic.synthesize(SyntheticConfig(overlap=overlap), speaker, emotion, 0)
        assert sound.dtype == np.int16
        assert sound.ndim == 1
        assert 1.4 - 0.01 <= len(sound) / synthetic.SAMPLE_RATE <= 2.0
        assert 300 < np.abs(sound.astype(float)).max() < 32767  # heard, and never clipped


@pytest.mark.parametrize(
    ("speaker", "emotion", "samples", "level", "brightness"),
    [
        (0, "happy", 29120, 2326.46, -14.233),
        (1, "neutral", 23680, 1519.75, -21.312),
        (2, "angry", 23520, 2512.09, -15.242),
        (3, "sad", 23360, 509.95, -28.868),
    ],
)
def test_the_version_stands_for_the_sound(
    speaker: int, emotion: str, samples: int, level: float, brightness: float
) -> None:
    """A change of sound that forgets VERSION would be hidden by the folders of the older sound."""
    sound = synthetic.synthesize(SyntheticConfig(), speaker, emotion, 0)
    assert synthetic.VERSION == 1
    assert len(sound) == samples
    assert np.sqrt(np.mean(sound.astype(float) ** 2)) == pytest.approx(level, rel=1e-3)
    assert log_mel(sound).mean() == pytest.approx(brightness, abs=0.02)


def test_the_pulses_come_at_the_pitch() -> None:
    for pitch in (90.0, 233.0):
        flow, pulses = synthetic._glottis(np.full(synthetic.SAMPLE_RATE, pitch), 0.0, np.random.default_rng(0))
        assert flow.min() == 0.0
        assert 0.99 < flow.max() <= 1.0
        spectrum = np.abs(np.fft.rfft(pulses))[: round(1.5 * pitch)]
        assert spectrum.argmax() == pytest.approx(pitch, abs=1.0)


def test_the_vocal_tract_rings_at_its_formants() -> None:
    """Formants that stand still: the same as the recursive filter, sample by sample."""
    hertz = np.array([500.0, 1500.0, 2500.0, 3500.0, 4500.0, 5500.0, 6500.0])
    click = np.zeros(synthetic.SAMPLE_RATE)
    click[8037] = 1.0
    ringing = synthetic._vocal_tract(click, np.tile(hertz, (100, 1)))
    expected = click
    for formant, width in zip(hertz, synthetic._BANDWIDTHS, strict=True):
        pole = np.exp((-np.pi * width + 2j * np.pi * formant) / synthetic.SAMPLE_RATE)
        recursion = np.poly([pole, pole.conj()])
        expected = scipy.signal.lfilter([recursion.sum()], recursion, expected)
    np.testing.assert_allclose(ringing, expected, atol=2e-3 * np.abs(expected).max())
    spectrum = np.abs(np.fft.rfft(ringing))
    peaks = 1 + np.flatnonzero((spectrum[1:-1] > spectrum[:-2]) & (spectrum[1:-1] > spectrum[2:]))
    for formant in hertz:
        assert np.abs(peaks / formant - 1.0).min() < 0.03


def test_tilt_loses_what_it_says_at_3_khz() -> None:
    click = np.zeros(synthetic.SAMPLE_RATE)
    click[0] = 1.0
    for loss in (0.5, 9.0, 25.0):
        spectrum = np.abs(np.fft.rfft(synthetic._tilt(click, loss)))
        assert spectrum[0] == pytest.approx(1.0)
        assert 20 * np.log10(spectrum[3000]) == pytest.approx(-loss, abs=1e-6)


def test_bad_fields_are_named() -> None:
    for fields, message in (
        ({"speakers": 0}, r"corpus\.synthetic\.speakers is 0; it must be at least 1"),
        ({"utterances_per_emotion": 0}, r"corpus\.synthetic\.utterances_per_emotion is 0"),
        ({"seed": -1}, r"corpus\.synthetic\.seed is -1; it must be at least 0"),
        ({"overlap": 1.5}, r"corpus\.synthetic\.overlap is 1\.5; it must be in \[0, 1\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            SyntheticConfig(**fields)
    for speaker, emotion, take in ((-1, "sad", 0), (0, "bored", 0), (0, "sad", -1)):
        with pytest.raises(ConfigError, match="the emotions are happy, neutral, angry, sad"):
            synthetic.synthesize(SyntheticConfig(), speaker, emotion, take)


# --- the folder ---


def test_the_corpus_and_its_files(default_corpus: Corpus) -> None:
    assert default_corpus.name == "synthetic"
    assert default_corpus.labels == ("happy", "neutral", "angry", "sad")
    assert default_corpus.counts() == dict.fromkeys(default_corpus.labels, 75)
    speakers = Counter((utterance.speaker, utterance.label) for utterance in default_corpus.utterances)
    assert len(speakers) == 15 * 4
    assert set(speakers.values()) == {5}
    paths = [Path(utterance.path) for utterance in default_corpus.utterances]
    assert paths == sorted(paths)
    for path, utterance in zip(paths, default_corpus.utterances, strict=True):
        speaker, label, _ = path.stem.split("_")
        assert (speaker, label) == (utterance.speaker, utterance.label)
    info = soundfile.info(paths[0])
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("WAV", "PCM_16", 16_000, 1)


def test_files_hold_what_synthesize_gives(tmp_path: Path) -> None:
    corpus = synthetic.load(small(tmp_path, utterances_per_emotion=2))
    (path,) = (Path(one.path) for one in corpus.utterances if one.path.endswith("voice01_angry_01.wav"))
    sound, _ = soundfile.read(path, dtype="int16")
    np.testing.assert_array_equal(sound, synthetic.synthesize(SMALL, 1, "angry", 1))


def test_a_later_load_takes_the_folder_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = synthetic.load(small(tmp_path))
    (folder,) = tmp_path.iterdir()
    before = contents(folder)
    other = synthetic.load(small(tmp_path, seed=1))  # its own folder beside
    assert {Path(one.path).parent for one in other.utterances}.isdisjoint({folder})
    assert contents(Path(other.utterances[0].path).parent) != before

    def never(*_: object) -> None:
        raise AssertionError("generated again")

    monkeypatch.setattr(synthetic, "synthesize", never)
    assert synthetic.load(small(tmp_path)) == first
    assert contents(folder) == before
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    with pytest.raises(AssertionError, match="generated again"):
        synthetic.load(small(tmp_path))


def test_without_a_root_it_lies_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def cache(name: str, **_: object) -> Path:
        asked.append(name)
        return tmp_path / "not yet there" / name

    monkeypatch.setattr("platformdirs.user_cache_path", cache)
    corpus = synthetic.load(CorpusConfig(synthetic=SMALL))
    assert asked == ["dslstm_jax"]
    assert len(corpus.utterances) == 8
    assert all(Path(one.path).is_relative_to(tmp_path / "not yet there") for one in corpus.utterances)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_generation_leaves_nothing_that_counts(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from dslstm_jax.config import CorpusConfig, SyntheticConfig
from dslstm_jax.data.corpora import synthetic

root, whole = {str(tmp_path)!r}, synthetic.synthesize

def dying(config, speaker, emotion, take):
    if (speaker, emotion) == (1, "angry"):
        assert len(list(Path(root).rglob("*.wav"))) == 6
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(config, speaker, emotion, take)

synthetic.synthesize = dying
synthetic.load(CorpusConfig(root=root, synthetic={SMALL!r}))
"""
    killed = subprocess.run([sys.executable, "-c", program], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    corpus = synthetic.load(small(tmp_path))
    assert all(len(soundfile.read(one.path)[0]) > 16_000 for one in corpus.utterances)
    assert len(corpus.utterances) == 8


def test_an_interrupted_generation_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = synthetic.synthesize

    def interrupted(config: SyntheticConfig, speaker: int, emotion: str, take: int) -> np.ndarray:
        if speaker == 1:
            raise KeyboardInterrupt
        return whole(config, speaker, emotion, take)

    monkeypatch.setattr(synthetic, "synthesize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic.load(small(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_two_at_the_same_time_both_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins and ends while the first is half way."""
    whole = synthetic.synthesize
    second: list[Corpus] = []

    def overtaken(config: SyntheticConfig, speaker: int, emotion: str, take: int) -> np.ndarray:
        if speaker == 1 and not second:
            monkeypatch.setattr(synthetic, "synthesize", whole)
            second.append(synthetic.load(small(tmp_path)))
        return whole(config, speaker, emotion, take)

    monkeypatch.setattr(synthetic, "synthesize", overtaken)
    assert synthetic.load(small(tmp_path)) == second[0]
    (folder,) = tmp_path.iterdir()
    assert len(contents(folder)) == 8


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match=r"file/synthetic-.* name a writable folder: --corpus\.root DIR"):
        synthetic.load(small(tmp_path / "file"))
    corpus = synthetic.load(small(tmp_path))
    Path(corpus.utterances[5].path).unlink()
    with pytest.raises(CorpusError, match=r"synthetic-\w+ has lost 1 of its 8 recordings; delete it"):
        synthetic.load(small(tmp_path))


# --- the task ---


def log_mel(sound: np.ndarray) -> np.ndarray:
    """dB, [frames, 40]."""
    frames = np.lib.stride_tricks.sliding_window_view(sound / 32768.0, 400)[::160] * np.hamming(400)
    edges = 700.0 * np.expm1(np.linspace(0.0, np.log1p(8000.0 / 700.0), 42))
    hertz = np.fft.rfftfreq(512, 1.0 / synthetic.SAMPLE_RATE)
    rising = (hertz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - hertz) / np.diff(edges)[1:, None]
    mel = np.maximum(0.0, np.minimum(rising, falling))
    return 10.0 * np.log10(np.abs(np.fft.rfft(frames, 512)) ** 2 @ mel.T + 1e-10)


def describe(sound: np.ndarray) -> np.ndarray:
    """Mean and deviation of the log-mel bands, and how much they change from frame to frame."""
    bands = log_mel(sound)
    return np.concatenate([bands.mean(axis=0), bands.std(axis=0), np.diff(bands, axis=0).std(axis=0)])


def unseen_voices_accuracy(features: np.ndarray, labels: np.ndarray, speakers: np.ndarray) -> float:
    """Ridge regression onto the classes, five folds of voices."""
    correct = 0
    for fold in range(5):
        test = speakers % 5 == fold
        mean, deviation = features[~test].mean(axis=0), features[~test].std(axis=0)
        x = np.column_stack([(features - mean) / deviation, np.ones(len(features))])
        penalty = np.diag([30.0] * features.shape[1] + [0.0])
        weights = np.linalg.solve(x[~test].T @ x[~test] + penalty, x[~test].T @ np.eye(4)[labels[~test]])
        correct += int(np.sum((x[test] @ weights).argmax(axis=1) == labels[test]))
    return correct / len(labels)


def read(corpus: Corpus) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    sounds = [soundfile.read(one.path, dtype="int16")[0].astype(float) for one in corpus.utterances]
    labels = np.array([corpus.labels.index(one.label) for one in corpus.utterances])
    return sounds, labels, np.array([int(str(one.speaker)[-2:]) for one in corpus.utterances])


def test_unseen_voices_are_learnable_but_not_by_loudness(default_corpus: Corpus) -> None:
    sounds, labels, speakers = read(default_corpus)
    level = np.array([[20.0 * np.log10(sound.std())] for sound in sounds])
    loudness = unseen_voices_accuracy(np.hstack([level, level**2]), labels, speakers)
    spectrum = unseen_voices_accuracy(np.array([describe(sound) for sound in sounds]), labels, speakers)
    assert loudness < 0.43
    assert 0.75 < spectrum < 0.97


def test_at_overlap_one_nothing_can_be_learned(tmp_path: Path) -> None:
    settings = SyntheticConfig(speakers=10, utterances_per_emotion=2, overlap=1.0)
    sounds, labels, speakers = read(synthetic.load(CorpusConfig(root=str(tmp_path), synthetic=settings)))
    accuracy = unseen_voices_accuracy(np.array([describe(sound) for sound in sounds]), labels, speakers)
    assert accuracy < 0.25 + 4.0 * np.sqrt(0.25 * 0.75 / len(labels))


def test_overlap_draws_the_emotions_together() -> None:
    def draws(overlap: float, emotion: str) -> np.ndarray:
        rng = np.random.default_rng(synthetic.EMOTIONS.index(emotion))
        config = SyntheticConfig(overlap=overlap)
        return np.array([synthetic.draw_delivery(config, emotion, rng) for _ in range(400)])

    def distance(overlap: float) -> float:
        """The greatest difference of two emotions in a mean or deviation, in standard errors."""
        means = np.array([draws(overlap, emotion).mean(axis=0) for emotion in synthetic.EMOTIONS])
        deviations = np.array([draws(overlap, emotion).std(axis=0) for emotion in synthetic.EMOTIONS])
        error = deviations.mean(axis=0) * np.sqrt(2.0 / 400.0)
        return float(max((np.ptp(means, axis=0) / error).max(), (np.ptp(deviations, axis=0) / error).max()))

    assert distance(1.0) < 4.5
    assert distance(0.9) > 8.0
    assert distance(0.0) > distance(0.3) > distance(0.6) > distance(0.9)

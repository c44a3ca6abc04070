"""A timeline as a picture."""

from pathlib import Path

import numpy as np
from matplotlib.image import imread

from dslstm_jax.data.audio import prepare_samples
from dslstm_jax.reporting.timeline import _extremes, draw_timeline
from dslstm_jax.serving.timeline import Window

RATE = 16_000


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)


def test_a_picture_shows_the_waveform_and_the_shares(tmp_path: Path) -> None:
    """Silence is white, one emotion alone is its color from bottom to top."""
    windows = [
        Window(0.0, 1.0, "_a$", {"_a$": 1.0, "b": 0.0}),
        Window(1.0, 2.0, None, None),
        Window(2.0, 3.0, "b", {"_a$": 0.0, "b": 1.0}),
        Window(3.0, 4.0, "b", {"_a$": 0.0, "b": 1.0}),
    ]
    sound = np.concatenate([noise(1), np.zeros(RATE, np.float32), noise(2)])
    draw_timeline(np.array_split(sound, 7), RATE, windows, ("_a$", "b"), "100 $ of x_1.wav", tmp_path / "x.png")
    picture = imread(tmp_path / "x.png")[..., :3]
    blue, orange = (
        np.abs(picture - color).max(axis=2) < 0.02 for color in ((0.122, 0.467, 0.706), (1, 0.498, 0.055))
    )
    assert blue.mean() > 0.03
    assert orange.mean() > 1.5 * blue.mean()
    assert blue.mean() + orange.mean() < 0.3, "from the middle of a window to that of a silent one nothing is drawn"
    gray = np.abs(picture - 0x77 / 255).max(axis=2) < 0.02
    assert gray.mean() > 0.1, "above the middle and below"
    columns = gray.any(axis=0)
    assert 0.5 < columns.mean() < 0.8, "a quarter of the recording is silent, and the legend has its place"


def test_a_long_recording_is_drawn_by_its_extremes():
    samples = prepare_samples(noise(2), RATE, RATE)
    lows, highs = _extremes(np.split(samples, 8), len(samples))
    assert lows.shape == highs.shape == (2_000,)
    np.testing.assert_array_equal(highs, samples.reshape(2_000, -1).max(axis=1))
    np.testing.assert_array_equal(lows, samples.reshape(2_000, -1).min(axis=1))

"""A timeline drawn: the waveform, and below it the probabilities over time."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from dslstm_jax.reporting.style import GRAY, palette, picture

if TYPE_CHECKING:
    from dslstm_jax.serving.timeline import Window

_COLUMNS = 2000
"""Waveform extremes that are drawn."""


def draw_timeline(
    blocks: Iterable[Float32[np.ndarray, " N"]],
    sample_rate: int,
    windows: Sequence["Window"],
    labels: Sequence[str],
    title: str,
    path: str | Path,
) -> None:
    """Draws a recording and its timeline as a PNG.

    Args:
      blocks: the recording; side by side they are its samples.
      sample_rate: of the blocks, in hertz.
      windows: the timeline; at least one window.
      labels: the emotions, from the bottom to the top of the stack.
      title: stands above.
      path: the file, written whole or not at all.

    Raises:
      RunError: the file cannot be written.
    """
    duration = windows[-1].end
    lows, highs = _extremes(blocks, round(duration * sample_rate))
    times = [windows[0].start, *((window.start + window.end) / 2 for window in windows), duration]
    silent = dict.fromkeys(labels, np.nan)
    shares = np.array([[(window.probabilities or silent)[name] for name in labels] for window in windows])
    shares = np.concatenate([shares[:1], shares, shares[-1:]]).T
    with picture(path, title, min(max(8.0, duration / 8), 24.0), 4.8) as figure:
        wave, stack = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])
        edges = np.linspace(0, duration, len(lows) + 1)
        wave.stairs(highs, edges, baseline=lows, fill=True, color=GRAY)
        highest = max(float(np.abs([lows, highs]).max()), 1e-3)
        wave.set(ylabel="waveform", ylim=(-1.05 * highest, 1.05 * highest))

        bands = stack.stackplot(times, shares, colors=palette(len(labels)))
        stack.set(ylim=(0, 1), xlim=(0, duration), ylabel="probability", xlabel="seconds")
        # Named here: a label that begins with an underscore would be left out of the legend.
        stack.legend(bands[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _extremes(blocks: Iterable[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest of `count` samples in each of at most _COLUMNS equal stretches."""
    stretch = -(-count // _COLUMNS)
    lows, highs = np.full((2, -(-count // stretch)), np.nan, np.float32)
    begin = 0
    for block in blocks:
        columns = np.minimum(np.arange(begin, begin + len(block)) // stretch, len(lows) - 1)
        np.fmin.at(lows, columns, block)
        np.fmax.at(highs, columns, block)
        begin += len(block)
    return lows, highs

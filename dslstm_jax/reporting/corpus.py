"""What a corpus holds, as a table, as three lines and as a picture."""

import math
from collections import Counter
from datetime import timedelta
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

from dslstm_jax.data.corpora.base import Corpus
from dslstm_jax.data.summary import Headers, count_labels
from dslstm_jax.reporting.style import BLUE, INK, palette, picture
from dslstm_jax.reporting.tables import align

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_SPEAKER_NAMES = 100
"""Of more speakers, not every name fits under its bar."""
_MOST_LETTERS = 24
"""A name with more would crowd out the bars."""


def format_counts(corpus: Corpus) -> str:
    """Utterances per label, in class order, of each session and speaker (where known) and of all: a table."""
    rows = [
        [name, *(str(found[label]) for label in corpus.labels), str(sum(found.values()))]
        for name, found in count_labels(corpus).items()
    ]
    return align([["", *corpus.labels, "total"], *rows], left=1)


def format_headers(headers: Headers) -> str:
    """Three lines: the total duration, its spread over the recordings, and the number of recordings at each rate."""
    seconds, spread = sum(headers.durations), "none"
    if found := headers.durations:
        spread = (
            f"shortest {min(found):.2f} s, median {median(found):.2f} s, mean {mean(found):.2f} s, "
            f"longest {max(found):.2f} s"
        )
    rates = ", ".join(f"{rate} Hz ({count})" for rate, count in headers.sample_rates.items()) or "none"
    total = f"{timedelta(seconds=round(seconds))} ({seconds:.1f} s)"
    return f"duration: {total}\nrecordings: {spread}\nsample rates: {rates}"


def draw_corpus(corpus: Corpus, headers: Headers, path: str | Path) -> None:
    """Draws the labels of each speaker, the durations and, if there are several, the sample rates, as a PNG.

    Args:
      corpus: its utterances are counted by label and speaker.
      headers: of its recordings, from `read_headers`.
      path: the file, written whole or not at all.

    Raises:
      RunError: the file cannot be written.
    """
    speakers = {utterance.speaker for utterance in corpus.utterances} - {None}
    width = min(max(5.0, 0.24 * len(speakers)), 16.0)
    height = max(4.5, 0.2 * len(corpus.labels))
    several_rates = len(headers.sample_rates) > 1
    known = f", {len(speakers)} speakers" if speakers else ""
    total = timedelta(seconds=round(sum(headers.durations)))
    title = f"{corpus.name}: {len(corpus.utterances)} recordings{known}, {total}"
    with picture(path, title, width + 4.5, height) as figure:
        panels = figure.subplot_mosaic(
            [["labels", "durations"], ["labels", "rates"]] if several_rates else [["labels", "durations"]],
            width_ratios=[width, 4.5],
            height_ratios=[2, 1] if several_rates else [1],
        )
        _draw_labels(panels["labels"], corpus)
        durations = panels["durations"]
        durations.set(xlabel="duration (seconds)", ylabel="recordings")
        if headers.durations:
            durations.hist(headers.durations, bins=40, range=(0.0, max(headers.durations)), color=BLUE)
            middle = median(headers.durations)
            durations.axvline(middle, color=INK, linewidth=1, linestyle=":", label=f"median {middle:.2f} s")
            durations.legend()
        if several_rates:
            rates = panels["rates"]
            bars = rates.barh(range(len(headers.sample_rates)), list(headers.sample_rates.values()), color=BLUE)
            rates.bar_label(bars, padding=3, fontsize=8)
            rates.set_yticks(range(len(headers.sample_rates)), [f"{rate} Hz" for rate in headers.sample_rates])
            rates.margins(x=0.15)
            rates.set_xlabel("recordings")


def _draw_labels(axes: "Axes", corpus: Corpus) -> None:
    """A bar for each speaker, made of the labels; the recordings of unknown speakers come last."""
    counts = Counter((utterance.speaker, utterance.label) for utterance in corpus.utterances)
    speakers = sorted({utterance.speaker for utterance in corpus.utterances}, key=lambda name: (name is None, name))
    bottoms = [0] * len(speakers)
    for (label, total), color in zip(corpus.counts().items(), palette(len(corpus.labels)), strict=True):
        heights = [counts[speaker, label] for speaker in speakers]
        # The count stands first: matplotlib leaves out of the legend what begins with an underscore.
        name = f"{total} {_shorten(label)}"
        axes.bar(range(len(speakers)), heights, bottom=bottoms, color=color, label=name)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    every = math.ceil(len(speakers) / _MOST_SPEAKER_NAMES)
    names = ["unknown" if speaker is None else _shorten(speaker) for speaker in speakers][::every]
    upright = max(map(len, names)) * len(names) <= 50  # letters that fit side by side
    axes.set_xticks(range(0, len(speakers), every), names, rotation=0 if upright else 90, fontsize=8)
    axes.set(xlim=(-1, len(speakers)), xlabel="speaker", ylabel="recordings")
    handles, texts = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], texts[::-1], fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _shorten(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 3]}..."

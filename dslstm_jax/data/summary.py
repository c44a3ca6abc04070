"""What a corpus holds, in figures and as a picture; of the recordings only the headers are read."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

from dslstm_jax.data.audio import read_header
from dslstm_jax.data.corpora.base import Corpus, Utterance, first_three
from dslstm_jax.errors import AudioError
from dslstm_jax.util.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#333333"
BAR_COLOR = "#1f5c99"
_MOST_SPEAKER_NAMES = 100
"""Of more speakers, not every name fits under its bar."""
_MOST_LETTERS = 24
"""A name with more would crowd out the bars."""


@dataclass(frozen=True)
class Sound:
    """The sound of some recordings, as their headers tell it."""

    readable: tuple[Utterance, ...]
    durations: tuple[float, ...]
    """Seconds of each readable recording."""
    sample_rates: dict[int, int]
    """Number of recordings at each rate (hertz), lowest rate first."""
    errors: tuple[AudioError, ...]
    """One for each other recording: `PATH: REASON`."""


def read_headers(utterances: Sequence[Utterance]) -> Sound:
    """Opens every recording and decodes none: NaN, silence and damage behind the header are not seen."""
    readable, durations, rates, errors = [], [], Counter[int](), []
    for utterance in utterances:
        try:
            samples, rate = utterance.record[-2:] if utterance.record else read_header(utterance.path)
        except AudioError as error:
            errors.append(error)
        else:
            readable.append(utterance)
            durations.append(samples / rate)
            rates[rate] += 1
    return Sound(tuple(readable), tuple(durations), dict(sorted(rates.items())), tuple(errors))


def find_duplicates(utterances: Sequence[Utterance]) -> list[str]:
    """A line for each recording that lies in several files of the same bytes, and whether their labels differ.

    One of them could train and another test. Only files of like size are read.

    Args:
      utterances: whose files are there (`Sound.readable`); examples of a tensorflow-datasets folder are left out.
    """
    same_size, same_bytes = defaultdict(list), defaultdict(list)
    for utterance in utterances:
        if utterance.record is None:
            same_size[Path(utterance.path).stat().st_size].append(utterance)
    for group in same_size.values():
        for utterance in group if len(group) > 1 else ():
            with Path(utterance.path).open("rb") as file:
                same_bytes[hashlib.file_digest(file, "sha256").digest()].append(utterance)
    return [_describe_duplicates(group) for group in same_bytes.values() if len(group) > 1]


def _describe_duplicates(group: Sequence[Utterance]) -> str:
    names = first_three([f"{utterance.path} ({utterance.label})" for utterance in group])
    differing = [
        name
        for name, values in (
            ("labels", {utterance.label for utterance in group}),
            ("speakers", {utterance.speaker for utterance in group}),
        )
        if len(values) > 1
    ]
    remark = f"; their {' and '.join(differing)} differ" if differing else ""
    return f"{len(group)} files hold the same recording: {names}{remark}"


def format_counts(corpus: Corpus) -> str:
    """Utterances per label, in class order, of each session and speaker (where known) and of all: a table."""
    groups: dict[tuple[str, str], Counter[str]] = {}
    for utterance in corpus.utterances:
        for kind, name in (("speaker", utterance.speaker), ("session", utterance.session)):
            if name is not None:
                groups.setdefault((kind, name), Counter())[utterance.label] += 1
    named = [(f"{kind} {name}", found) for (kind, name), found in sorted(groups.items())]
    rows = [
        [name, *(str(found[label]) for label in corpus.labels), str(sum(found.values()))]
        for name, found in [*named, ("all", Counter(corpus.counts()))]
    ]
    return align([["", *corpus.labels, "total"], *rows], left=1)


def align(rows: Sequence[Sequence[str]], left: int) -> str:
    """Rows of cells as lines with aligned columns; the first `left` columns are flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def format_sound(sound: Sound) -> str:
    """Three lines: the total duration, its spread over the recordings, and the number of recordings at each rate."""
    seconds, spread = sum(sound.durations), "none"
    if found := sound.durations:
        spread = (
            f"shortest {min(found):.2f} s, median {median(found):.2f} s, mean {mean(found):.2f} s, "
            f"longest {max(found):.2f} s"
        )
    rates = ", ".join(f"{rate} Hz ({count})" for rate, count in sound.sample_rates.items()) or "none"
    total = f"{timedelta(seconds=round(seconds))} ({seconds:.1f} s)"
    return f"duration: {total}\nrecordings: {spread}\nsample rates: {rates}"


def draw_corpus(corpus: Corpus, sound: Sound, path: str | Path) -> None:
    """Draws the labels of each speaker, the durations and, if there are several, the sample rates, as a PNG.

    Args:
      corpus: its utterances are counted by label and speaker.
      sound: its recordings, from `read_headers`.
      path: the file, written whole or not at all.

    Raises:
      RunError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    speakers = {utterance.speaker for utterance in corpus.utterances} - {None}
    width = min(max(5.0, 0.24 * len(speakers)), 16.0)
    height = max(4.5, 0.2 * len(corpus.labels))
    figure = Figure(figsize=(width + 4.5, height), layout="constrained")
    several_rates = len(sound.sample_rates) > 1
    panels = figure.subplot_mosaic(
        [["labels", "durations"], ["labels", "rates"]] if several_rates else [["labels", "durations"]],
        width_ratios=[width, 4.5],
        height_ratios=[2, 1] if several_rates else [1],
    )
    _draw_labels(panels["labels"], corpus)
    _draw_durations(panels["durations"], sound.durations)
    if several_rates:
        _draw_rates(panels["rates"], sound.sample_rates)
    for axes in panels.values():
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#999999")
        axes.tick_params(color="#999999", labelcolor=INK)
    known = f", {len(speakers)} speakers" if speakers else ""
    total = timedelta(seconds=round(sum(sound.durations)))
    title = f"{corpus.name}: {len(corpus.utterances)} recordings{known}, {total}"
    figure.suptitle(title, fontsize=11, color=INK, parse_math=False)
    with whole_file(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary, format="png", dpi=150)


def _draw_labels(axes: "Axes", corpus: Corpus) -> None:
    """A bar for each speaker, made of the labels; the recordings of unknown speakers come last."""
    from matplotlib import colormaps

    counts = Counter((utterance.speaker, utterance.label) for utterance in corpus.utterances)
    speakers = sorted({utterance.speaker for utterance in corpus.utterances}, key=lambda name: (name is None, name))
    colors = colormaps["tab10" if len(corpus.labels) <= 10 else "tab20"]
    bottoms = [0] * len(speakers)
    for place, (label, total) in enumerate(corpus.counts().items()):
        heights = [counts[speaker, label] for speaker in speakers]
        # The count stands first: matplotlib leaves out of the legend what begins with an underscore.
        name, color = f"{total} {_shorten(label)}", colors(place % colors.N)
        axes.bar(range(len(speakers)), heights, bottom=bottoms, color=color, label=name)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    every = math.ceil(len(speakers) / _MOST_SPEAKER_NAMES)
    names = ["unknown" if speaker is None else _shorten(speaker) for speaker in speakers][::every]
    upright = max(map(len, names)) * len(names) <= 50  # letters that fit side by side
    axes.set_xticks(
        range(0, len(speakers), every), names, parse_math=False, rotation=0 if upright else 90, fontsize=8
    )
    axes.set_xlim(-1, len(speakers))
    axes.set_xlabel("speaker", color=INK)
    axes.set_ylabel("recordings", color=INK)
    handles, texts = axes.get_legend_handles_labels()
    legend = axes.legend(
        reversed(handles),
        reversed(texts),
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _shorten(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 3]}..."


def _draw_durations(axes: "Axes", durations: Sequence[float]) -> None:
    if durations:
        axes.hist(durations, bins=40, range=(0.0, max(durations)), color=BAR_COLOR)
        middle = median(durations)
        axes.axvline(middle, color=INK, linewidth=1, linestyle=":", label=f"median {middle:.2f} s")
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    axes.set_xlabel("duration (seconds)", color=INK)
    axes.set_ylabel("recordings", color=INK)


def _draw_rates(axes: "Axes", sample_rates: dict[int, int]) -> None:
    bars = axes.barh(range(len(sample_rates)), list(sample_rates.values()), color=BAR_COLOR)
    axes.bar_label(bars, padding=3, fontsize=8, color=INK)
    axes.set_yticks(range(len(sample_rates)), [f"{rate} Hz" for rate in sample_rates], fontsize=8)
    axes.margins(x=0.15)
    axes.set_xlabel("recordings", color=INK)

"""What a corpus holds: how many utterances of whom, how long, at which rates; only the files' headers are read."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import soundfile

from dslstm_jax.data.corpora.base import Corpus, Utterance
from dslstm_jax.errors import AudioError


@dataclass(frozen=True)
class Sound:
    """The sound of some recordings, as their headers tell it."""

    seconds: float
    """All readable recordings together."""
    sample_rates: dict[int, int]
    """Number of recordings at each rate (hertz), lowest rate first."""
    errors: tuple[AudioError, ...]
    """One for each recording that cannot be read: `PATH: REASON`."""


def read_headers(utterances: Sequence[Utterance]) -> Sound:
    """Opens every recording and decodes none: a file cut short after its header passes for whole."""
    seconds, rates, errors = 0.0, Counter[int](), []
    for utterance in utterances:
        try:
            header = soundfile.info(utterance.path)
        except (soundfile.SoundFileError, TypeError, ValueError) as error:  # TypeError: headerless, by suffix .raw
            reason = " ".join(str(getattr(error, "error_string", error)).split()).rstrip(".")
            errors.append(AudioError(f"{utterance.path}: not a sound file soundfile can read ({reason})"))
        else:
            seconds += header.frames / header.samplerate
            rates[header.samplerate] += 1
    return Sound(seconds, dict(sorted(rates.items())), tuple(errors))


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
    """Two lines: the total duration, and the sample rates with the number of recordings at each."""
    rates = ", ".join(f"{rate} Hz ({count})" for rate, count in sound.sample_rates.items()) or "none"
    return f"duration: {timedelta(seconds=round(sound.seconds))} ({sound.seconds:.1f} s)\nsample rates: {rates}"

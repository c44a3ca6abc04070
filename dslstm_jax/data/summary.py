"""What a corpus holds, counted; of the recordings only the headers are read."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dslstm_jax.data.audio import read_header
from dslstm_jax.data.corpora.base import Corpus, Utterance
from dslstm_jax.errors import AudioError, first_three


@dataclass(frozen=True)
class Headers:
    """What the headers of some recordings say."""

    readable: tuple[Utterance, ...]
    durations: tuple[float, ...]
    """Seconds of each readable recording."""
    sample_rates: dict[int, int]
    """Number of recordings at each rate (hertz), lowest rate first."""
    errors: tuple[AudioError, ...]
    """One for each other recording: `PATH: REASON`."""


def read_headers(utterances: Sequence[Utterance]) -> Headers:
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
    return Headers(tuple(readable), tuple(durations), dict(sorted(rates.items())), tuple(errors))


def find_duplicates(utterances: Sequence[Utterance]) -> list[str]:
    """A line for each recording that lies in several files of the same bytes, and whether their labels differ.

    One of them could train and another test. Only files of like size are read.

    Args:
      utterances: whose files are there (`Headers.readable`); examples of a tensorflow-datasets folder are left out.
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
    fields = ("label", "speaker")
    differing = [f"{field}s" for field in fields if len({getattr(utterance, field) for utterance in group}) > 1]
    remark = f"; their {' and '.join(differing)} differ" if differing else ""
    return f"{len(group)} files hold the same recording: {names}{remark}"


def count_labels(corpus: Corpus) -> dict[str, Counter[str]]:
    """Utterances per label of each session and speaker (where known), such as "speaker ann", and of "all"."""
    groups: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for utterance in corpus.utterances:
        for kind, name in (("speaker", utterance.speaker), ("session", utterance.session)):
            if name is not None:
                groups[kind, name][utterance.label] += 1
    named = {f"{kind} {name}": found for (kind, name), found in sorted(groups.items())}
    return {**named, "all": Counter(corpus.counts())}

"""What every corpus gives: a tuple of utterances and the order of its labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dslstm_jax.errors import CorpusError


class Record(NamedTuple):
    """Where the sound of an utterance lies, if that is no file of its own but a tensorflow-datasets folder."""

    folder: str
    position: int
    """Place among the folder's examples, split after split."""
    samples: int
    sample_rate: int
    """Hertz."""


@dataclass(frozen=True)
class Utterance:
    """One recording and what is known about it; the sound stays on disk until it is needed."""

    path: str
    """The sound file; with `record`, a name that says which example it is."""
    label: str
    speaker: str | None = None
    session: str | None = None
    record: Record | None = None


@dataclass(frozen=True)
class About:
    """What one must know to get a corpus and to point at it; a few words each."""

    license: str
    source: str
    root: str
    """What --corpus.root names."""


@dataclass(frozen=True)
class Corpus:
    """Utterances in a fixed order (sorted by path), and the labels in the order of the classes."""

    name: str
    labels: tuple[str, ...]
    utterances: tuple[Utterance, ...]

    def counts(self) -> dict[str, int]:
        """Number of utterances per label, in class order."""
        found = Counter(utterance.label for utterance in self.utterances)
        return {label: found[label] for label in self.labels}


def corpus_root(name: str, root: str | None) -> Path:
    """The corpus folder as a path.

    Raises:
      CorpusError: no folder was named, or it does not exist.
    """
    if root is None:
        raise CorpusError(f"corpus {name!r} needs its folder: give --corpus.root DIR")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise CorpusError(f"--corpus.root {root}: no such folder")
    return path


def make_corpus(name: str, label_order: tuple[str, ...], utterances: list[Utterance], hint: str) -> Corpus:
    """Sorts the utterances by path and keeps the labels that occur, in `label_order`.

    Raises:
      CorpusError: nothing was found (`hint` says what was looked for and where), or only one label.
    """
    if not utterances:
        raise CorpusError(f"corpus {name!r}: no utterance found; {hint}")
    present = {utterance.label for utterance in utterances}
    labels = tuple(label for label in label_order if label in present)
    if len(labels) < 2:
        raise CorpusError(f"corpus {name!r}: every utterance is {labels[0]!r}; at least two labels are needed")
    return Corpus(name, labels, tuple(sorted(utterances, key=lambda utterance: utterance.path)))


def first_three(names: Sequence[str]) -> str:
    """`a, b, c and 2 more`, so that an error over many files stays one readable line."""
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")

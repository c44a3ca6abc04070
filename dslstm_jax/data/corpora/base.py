"""What every corpus gives: a tuple of utterances and the order of its labels; and how labels are renamed."""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from dslstm_jax.config import CorpusConfig
from dslstm_jax.errors import CorpusError

LEFT_OUT = "-"
"""What a label is mapped to if its recordings are to be left out."""
COLUMNS = ("path", "label", "speaker", "session")
"""What the columns of a manifest hold, and their names unless `corpus.columns` gives others."""


class StoredExample(NamedTuple):
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
    record: StoredExample | None = None
    corpus: str | None = None
    """Which one it is of, where several are one."""


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


def apply_labels(corpus: Corpus, config: CorpusConfig) -> Corpus:
    """The corpus under the labels that `config.label_map` and `config.labels` ask for.

    First the map renames labels or leaves them out; then `labels`, if there are any, are the classes in that order,
    and recordings of others are left out. Without `labels` a new name stands where the first of its old ones stood.

    Raises:
      CorpusError: the map is malformed, names a label that no recording has, or leads to none of the classes; a
        class is named twice or has no recording; fewer than two classes are left.
    """
    label_map, classes = parse_label_map(config.label_map), split_list(config.labels)
    _check_label_map(label_map, classes, corpus.labels)
    kept = [label for label in corpus.labels if label_map.get(label) != LEFT_OUT]
    new_name = {label: label_map.get(label, label) for label in kept}
    found = tuple(dict.fromkeys(new_name.values()))
    for label in classes:
        if label not in found:
            named = parse_columns(config.columns)["label"]
            column = f"{config.manifest}: column {named!r}: " if config.manifest else ""
            reason = f"none is labeled so{did_you_mean(label, found)} there are: {', '.join(found)}"
            if label in label_map:
                reason = f"--corpus.label-map {label}={label_map[label]} takes all its recordings"
            raise CorpusError(f"{column}class {label!r} of --corpus.labels has no recording: {reason}")
    labels = classes or found
    if len(labels) < 2:
        raise CorpusError(
            f"--corpus.label-map and --corpus.labels leave {', '.join(labels) or 'no label'}; "
            "at least two labels are needed"
        )
    utterances = tuple(
        replace(utterance, label=new_name[utterance.label])
        for utterance in corpus.utterances
        if new_name.get(utterance.label) in labels
    )
    return replace(corpus, labels=labels, utterances=utterances)


def parse_label_map(entries: Iterable[str]) -> dict[str, str]:
    """`("calm=neutral", "bored=-")` as a dictionary; `-` (LEFT_OUT) is for labels to be left out.

    Raises:
      CorpusError: an entry is not FROM=TO, or a label is mapped twice.
    """
    found: dict[str, str] = {}
    for entry in split_list(entries):
        old, _, new = (part.strip() for part in entry.partition("="))
        if not old or not new:
            raise CorpusError(
                f"--corpus.label-map {entry}: give FROM=TO, such as calm=neutral, or calm=- to leave calm out"
            )
        if found.setdefault(old, new) != new:
            raise CorpusError(f"--corpus.label-map: {old!r} cannot become both {found[old]!r} and {new!r}")
    return found


def parse_columns(entries: Iterable[str]) -> dict[str, str]:
    """`("path=file", "label=emotion")` as the name of each of COLUMNS.

    Raises:
      CorpusError: an entry is not COLUMN=NAME, or there is no such column.
    """
    found = {column: column for column in COLUMNS}
    for entry in split_list(entries):
        column, _, name = (part.strip() for part in entry.partition("="))
        if column not in found or not name:
            raise CorpusError(
                f"--corpus.columns {entry}: give COLUMN=NAME, such as label=emotion; "
                f"the columns are {', '.join(COLUMNS)}"
            )
        found[column] = name
    return found


def split_list(values: Iterable[str]) -> tuple[str, ...]:
    """`("a,b", "c")` as `("a", "b", "c")`: a flag's list has commas or spaces between its items."""
    return tuple(item.strip() for value in values for item in value.split(",") if item.strip())


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`, upper or lower case, if one is like it."""
    as_written = {candidate.casefold(): candidate for candidate in known}
    found = difflib.get_close_matches(name.casefold(), as_written, n=1)
    return as_written[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'happy'?`, or `;` if no known name is like it."""
    found = nearest(name, known)
    return f"; did you mean {found!r}?" if found else ";"


def _check_label_map(label_map: Mapping[str, str], classes: Sequence[str], labels: Sequence[str]) -> None:
    for old, new in label_map.items():
        if old not in labels:
            raise CorpusError(
                f"--corpus.label-map {old}={new}: no recording is labeled {old!r}{did_you_mean(old, labels)} "
                f"there are: {', '.join(labels)}"
            )
        if classes and new not in classes and new != LEFT_OUT:
            raise CorpusError(
                f"--corpus.label-map {old}={new}: {new!r} is not among --corpus.labels ({', '.join(classes)})"
                f"{did_you_mean(new, classes)} {old}={LEFT_OUT} leaves {old!r} out"
            )
    twice = [label for label, count in Counter(classes).items() if count > 1]
    if twice:
        raise CorpusError(f"--corpus.labels names {twice[0]!r} more than once")

"""Who is in training, validation and test: functions of (utterances, protocol, seed); only a fold file is read.

Which utterances end up together depends on the set of utterances and the seed, never on the order they come in.
"""

import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dslstm_jax.data.corpora.base import Utterance, nearest
from dslstm_jax.errors import CorpusError, first_three

SIDES: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
_ONE_OUT = ("speaker", "session", "corpus")
"""Of which one is left out."""
_INSTEAD = {"speaker": "random5", "session": "speaker5"}
"""The protocol that fewer groups are enough for."""
_FOLD_FILES = Path(__file__).with_name("fold_files")


@dataclass(frozen=True)
class Split:
    """Sorted indices into the utterances of a corpus."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    """Empty where nothing is held back for it."""
    test: tuple[int, ...]


def make_folds(utterances: Sequence[Utterance], protocol: str, seed: int, *, validation: bool = True) -> list[Split]:
    """Divides the utterances into groups; in fold k group k is the test, group k + 1 validation, the rest train.

    Args:
      utterances: of one corpus, or of several as one.
      protocol: `speakerK`, K groups that share no speaker, alike in their counts per corpus and label; `speaker` and
        `session`, one group for each, in the order of their names; `randomK`, K groups of utterances with speakers
        shared, stratified by label. `corpus` tests each of several corpora; of the others a fifth of the speakers
        validates. Or a fold file: the path `FILE.json`, or the name of one in the package's data/fold_files, such as
        `ravdess-actors5`. It names the speakers of each fold, and all others train:
        `{"source": "...", "folds": [{"test": ["02", ...], "validation": ["03", ...]}, ...]}`.
      seed: deals speakers or utterances to the groups; plays no part in `speaker`, `session` and fold files.
      validation: False lets what would validate train; the tests stay the same.

    Returns:
      One Split per group, or per fold of the file. Every label is in the training part of each; but for randomK no
      speaker is on two sides.

    Raises:
      CorpusError: an unknown protocol, a fold file that cannot be read or does not fit the corpus, or a corpus that
        cannot be split so; the message says what to do instead.
    """
    kind, folds = _parse(protocol)
    if not utterances:
        raise CorpusError("the corpus has no utterances to split")
    path, times = Counter(utterance.path for utterance in utterances).most_common(1)[0]
    if times > 1:  # else a recording could be trained on and tested on
        raise CorpusError(f"{path} is listed {times} times; list each recording once")
    unit = kind if kind == "session" else "speaker"
    mend = ""
    if kind == "random":
        _check_counts(utterances, protocol, least=folds)
        splits = _rotate(_deal_utterances(utterances, folds, seed))
    elif kind == "file":
        splits = _splits_of_file(_members(utterances, unit), protocol)
        mend = "let one of them train or "
    elif kind == "corpus":
        splits = _leave_corpora_out(utterances, _members(utterances, unit), seed)
        mend = "rename it to one that the others have (--corpus.label-map) or "
    else:
        members = _members(utterances, unit)
        _check_groups(members, kind, protocol, folds)
        _check_counts(utterances, protocol, least=2)
        in_name_order = [members[name] for name in sorted(members)]
        splits = _rotate(_deal_speakers(utterances, members, folds, seed) if folds else in_name_order)
        mend = "try another --split.seed or " if folds else ""
    if kind != "random":
        for number, split in enumerate(splits):
            check_disjoint(utterances, split)
            _check_training_labels(utterances, split, unit, f"fold {number} of {protocol}", mend)
    return splits if validation else [let_validation_train(split) for split in splits]


def let_validation_train(split: Split) -> Split:
    """The same tests, and nothing held back for validation."""
    return Split(tuple(sorted(split.train + split.validation)), (), split.test)


def check_disjoint(utterances: Sequence[Utterance], split: Split) -> None:
    """Makes sure that no speaker is on two sides of the split; utterances of unknown speaker are not compared.

    Raises:
      CorpusError: naming the first such speaker and the two sides.
    """
    side_of: dict[str, str] = {}
    for side in SIDES:
        for index in getattr(split, side):
            speaker = utterances[index].speaker
            if speaker and side_of.setdefault(speaker, side) != side:
                raise CorpusError(
                    f"speaker {speaker!r} is in both {side_of[speaker]} and {side}; "
                    "a split by speakers (--split.protocol speaker5) keeps them apart"
                )


def choose_fold(folds: Sequence[Split], fold: int) -> Split:
    """The fold that was asked for, counted from 0.

    Raises:
      CorpusError: there is no such fold.
    """
    if not 0 <= fold < len(folds):
        raise CorpusError(f"--split.fold {fold}: there are {len(folds)} folds, 0 to {len(folds) - 1}")
    return folds[fold]


def describe(utterances: Sequence[Utterance], split: Split) -> dict[str, Any]:
    """Who is where, ready for JSON: `{"train": {"speakers": [...], "counts": {label: n}, "utterances": [path, ...]},
    "validation": ..., "test": ...}`. Every label of the corpus has its count on every side; unknown speakers are
    left out."""
    labels = sorted({utterance.label for utterance in utterances})

    def side(indices: Iterable[int]) -> dict[str, Any]:
        chosen = [utterances[index] for index in indices]
        counts = Counter(utterance.label for utterance in chosen)
        return {
            "speakers": sorted({utterance.speaker for utterance in chosen if utterance.speaker}),
            "counts": {label: counts[label] for label in labels},
            "utterances": [utterance.path for utterance in chosen],
        }

    return {name: side(getattr(split, name)) for name in SIDES}


def _parse(protocol: str) -> tuple[str, int]:
    """("speaker5") -> ("speaker", 5); the number is 0 for leaving one speaker or session out and for a fold file."""
    shipped = _shipped()
    if protocol.endswith(".json") or protocol in shipped:
        return "file", 0
    if protocol in _ONE_OUT:
        return protocol, 0
    parts = re.fullmatch(r"(speaker|random)([0-9]{1,9})", protocol)
    if not parts:
        number = re.search(r"[0-9]+$", protocol)
        known = [f"{kind}{number[0] if number else 5}" for kind in ("speaker", "random")] + list(_ONE_OUT)
        near = nearest(protocol, known + shipped)
        raise CorpusError(
            f"--split.protocol {protocol}: unknown{f'; did you mean {near}?' if near else ';'} "
            "There are speakerK (such as speaker5), speaker, session, corpus and randomK (such as random5), "
            f"and fold files: FILE.json, or by name {', '.join(shipped)}"
        )
    if int(parts[2]) < 3:
        raise CorpusError(
            f"--split.protocol {protocol}: at least three folds are needed, for test, validation and training; "
            f"use {parts[1]}3 or more"
        )
    return parts[1], int(parts[2])


def _check_counts(utterances: Sequence[Utterance], protocol: str, least: int) -> None:
    """Names the rarest label if it has fewer than `least` utterances."""
    counts = Counter(utterance.label for utterance in utterances)
    label, count = min(counts.items(), key=lambda item: (item[1], item[0]))
    if count < least:
        fewer = f"use --split.protocol random{count}, " if count >= 3 else ""
        raise CorpusError(
            f"label {label!r} has {count} utterance{'s' if count > 1 else ''}; {protocol} needs at least {least} of "
            f"each label: {fewer}add more of it or leave the label out"
        )


def _members(utterances: Sequence[Utterance], kind: str) -> dict[str, list[int]]:
    """Indices of the utterances of each speaker or session."""
    members = defaultdict(list)
    for index, utterance in enumerate(utterances):
        name = getattr(utterance, kind)
        if not name:
            raise CorpusError(
                f"{utterance.path} has no {kind}; use --split.protocol {_INSTEAD[kind]} or name the {kind} column "
                f"(--corpus.columns {kind}=NAME)"
            )
        members[name].append(index)
    return members


def _check_groups(members: dict[str, list[int]], kind: str, protocol: str, folds: int) -> None:
    """At least three speakers or sessions, and at least one for each fold."""
    if len(members) < 3:
        found = f"{_number(len(members), kind)} ({', '.join(sorted(members))})"
        split = "a speaker-disjoint split" if kind == "speaker" else "leaving one session out"
        raise CorpusError(f"corpus has {found}: {split} needs at least three; use --split.protocol {_INSTEAD[kind]}")
    if len(members) < folds:
        raise CorpusError(
            f"corpus has {len(members)} {kind}s, too few for the {folds} folds of {protocol}; "
            f"use --split.protocol {kind}{len(members)}"
        )


def _deal_speakers(
    utterances: Sequence[Utterance], members: dict[str, list[int]], folds: int, seed: int
) -> list[list[int]]:
    """Each speaker in turn goes to the fold whose labels overlap least with the speaker's own; in several corpora
    each has its own labels, so that every fold has a share of every corpus.

    The turns are the seed's, but for speakers with many more utterances than others, who come first. The overlap is
    what the fold would add to the sum of squared shares of the labels; that sum is smallest when every fold has an
    equal share of every label. An empty fold has no overlap, so none stays empty.
    scikit-learn's StratifiedGroupKFold makes other folds, and these are the published ones.
    """
    labels = [(utterance.corpus or "", utterance.label) for utterance in utterances]
    totals = Counter(labels)
    shares = {
        speaker: {label: n / totals[label] for label, n in Counter(labels[index] for index in indices).items()}
        for speaker, indices in members.items()
    }
    groups: list[list[int]] = [[] for _ in range(folds)]
    held: list[dict[tuple[str, str], float]] = [defaultdict(float) for _ in range(folds)]

    def cost(fold: int, speaker: str) -> tuple[float, int]:
        # fsum: a plain sum's last digit would depend on the order of the labels.
        overlap = math.fsum(share * held[fold][label] for label, share in shares[speaker].items())
        return overlap, len(groups[fold])

    # A power of two apart: a plain sort by size would leave nothing to the seed.
    for speaker in sorted(_shuffled(members, seed), key=lambda name: -len(members[name]).bit_length()):
        fold = min(range(folds), key=lambda fold: cost(fold, speaker))
        groups[fold] += members[speaker]
        for label, share in shares[speaker].items():
            held[fold][label] += share
    return groups


def _leave_corpora_out(utterances: Sequence[Utterance], members: dict[str, list[int]], seed: int) -> list[Split]:
    """Tests one corpus after the other, in the order of their names; speakers of the others validate or train."""
    corpora = sorted({utterance.corpus for utterance in utterances if utterance.corpus})
    if len(corpora) < 2:
        raise CorpusError(
            "--split.protocol corpus leaves one of several corpora out: give them by --corpus.parts emodb=DIR "
            "ravdess=DIR, or use --split.protocol speaker5"
        )
    splits = []
    for corpus in corpora:
        others = {name: of for name, of in members.items() if utterances[of[0]].corpus != corpus}
        if len(others) < 2:
            raise CorpusError(
                f"--split.protocol corpus: without {corpus} there is {_number(len(others), 'speaker')}, and one must "
                "validate while others train; use --split.protocol speaker5"
            )
        tested = [index for index, utterance in enumerate(utterances) if utterance.corpus == corpus]
        fifths = _deal_speakers(utterances, others, min(5, len(others)), seed)  # the first of them validates
        splits.append(_rotate([tested, *fifths])[0])
    return splits


def _deal_utterances(utterances: Sequence[Utterance], folds: int, seed: int) -> list[list[int]]:
    """Deals label after label like cards, so that both the folds and their labels differ by at most one."""
    of_label = defaultdict(list)
    # By path, not by a hash of it: the same folds wherever the corpus lies.
    for index in _shuffled(range(len(utterances)), seed, key=lambda index: utterances[index].path):
        of_label[utterances[index].label].append(index)
    dealt = [index for indices in of_label.values() for index in indices]
    return [dealt[fold::folds] for fold in range(folds)]


def _shuffled(items: Iterable[Any], seed: int, key: Any = None) -> list[Any]:
    """The items in an order that depends on their set and the seed only."""
    ordered = sorted(items, key=key)
    random.Random(seed).shuffle(ordered)
    return ordered


def _rotate(groups: Sequence[Sequence[int]]) -> list[Split]:
    """In fold k group k is the test, group k + 1 validation, the rest train."""
    splits = []
    for test in range(len(groups)):
        validation = (test + 1) % len(groups)
        train = [index for k, group in enumerate(groups) if k not in (test, validation) for index in group]
        splits.append(Split(*(tuple(sorted(side)) for side in (train, groups[validation], groups[test]))))
    return splits


def _shipped() -> list[str]:
    """Names of the fold files that come with the package."""
    return sorted(path.stem for path in _FOLD_FILES.glob("*.json"))


def _read_fold_file(protocol: str) -> list[dict[str, list[str]]]:
    """`[{"test": [speaker, ...], "validation": [speaker, ...]}, ...]`, neither list empty."""
    file = f"--split.protocol {protocol}"
    form = 'write {"source": "...", "folds": [{"test": ["02"], "validation": ["03"]}, ...]}'
    path = Path(protocol) if protocol.endswith(".json") else _FOLD_FILES / f"{protocol}.json"
    try:
        content = json.loads(path.expanduser().read_text(encoding="utf-8-sig"))
    except (OSError, RuntimeError) as error:  # RuntimeError: no such user's home, or JSON nested too deep
        mend = f"give the path of a fold file or the name of one in the package ({', '.join(_shipped())})"
        raise CorpusError(f"{file}: cannot read it: {getattr(error, 'strerror', 0) or error}; {mend}") from error
    except ValueError as error:
        raise CorpusError(f"{file}: not JSON in UTF-8 ({error}); {form}") from error
    folds = content.get("folds") if isinstance(content, dict) else None
    if not folds or not isinstance(folds, list) or content.keys() - {"source", "folds"}:
        raise CorpusError(f"{file}: not a fold file; {form}")
    for number, fold in enumerate(folds):
        if not isinstance(fold, dict) or fold.keys() != {"test", "validation"}:
            raise CorpusError(f"{file}: fold {number} must hold test and validation only, the rest train; {form}")
        for side, names in fold.items():
            wrong = [name for name in names if not isinstance(name, str)] if isinstance(names, list) else [names]
            if wrong:
                listed = 'write a list of strings, such as ["02", "05"]'
                raise CorpusError(f"{file}: fold {number}: {side} has {wrong[0]!r}; {listed}")
            if not names:
                raise CorpusError(f"{file}: fold {number}: {side} is empty; name at least one speaker")
    return folds


def _splits_of_file(members: dict[str, list[int]], protocol: str) -> list[Split]:
    """Gives each speaker's utterances to the side that the fold file names, or to training."""
    splits = []
    for number, fold in enumerate(_read_fold_file(protocol)):
        where = f"--split.protocol {protocol}: fold {number}"
        named = Counter(fold["test"] + fold["validation"])
        for name, times in named.items():
            if times > 1:
                raise CorpusError(f"{where} names speaker {name!r} {times} times; leave it in test or in validation")
            if name not in members:
                there = first_three(sorted(members))
                raise CorpusError(
                    f"{where} names speaker {name!r}, but the corpus has {there}; "
                    "mend the file or give the corpus that it was made for"
                )
        if not members.keys() - named:
            raise CorpusError(f"{where} leaves no speaker to train; name fewer in test and validation")
        sides = fold | {"train": members.keys() - named}
        parts = (sorted(index for name in sides[side] for index in members[name]) for side in SIDES)
        splits.append(Split(*map(tuple, parts)))
    return splits


def _check_training_labels(utterances: Sequence[Utterance], split: Split, kind: str, fold: str, mend: str) -> None:
    """Names a label that training lacks, with `mend` if more than one speaker or session has it."""
    missing = {utterance.label for utterance in utterances} - {utterances[index].label for index in split.train}
    if missing:
        label = min(missing)
        groups = {getattr(utterance, kind) for utterance in utterances if utterance.label == label}
        mend = mend if len(groups) > 1 else ""
        raise CorpusError(
            f"label {label!r} is missing from the training part of {fold}: only {_number(len(groups), kind)} "
            f"of the corpus {'has' if len(groups) == 1 else 'have'} it; {mend}leave the label out"
        )


def _number(count: int, noun: str) -> str:
    return f"one {noun}" if count == 1 else f"{count} {noun}s"

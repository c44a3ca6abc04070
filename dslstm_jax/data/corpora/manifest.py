"""One's own recordings, listed in a CSV or TSV file: path, label and, if known, speaker and session."""

import csv
import io
import re
from pathlib import Path
from typing import Any

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora.base import (
    COLUMNS,
    About,
    Corpus,
    Utterance,
    corpus_root,
    did_you_mean,
    make_corpus,
    nearest,
    parse_columns,
    parse_label_map,
    split_list,
)
from dslstm_jax.errors import CorpusError, first_three

ABOUT = About(
    license="yours",
    source="your own CSV or TSV file, --corpus.manifest",
    root="where its relative paths start (default: its folder)",
)


def load(config: CorpusConfig) -> Corpus:
    """Reads a table with a header row; the labels are sorted.

    Args:
      config: `manifest` is the file, in UTF-8 (but for paths, which are bytes), with tabs if its name ends in .tsv,
        else with whichever of comma, tab and semicolon its header has. `columns` renames its columns; speaker and
        session may be missing unless they were renamed. Relative paths start at `root`, or at the
        manifest's folder if that is None. If there are `labels`, any other label is taken for a slip, unless
        `label_map` has it.

    Raises:
      CorpusError: no such file, not UTF-8, not a table, no rows; a missing column; an empty cell, an unknown label
        or a path listed twice, with the line of the manifest; none of its files exists.
    """
    if config.manifest is None:
        raise CorpusError("corpus 'manifest' needs its table: give --corpus.manifest FILE.csv")
    manifest = Path(config.manifest).expanduser()
    if not manifest.is_file():
        raise CorpusError(f"--corpus.manifest {config.manifest}: no such file")
    base = manifest.parent if config.root is None else corpus_root("manifest", config.root)
    try:
        utterances = _read(manifest, base, config)
    except csv.Error as error:
        raise CorpusError(f"{manifest}: not a well-formed table ({error}); is a quote left open?") from error
    except OSError as error:
        raise CorpusError(f"{manifest}: {error.strerror}: {error.filename}") from error
    labels = tuple(sorted({utterance.label for utterance in utterances}))
    return make_corpus("manifest", labels, utterances, f"{manifest} has no rows below its header")


def _read(manifest: Path, base: Path, config: CorpusConfig) -> list[Utterance]:
    # Spreadsheets begin a UTF-8 file with a byte-order mark; the name of a file need not be text.
    text = manifest.read_text(encoding="utf-8-sig", errors="surrogateescape")
    header = text.partition("\n")[0]
    _check_text(str(manifest), header)
    delimiter = "\t" if manifest.suffix.lower() == ".tsv" else max(",\t;", key=header.count)
    # strict: otherwise a quote left open would swallow the following rows into one label
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    reader.fieldnames = columns = [column.strip() for column in reader.fieldnames or ()]
    named = parse_columns(config.columns)
    _check_columns(manifest, columns, named)

    utterances: list[Utterance] = []
    lines: dict[Path, int] = {}
    missing: list[str] = []
    classes = split_list(config.labels)
    known, unknown = {*classes, *parse_label_map(config.label_map)}, dict[str, int]()
    for row in reader:
        line = reader.line_num
        where = f"{manifest}, line {line}"
        if None in row:
            raise CorpusError(f"{where}: more cells than columns; quote a cell that holds {delimiter!r}")
        path = base / _cell(where, row, named["path"], text=False)
        exists = path.exists()
        if not exists:
            _check_text(f"{where}: column {named['path']!r}", path.name)
            missing.append(f"{path} (line {line})")
        if (earlier := lines.setdefault(path.resolve() if exists else path, line)) != line:
            raise CorpusError(f"{where}: column {named['path']!r}: {path} is already on line {earlier}")
        label = _cell(where, row, named["label"])
        if classes and label not in known:
            unknown.setdefault(label, line)
        speaker, session = (
            _cell(where, row, named[group]) if named[group] in columns else None for group in ("speaker", "session")
        )
        utterances.append(Utterance(str(path), label, speaker, session))
    if unknown:
        raise CorpusError(_unknown_labels(manifest, named["label"], unknown, classes))
    if missing and len(missing) == len(utterances):  # single ones are named with all that cannot be read
        raise CorpusError(
            f"{manifest}: column {named['path']!r}: none of its {len(utterances)} files exists: "
            f"{first_three(missing)}; relative paths start at {base} (--corpus.root)"
        )
    return utterances


def _unknown_labels(manifest: Path, column: str, unknown: dict[str, int], classes: tuple[str, ...]) -> str:
    """The first unknown label with its mends, and where the others are."""
    (label, line), *others = unknown.items()
    rest = f"; so are {first_three([f'{other!r} (line {at})' for other, at in others])}" if others else ""
    return (
        f"{manifest}, line {line}: column {column!r}: {label!r} is not among --corpus.labels ({', '.join(classes)})"
        f"{did_you_mean(label, classes)} mend the cell, add the label to --corpus.labels, rename it "
        f"(--corpus.label-map {label}={nearest(label, classes) or 'CLASS'}) or leave it out "
        f"(--corpus.label-map {label}=-){rest}"
    )


def _check_columns(manifest: Path, columns: list[str], named: dict[str, str]) -> None:
    for column in COLUMNS:
        name = named[column]
        count = columns.count(name)
        if count > 1 or (count == 0 and (column in ("path", "label") or name != column)):
            fault = f"{count} columns" if count else "no column"
            there = ", ".join(columns) or "nothing"
            raise CorpusError(f"{manifest}: {fault} {name!r} (--corpus.columns {column}=NAME); it has: {there}")


def _cell(where: str, row: dict[str | Any, str | Any], column: str, text: bool = True) -> str:
    value = (row[column] or "").strip()
    if not value:
        raise CorpusError(f"{where}: column {column!r} is empty")
    if text:
        _check_text(f"{where}: column {column!r}", value)
    return value


def _check_text(where: str, value: str) -> None:
    if re.search("[\udc80-\udcff]", value):  # a byte that surrogateescape let through
        raise CorpusError(f"{where}: not UTF-8 text; save the table as CSV UTF-8")

"""One's own recordings, listed in a CSV or TSV file: path, label and, if known, speaker and session."""

import csv
import io
from pathlib import Path
from typing import Any

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora.base import About, Corpus, Utterance, corpus_root, first_three, make_corpus
from dslstm_jax.errors import CorpusError

ABOUT = About(
    license="yours",
    source="your own CSV or TSV file, --corpus.manifest",
    root="where its relative paths start (default: its folder)",
)


def load(config: CorpusConfig) -> Corpus:
    """Reads a table with a header row; the labels are sorted.

    Args:
      config: `manifest` is the file, in UTF-8, with tabs if its name ends in .tsv, else with whichever of comma, tab
        and semicolon its header has. The `*_column` fields name its columns; speaker and session may be missing
        unless they were renamed. Relative paths start at `root`, or at the manifest's folder if that is None.

    Raises:
      CorpusError: no such file, not UTF-8, not a table, no rows; a missing column; an empty cell, a path listed
        twice or one that is no file, with the line of the manifest.
    """
    if config.manifest is None:
        raise CorpusError("corpus 'manifest' needs its table: give --corpus.manifest FILE.csv")
    manifest = Path(config.manifest).expanduser()
    if not manifest.is_file():
        raise CorpusError(f"--corpus.manifest {config.manifest}: no such file")
    base = manifest.parent if config.root is None else corpus_root("manifest", config.root)
    try:
        utterances = _read(manifest, base, config)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{manifest}: not UTF-8 text (byte {error.start}); save it as CSV UTF-8") from error
    except csv.Error as error:
        raise CorpusError(f"{manifest}: not a well-formed table ({error}); is a quote left open?") from error
    except OSError as error:
        raise CorpusError(f"{manifest}: {error.strerror}: {error.filename}") from error
    labels = tuple(sorted({utterance.label for utterance in utterances}))
    return make_corpus("manifest", labels, utterances, f"{manifest} has no rows below its header")


def _read(manifest: Path, base: Path, config: CorpusConfig) -> list[Utterance]:
    text = manifest.read_text(encoding="utf-8-sig")  # spreadsheets begin a UTF-8 file with a byte-order mark
    header = text.partition("\n")[0]
    delimiter = "\t" if manifest.suffix.lower() == ".tsv" else max(",\t;", key=header.count)
    # strict: otherwise a quote left open would swallow the following rows into one label
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    reader.fieldnames = columns = [column.strip() for column in reader.fieldnames or ()]
    _check_columns(manifest, columns, config)

    utterances: list[Utterance] = []
    lines: dict[Path, int] = {}
    missing: list[str] = []
    for row in reader:
        line = reader.line_num
        where = f"{manifest}, line {line}"
        if None in row:
            raise CorpusError(f"{where}: more cells than columns; quote a cell that holds {delimiter!r}")
        path = base / _cell(where, row, config.path_column)
        if not path.is_file():
            missing.append(f"{path} (line {line})")
        elif (earlier := lines.setdefault(path.resolve(), line)) != line:
            raise CorpusError(f"{where}: column {config.path_column!r}: {path} is already on line {earlier}")
        utterances.append(
            Utterance(
                path=str(path),
                label=_cell(where, row, config.label_column),
                speaker=_cell(where, row, config.speaker_column) if config.speaker_column in columns else None,
                session=_cell(where, row, config.session_column) if config.session_column in columns else None,
            )
        )
    if missing:
        raise CorpusError(
            f"{manifest}: column {config.path_column!r}: {len(missing)} of {len(utterances)} files do not exist: "
            f"{first_three(missing)}; relative paths start at {base} (--corpus.root)"
        )
    return utterances


def _check_columns(manifest: Path, columns: list[str], config: CorpusConfig) -> None:
    for field in ("path_column", "label_column", "speaker_column", "session_column"):
        column = getattr(config, field)
        optional = field in ("speaker_column", "session_column") and column == getattr(CorpusConfig, field)
        count = columns.count(column)
        if count > 1 or (count == 0 and not optional):
            fault = f"{count} columns" if count else "no column"
            flag = f"--corpus.{field.replace('_', '-')}"
            raise CorpusError(f"{manifest}: {fault} {column!r} ({flag}); it has: {', '.join(columns) or 'nothing'}")


def _cell(where: str, row: dict[str | Any, str | Any], column: str) -> str:
    value = (row[column] or "").strip()
    if not value:
        raise CorpusError(f"{where}: column {column!r} is empty")
    return value

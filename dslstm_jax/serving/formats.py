"""How `dslstm predict` writes its answers: a table, JSON lines or CSV."""

import csv
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from dslstm_jax.errors import AudioError
from dslstm_jax.serving.predictor import Prediction
from dslstm_jax.serving.timeline import Window
from dslstm_jax.util.files import to_json

Answer = Prediction | AudioError
"""The emotion of one file, or why there is none."""


def to_row(path: str, answer: Answer) -> dict[str, Any]:
    """{"path", "label", "probabilities", "duration_seconds"}, and "windows" if asked for; or {"path", "error"}."""
    if isinstance(answer, AudioError):
        return {"path": path, "error": str(answer).removeprefix(f"{path}: ")}
    row = {"path": path, **asdict(answer)}
    if answer.windows is None:
        del row["windows"]
    return row


def from_row(row: Mapping[str, Any]) -> Answer:
    """What `to_row` made a row of.

    Raises:
      KeyError, TypeError: it is no such row.
    """
    values = dict(row)
    path = values.pop("path")
    if "error" in values:
        return AudioError(f"{path}: {values['error']}")
    if "windows" in values:
        values["windows"] = tuple(Window(**window) for window in values["windows"])
    return Prediction(**values)


class Writer:
    """Writes the answers for `paths` one after the other, each as soon as it is there."""

    def __init__(self, stream: TextIO, labels: Sequence[str], paths: Sequence[str]) -> None:
        self.stream, self.labels, self.paths = stream, labels, paths
        self.begin()

    def begin(self) -> None:
        """Writes what stands above the answers."""

    def write(self, path: str, answer: Answer) -> None:
        """Writes the answer for one file."""
        raise NotImplementedError


class JSONWriter(Writer):
    """The rows of `to_row`, one object a line."""

    def write(self, path: str, answer: Answer) -> None:
        print(to_json(to_row(path, answer)), file=self.stream, flush=True)


class CSVWriter(Writer):
    """A header, then a row a file; a failure has empty figures and its reason in the last column."""

    def begin(self) -> None:
        self.rows = csv.writer(self.stream, lineterminator="\n")
        self.rows.writerow(["path", "label", *self.labels, "duration_seconds", "error"])

    def write(self, path: str, answer: Answer) -> None:
        if isinstance(answer, AudioError):
            self.rows.writerow([path, "", *("" for _ in self.labels), "", to_row(path, answer)["error"]])
        else:
            shares = [f"{answer.probabilities[label]:.6f}" for label in self.labels]
            self.rows.writerow([path, answer.label, *shares, f"{answer.duration_seconds:.3f}", ""])
        self.stream.flush()


class TableWriter(Writer):
    """Columns for people; failures are left to stderr.

    A terminal shows bars and percentages within its width, a pipe or file plain numbers and whole names.
    """

    def begin(self) -> None:
        stream, labels = self.stream, self.labels
        self.path_width = max(len(_printable(path)) for path in ["file", *self.paths])
        self.label_width = max(map(len, ["emotion", *labels]))
        self.cell_width, self.gap, self.bar_width = self.label_width, 2, 0
        if stream.isatty():
            room = shutil.get_terminal_size().columns - self.label_width - 4
            for_each = (room - min(self.path_width, 24)) // len(labels)  # names keep 24 before the bars grow
            self.bar_width = min(max(1, for_each - 5), 8)
            self.cell_width, self.gap = self.bar_width + 4, 1
            self.path_width = max(8, min(self.path_width, room - len(labels) * (self.cell_width + self.gap)))
        self.plain_bars = not (getattr(stream, "encoding", None) or "").lower().startswith("utf")
        self._print("file", "emotion", [f"{label[: self.cell_width]:>{self.cell_width}}" for label in labels])

    def _print(self, name: str, label: str, cells: Sequence[str]) -> None:
        name = _printable(name)
        if len(name) > self.path_width:
            name = f"...{name[3 - self.path_width :]}"
        columns = "".join(" " * self.gap + cell for cell in cells)
        line = f"{name:{self.path_width}}  {label:{self.label_width}}  {columns}"
        print(line.rstrip(), file=self.stream, flush=True)

    def _cell(self, share: float) -> str:
        if not self.bar_width:
            return f"{share:{self.cell_width}.3f}"
        if self.plain_bars:
            bar = "#" * round(share * self.bar_width)
        else:
            whole, eighths = divmod(round(share * self.bar_width * 8), 8)
            bar = "█" * whole + " ▏▎▍▌▋▊▉"[eighths].strip()
        return f"{bar:{self.bar_width}}{share:4.0%}"

    def write(self, path: str, answer: Answer) -> None:
        if isinstance(answer, AudioError):
            return
        self._print(path, answer.label, [self._cell(answer.probabilities[label]) for label in self.labels])
        for window in answer.windows or ():
            shares = window.probabilities or {}
            cells = [self._cell(shares[label]) for label in self.labels if shares]
            self._print(f"  {window.start:.1f}-{window.end:.1f} s", window.label or "-", cells)


def _printable(name: str) -> str:
    """A name in one line: what is no letter or sign is written as Python writes it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


FORMATS: dict[str, type[Writer]] = {"table": TableWriter, "json": JSONWriter, "csv": CSVWriter}
ENDINGS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".txt": "table"}
"""The format of a file by its ending."""

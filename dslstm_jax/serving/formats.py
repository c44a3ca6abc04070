"""How `dslstm predict` prints its answers: a table, JSON lines or CSV."""

import csv
from collections.abc import Sequence
from typing import Protocol, TextIO

from dslstm_jax.errors import AudioError
from dslstm_jax.files import to_json
from dslstm_jax.serving.predictor import Prediction


class Writer(Protocol):
    """Prints the answers one after the other, each as soon as it is there."""

    def __init__(self, stream: TextIO, labels: Sequence[str], paths: Sequence[str]) -> None: ...

    def write(self, path: str, answer: Prediction | AudioError) -> None:
        """Prints the emotion of one file, or why there is none."""


def _reason(path: str, error: AudioError) -> str:
    return str(error).removeprefix(f"{path}: ")


class JSONWriter:
    """{"path", "label", "probabilities", "duration_seconds"} or {"path", "error"}, one object a line."""

    def __init__(self, stream: TextIO, labels: Sequence[str], paths: Sequence[str]) -> None:  # noqa: ARG002
        self.stream = stream

    def write(self, path: str, answer: Prediction | AudioError) -> None:
        row = {"error": _reason(path, answer)} if isinstance(answer, AudioError) else vars(answer)
        print(to_json({"path": path, **row}), file=self.stream, flush=True)


class CSVWriter:
    """A header, then a row a file; a failure has empty figures and its reason in the last column."""

    def __init__(self, stream: TextIO, labels: Sequence[str], paths: Sequence[str]) -> None:  # noqa: ARG002
        self.labels, self.stream = labels, stream
        self.rows = csv.writer(stream, lineterminator="\n")
        self.rows.writerow(["path", "label", *labels, "duration_seconds", "error"])

    def write(self, path: str, answer: Prediction | AudioError) -> None:
        if isinstance(answer, AudioError):
            self.rows.writerow([path, "", *("" for _ in self.labels), "", _reason(path, answer)])
        else:
            shares = [f"{answer.probabilities[label]:.6f}" for label in self.labels]
            self.rows.writerow([path, answer.label, *shares, f"{answer.duration_seconds:.3f}", ""])
        self.stream.flush()


class TableWriter:
    """Columns for people; failures are left to stderr."""

    def __init__(self, stream: TextIO, labels: Sequence[str], paths: Sequence[str]) -> None:
        self.labels, self.stream = labels, stream
        self.path_width = max(map(len, ["file", *paths]))
        self.width = max(map(len, ["emotion", *labels]))
        self._print("file", "emotion", labels)

    def _print(self, path: str, label: str, cells: Sequence[str]) -> None:
        columns = (f"{cell:>{self.width}}" for cell in cells)
        print(f"{path:{self.path_width}}  {label:{self.width}}", *columns, sep="  ", file=self.stream, flush=True)

    def write(self, path: str, answer: Prediction | AudioError) -> None:
        if isinstance(answer, Prediction):
            self._print(path, answer.label, [f"{answer.probabilities[label]:.3f}" for label in self.labels])


FORMATS: dict[str, type[Writer]] = {"table": TableWriter, "json": JSONWriter, "csv": CSVWriter}

"""A run folder: what was run, on whom, on what machine, and what came of it; it needs nothing outside itself."""

import gzip
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dslstm_jax.config import Config, from_dict, to_dict
from dslstm_jax.errors import RunError
from dslstm_jax.runs.provenance import describe_environment
from dslstm_jax.runs.selection import EpochRecord, describe_choice, refitted
from dslstm_jax.util.files import flatten, make_folder, to_json, write_json, write_text

SELECTION = "selection"
"""Folder in the folder of a refitted run: the run whose validation said how many epochs there are to be."""


@dataclass(frozen=True)
class RunFolder:
    """A run folder and what its config.json and labels.json say."""

    path: Path
    config: Config
    labels: tuple[str, ...]

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def calibration(self) -> Path:
        return self.path / "calibration.json"

    @property
    def selected_by(self) -> "RunFolder | None":
        """The run that said how many epochs there are to be, if this one is refitted."""
        folder = self.path / SELECTION
        return open_run(folder) if (folder / "config.json").exists() else None

    @property
    def choice(self) -> str:
        """Which epoch is used, in words."""
        selected_by = self.selected_by
        return describe_choice(self.config, selected_by.config if selected_by else None)

    @property
    def finished(self) -> bool:
        """Whether it was trained to the last epoch."""
        return self.metrics.exists() and len(self.read_records()) == self.config.training.epochs

    def write_records(self, records: Sequence[EpochRecord]) -> None:
        """metrics.jsonl: a line for each epoch."""
        write_text(self.metrics, "".join(to_json(record) + "\n" for record in records))

    def read_records(self) -> list[EpochRecord]:
        """What `write_records` wrote.

        Raises:
          RunError: the file is missing or damaged.
        """
        return [_parse_json(line, self.metrics) for line in _read_text(self.metrics).splitlines()]

    def read_folds(self) -> dict[str, Any]:
        """folds.json: who was in training, validation and test.

        Raises:
          RunError: the file is missing or damaged.
        """
        folds: dict[str, Any] = read_json(self.path / "folds.json")
        return folds

    def read_temperature(self) -> float:
        """What logits are divided by, as calibration.json says; 1 where there is none.

        Raises:
          RunError: the file is damaged.
        """
        if not self.calibration.exists():  # training has not ended, or was that of an older version or of PyTorch
            return 1.0
        values = read_json(self.calibration)
        temperature = values.get("temperature") if isinstance(values, dict) else None
        if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
            raise RunError(
                f"{self.calibration} is damaged: its temperature must be a number above 0; dslstm train with "
                "--resume writes it again"
            )
        return float(temperature)


def create_run(path: Path, config: Config, labels: Sequence[str], folds: Mapping[str, Any]) -> RunFolder:
    """Makes the folder and writes all that is known before training.

    Raises:
      RunError: there is a run in it already, or it cannot be written.
    """
    if (path / "config.json").exists():
        raise RunError(f"{path} holds a run already; go on with --resume or give another --workdir")
    make_folder(path)
    write_json(path / "labels.json", list(labels))
    write_json(path / "folds.json", folds)
    write_json(path / "environment.json", describe_environment())
    write_json(path / "config.json", to_dict(config))  # last: with it the folder counts as a run
    return RunFolder(path, config, tuple(labels))


def open_run(path: Path) -> RunFolder:
    """Reads a run folder.

    Raises:
      RunError: no such folder, not a run folder, or a damaged file in it.
    """
    if not path.is_dir():
        raise RunError(f"{path}: no such run folder; make one with dslstm train CONFIG.py --workdir {path}")
    if (path / SELECTION / "config.json").exists() and not (path / "config.json").exists():
        raise RunError(f"{path} was stopped before validation said how many epochs there are to be; --resume it")
    if not (path / "config.json").is_file():
        raise RunError(f"{path} is not a run folder: it has no config.json")
    config = from_dict(read_json(path / "config.json"), source=str(path / "config.json"))
    run = RunFolder(path, config, tuple(read_json(path / "labels.json")))
    if config.training.choose == "refit":  # older versions wrote what was asked for
        run = replace(run, config=refitted(config, len(run.read_records())))
    return run


def check_resumable(run: RunFolder, config: Config, labels: Sequence[str], folds: Mapping[str, Any]) -> None:
    """Refuses to go on with other settings or other data than the run began with.

    Raises:
      RunError: naming the first field that differs, or that the recordings changed.
    """
    check_same_settings(run.path, to_dict(run.config), to_dict(config))
    if run.selected_by and run.read_folds()["validation"]["utterances"]:
        raise RunError(f"{run.path} was refitted by an older version, and can only predict; train it again")
    if list(labels) != list(run.labels) or folds != run.read_folds():
        raise RunError(f"{run.path}: the corpus or its split changed since the run began; give another --workdir")


def check_same_settings(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to go on in the folder with other settings, nested dictionaries, than it was begun with.

    Raises:
      RunError: naming the first field that differs.
    """
    begun, asked = flatten(before), flatten(now)
    for name in sorted(begun.keys() | asked.keys()):
        if begun.get(name) != asked.get(name):
            raise RunError(
                f"{path} was run with {name} = {begun.get(name)}, not {asked.get(name)}; "
                "resume with the same settings or give another --workdir"
            )


def read_json(path: Path) -> Any:
    """What is in a JSON file, which is compressed where its name ends in .gz.

    Raises:
      RunError: the file is missing or damaged.
    """
    return _parse_json(_read_text(path), path)


def _read_text(path: Path) -> str:
    try:
        return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error

"""Files written whole or not at all: a reader never meets half of one, even after a crash."""

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dslstm_jax.errors import RunError


@contextmanager
def run_errors(what: str) -> Iterator[None]:
    """An OSError in the `with` block becomes `RunError("WHAT: REASON")`."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{what}: {error.strerror or error}") from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`, to be written to in the `with` block.

    When the block ends well the temporary file takes the place of `path`, in one step; when it raises, the
    temporary file is removed and whatever was at `path` stays. A device or pipe (/dev/stdout) is yielded itself.

    Raises:
      RunError: the file cannot be written (no such folder, no permission, disk full).
    """
    target = Path(path)
    with run_errors(f"cannot write {path}"):
        if target.exists() and not target.is_file():
            yield target
            return
        target = target.resolve()  # a link stays a link: what it points at is replaced
        # Not tempfile.mkstemp, whose files only their owner may read.
        temporary = target.with_name(f".{target.stem[:100]}.{secrets.token_hex(4)}{target.suffix}")
        try:
            yield temporary
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())  # the content reaches the disk before the name does
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def make_folder(path: str | Path) -> Path:
    """Makes the folder and those above it, where they are missing; returns it.

    Raises:
      RunError: it cannot be made, or a file is in its place.
    """
    with run_errors(f"cannot make the folder {path}"):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` in UTF-8, whole or not at all; the bytes of file names that are no text become `\\udcff`.

    JSON reads such an escape as what it was.

    Raises:
      RunError: the file cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text of `value`; NaN and infinity, which JSON does not have, become null."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def write_json(path: str | Path, value: Any) -> None:
    """Writes `to_json(value)`, indented, whole or not at all.

    Raises:
      RunError: the file cannot be written.
    """
    write_text(path, to_json(value, indent=2) + "\n")


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted names: {"a": {"b": 1}} becomes {"a.b": 1}."""
    if isinstance(values, Mapping):
        return {
            key: leaf
            for name, value in values.items()
            for key, leaf in flatten(value, f"{prefix}.{name}" if prefix else name).items()
        }
    return {prefix: values}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value

"""The answers of a long job, kept as they come: a killed job goes on where it was."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dslstm_jax.errors import RunError
from dslstm_jax.serving.formats import Answer, from_row, to_row
from dslstm_jax.serving.predictor import GROUP, Predictor
from dslstm_jax.util.files import to_json


def job_identity(predictor: Predictor, names: Sequence[str], settings: Sequence[Any]) -> str:
    """A hash of all that the answers follow from, but for what is in the files."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves([member.variables for member in predictor.members]):
        digest.update(np.asarray(leaf).tobytes())
    networks = [(repr(member.config.features), repr(member.config.model)) for member in predictor.members]
    made_of = [networks, predictor.labels, settings, names]
    digest.update(json.dumps(made_of).encode())
    return digest.hexdigest()


def answer_and_keep(
    kept: Path, identity: str, names: Sequence[str], answer: Callable[[int], Iterator[Answer]], *, resume: bool
) -> Iterator[Answer]:
    """The answers for all names; each is in the file `kept` before it is yielded.

    Args:
      kept: JSON lines: `{"job": IDENTITY}`, then the rows of `to_row`. A half-written end is cut off.
      identity: from `job_identity`.
      names: of the files, in order.
      answer: gives the answers from an index on.
      resume: take over what is in `kept`, as far as whole groups of the predictor go, so that the answers are those
        of an undisturbed run to the last bit. Else, or if there is no such file, it is begun anew.

    Raises:
      RunError: the file belongs to another job, or cannot be written.
    """
    try:
        done, size = _find_kept(kept, identity, names) if resume and kept.exists() else (0, 0)
        with kept.open("r+b" if done else "wb") as file:
            if done:
                file.truncate(size)
                file.seek(size)
                yield from islice(read_kept(kept), done)
            else:
                file.write(_line({"job": identity}))
            for name, found in zip(names[done:], answer(done), strict=True):
                file.write(_line(to_row(name, found)))
                file.flush()
                yield found
    except OSError as error:
        raise RunError(f"cannot write {kept}: {error.strerror or error}") from error


def read_kept(kept: Path) -> Iterator[Answer]:
    """The answers in a file that `answer_and_keep` has written to its end."""
    with kept.open("rb") as file:
        for line in islice(file, 1, None):
            yield from_row(json.loads(line))


def _line(row: dict[str, Any]) -> bytes:
    return (to_json(row) + "\n").encode(errors="backslashreplace")


def _find_kept(kept: Path, identity: str, names: Sequence[str]) -> tuple[int, int]:
    """How many answers can be taken over, and how many bytes they have."""
    with kept.open("rb") as file:
        try:
            job = json.loads(file.readline())["job"]
        except (ValueError, KeyError, TypeError):
            return 0, 0
        if job != identity:
            raise RunError(
                f"{kept} holds answers to other files, of another model or with other windows; the same command "
                "without --resume begins anew"
            )
        done, size, end = 0, 0, file.tell()
        for number, name in enumerate(names, 1):
            line = file.readline()
            end += len(line)
            try:
                row = json.loads(line)
                if not line.endswith(b"\n") or row["path"] != name:
                    break
                from_row(row)
            except (ValueError, KeyError, TypeError):
                break
            if number % GROUP == 0 or number == len(names):
                done, size = number, end
        return done, size

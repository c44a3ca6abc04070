"""Answers for many files, kept as they come: a killed job goes on where it was."""

import glob
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dslstm_jax.data.audio import find_audio, read_blocks
from dslstm_jax.errors import AudioError, RunError
from dslstm_jax.reporting.timeline import draw_timeline
from dslstm_jax.serving.formats import FORMATS, Answer, from_row, to_row
from dslstm_jax.serving.predictor import GROUP, Predictor
from dslstm_jax.util.files import make_folder, run_errors, to_json, whole_file

Input = tuple[str, Path | AudioError]
"""The name and place of a sound file, or why there is none."""


def find_inputs(paths: Sequence[str]) -> list[Input]:
    """The sound files that are meant.

    Args:
      paths: files; folders, which are searched; patterns; `-`, for a list of these on stdin.
    """
    inputs: list[Input] = []
    for path in paths:
        listed = [path]
        if path == "-":
            content = sys.stdin.buffer.read()
            lines = content.split(b"\0") if b"\0" in content else content.splitlines()
            listed = [os.fsdecode(line) for line in lines if line]
            if not listed:
                inputs.append((path, AudioError("-: no path on stdin")))
        for name in (match for each in listed for match in _expand(each)):
            try:
                inputs += [(str(file), file) for file in find_audio(name)]
            except AudioError as error:
                inputs.append((name, error))
    return inputs


def answer_files(
    predictor: Predictor,
    inputs: Sequence[Input],
    format_name: str,
    output: Path | None = None,
    *,
    resume: bool = False,
    timeline: tuple[float, float] | None = None,
    pictures: Path | None = None,
) -> Iterator[Answer]:
    """Recognizes files, and writes each answer before it is yielded.

    Args:
      predictor: recognizes them.
      inputs: from `find_inputs`.
      format_name: one of FORMATS.
      output: the file to write; until it is whole the answers are kept in FILE.part. None: stdout.
      resume: go on from FILE.part.
      timeline: the window and the hop of each answer's timeline, in seconds; see `Predictor.files`.
      pictures: the folder for a picture of each timeline; by default the folder of `output`.

    Raises:
      ConfigError: a window or hop that makes no sense; nothing is written then.
      RunError: FILE.part belongs to another job, or something cannot be written.
    """
    names = [name for name, _ in inputs]
    folder = pictures or (output and output.parent)
    drawn = _picture_paths(folder, names) if folder and timeline else []
    begin = partial(FORMATS[format_name], labels=predictor.labels, paths=names)

    def draw(name: str, answer: Answer, picture: Path) -> Answer:
        if not isinstance(answer, AudioError) and answer.windows:
            rate, title = predictor.sample_rate, f"{name}: {answer.label}"
            draw_timeline(read_blocks(name, rate), rate, answer.windows, predictor.labels, title, picture)
        return answer

    def answer(start: int) -> Iterator[Answer]:
        window, hop = timeline or (None, 1.0)
        answers = predictor.files([source for _, source in inputs[start:]], window=window, hop=hop)
        return map(draw, names[start:], answers, drawn[start:]) if drawn else answers

    answers = answer(0)  # finds a window without sense before anything is written
    if folder and drawn:
        make_folder(folder)
    if output is None:
        writer = begin(sys.stdout)
        for name, found in zip(names, answers, strict=True):
            writer.write(name, found)
            yield found
        return
    kept = output.with_name(f"{output.name}.part")
    identity = job_identity(predictor, names, timeline or ())
    yield from answer_and_keep(kept, identity, names, answer, resume=resume)
    with (
        whole_file(output) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream,
    ):
        writer = begin(stream)
        for name, found in zip(names, read_kept(kept), strict=True):
            writer.write(name, found)
    kept.unlink()


def job_identity(predictor: Predictor, names: Sequence[str], settings: Sequence[Any]) -> str:
    """A hash of all that the answers follow from, but for what is in the files."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves([member.variables for member in predictor.members]):
        digest.update(np.asarray(leaf).tobytes())
    networks = [(repr(config.features), repr(config.model)) for _, config in predictor.members]
    digest.update(json.dumps([networks, predictor.labels, settings, names]).encode())
    return digest.hexdigest()


def answer_and_keep(
    kept: Path, identity: str, names: Sequence[str], answer: Callable[[int], Iterator[Answer]], *, resume: bool
) -> Iterator[Answer]:
    """The answers for all names; each is in the file `kept` before it is yielded.

    Args:
      kept: JSON lines: `{"job": IDENTITY}` from `job_identity`, then the rows of `to_row`.
      identity: of the job.
      names: of the files, in order.
      answer: gives the answers from an index on.
      resume: take over what is in `kept`, as far as whole groups of the predictor go: the answers are then those of
        an undisturbed run to the last bit.

    Raises:
      RunError: the file belongs to another job, or cannot be written.
    """
    with run_errors(f"cannot write {kept}"):
        done, size = _find_kept(kept, identity, names) if resume and kept.exists() else (0, 0)
        if done:
            os.truncate(kept, size)
            yield from read_kept(kept)
        with kept.open("ab" if done else "wb") as file:
            if not done:
                file.write(_line({"job": identity}))
            for name, found in zip(names[done:], answer(done), strict=True):
                file.write(_line(to_row(name, found)))
                file.flush()
                yield found


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
        done, size = 0, 0
        for number, name in enumerate(names, 1):
            line = file.readline()
            try:
                row = json.loads(line)
                if not line.endswith(b"\n") or row["path"] != name:
                    break
                from_row(row)
            except (ValueError, KeyError, TypeError):
                break
            if number % GROUP == 0 or number == len(names):
                done, size = number, file.tell()
        return done, size


def _expand(path: str) -> list[str]:
    """What a pattern stands for, sorted, as a shell does it; whatever exists or matches nothing is itself."""
    if not glob.has_magic(path) or os.path.lexists(path):
        return [path]
    return sorted(glob.glob(path, recursive=True)) or [path]  # noqa: PTH207 (Path.glob wants a folder to start from)


def _picture_paths(folder: Path, names: Sequence[str]) -> list[Path]:
    """A picture for each file; where several have the same name, the later ones are numbered."""
    paths: dict[str, Path] = {}
    used: Counter[str] = Counter()
    for name in names:
        stem = given = Path(name).stem[:100]
        while stem.lower() in paths:  # as a file system sees it that ignores case
            used[given.lower()] += 1
            stem = f"{given}-{used[given.lower()] + 1}"
        paths[stem.lower()] = folder / f"{stem}.timeline.png"
    return list(paths.values())

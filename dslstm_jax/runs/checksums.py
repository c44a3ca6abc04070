"""The digests of all files of a folder, by which damage is found: in the form that `sha256sum --check` reads."""

import hashlib
from pathlib import Path

from dslstm_jax.util.files import write_text

DIGESTS = "SHA256SUMS"
"""The file that holds them."""
UNFINISHED = "was never finished"
"""The fault of a folder without it: it is written last."""


def write_digests(folder: Path) -> None:
    """Of what is in the folder now."""
    write_text(folder / DIGESTS, find_digests(folder))


def digest_line(path: Path, folder: Path) -> str:
    """As sha256sum writes it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{digest}  {path.relative_to(folder).as_posix()}\n"


def find_digests(folder: Path) -> str:
    """A line for each file; not for the digests themselves, nor for hidden files, which file systems leave behind."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != "." and path.name != DIGESTS)
    return "".join(digest_line(path, folder) for path in sorted(paths))


def read_digests(folder: Path) -> str:
    return (folder / DIGESTS).read_bytes().decode(errors="replace")


def find_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if its files are, to the byte, those that were written."""
    try:
        written, found = read_digests(folder), find_digests(folder)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError) and error.filename == str(folder / DIGESTS)
        return UNFINISHED if missing else f"is damaged: {error.filename}: {error.strerror}"
    if found == written:
        return None
    before, now = ({line[66:]: line for line in digests.splitlines()} for digests in (written, found))
    for path in sorted(before.keys() | now.keys()):
        if path not in now:
            return f"is damaged: {path} is missing"
        if now[path] != before.get(path):
            return f"is damaged: {path} does not match {DIGESTS}"
    return f"is damaged: {DIGESTS} has changed"

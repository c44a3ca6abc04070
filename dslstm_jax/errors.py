"""The errors a user can cause and mend; the command line prints each as one line, without a traceback."""

from collections.abc import Sequence


class DslstmError(Exception):
    """Any mistake in what we were given. The message names the file or field and the mend."""


class ConfigError(DslstmError):
    """A config file, field or flag that does not make sense."""


class CorpusError(DslstmError):
    """A corpus, manifest or split that cannot be used as asked."""


class AudioError(DslstmError):
    """Sound that cannot be decoded or is not usable: one file or one array."""


class RunError(DslstmError):
    """A run folder or checkpoint that is missing, incomplete or does not fit."""


def one_line(error: object) -> str:
    """What a library says, without its line breaks; its type if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Of a library that says too much; its type if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def first_three(names: Sequence[str]) -> str:
    """`a, b, c and 2 more`, so that an error over many files stays one readable line."""
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")

"""Libraries that talk where a user reads, silenced without touching what Python prints there."""

import ctypes
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

_lock = Lock()
_inside = 0


@cache
def _streams() -> tuple[ctypes.c_void_p, int | None, int] | None:
    """The C library's variable `stderr`, its value, and a stream that leads nowhere; None where there are none."""
    try:
        library = ctypes.CDLL(None)
        variable = ctypes.c_void_p.in_dll(library, "__stderrp" if sys.platform == "darwin" else "stderr")
        library.fopen.restype = ctypes.c_void_p
        nowhere = library.fopen(b"/dev/null", b"w")
    except (OSError, TypeError, ValueError, AttributeError):  # Windows
        return None
    return (variable, variable.value, nowhere) if nowhere else None


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """What C code prints through `stderr` in the `with` block goes nowhere, in all threads; `sys.stderr` is as ever.

    libmpg123, inside libsndfile, comments on every odd MPEG frame there and cannot be told not to. The file
    descriptor stays where it is: what other threads print from Python in the meantime is not lost.
    """
    global _inside
    with _lock:
        _inside += 1
        if streams := _streams():
            variable, usual, nowhere = streams
            variable.value = nowhere
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if streams and _inside == 0:
                variable.value = usual


@contextmanager
def quiet_event_loops() -> Iterator[None]:
    """A save that fails closes its event loop, and TensorStore complains for each array that it still writes."""
    report = sys.unraisablehook

    def report_others(event: "sys.UnraisableHookArgs") -> None:
        if str(event.exc_value) != "Event loop is closed":
            report(event)

    sys.unraisablehook = report_others
    try:
        yield
    finally:
        sys.unraisablehook = report


def _is_not_orbax(record: logging.LogRecord) -> bool:
    """What Orbax logs is as we want it, or else the user is told of it in a RunError."""
    trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
    return "orbax" not in record.pathname + trace


def quiet_orbax() -> None:
    """Keeps what Orbax logs out of absl's and asyncio's loggers."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_not_orbax)

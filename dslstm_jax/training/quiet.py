"""Orbax and TensorStore, silenced where the user is told of it in a RunError."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


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


for _name in ("absl", "asyncio"):
    logging.getLogger(_name).addFilter(_is_not_orbax)

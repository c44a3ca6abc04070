"""Progress: a bar on a terminal; in a log nothing, or now and then a line."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress_bar(
    console: Console, name: str, total: int, done: int = 0, *, log_every: float | None = None
) -> Iterator[Callable[..., None]]:
    """Yields what is to be called after each step, or after some with their number, and with another name if it
    changed; `done` were before. A bar on a terminal; in a log a line every `log_every` seconds, None: nothing."""
    if not console.is_terminal and log_every is not None:
        said = time.monotonic()

        def log(steps: int = 1, name: str = name) -> None:
            nonlocal done, said
            done += steps
            if time.monotonic() - said >= log_every:
                said = time.monotonic()
                console.print(f"{name}: {done} of {total}", highlight=False, markup=False, soft_wrap=True)

        yield log
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total, completed=done)
        yield lambda steps=1, name=None: progress.update(task, advance=steps, description=name)

"""Progress on a terminal; nothing in a log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress_bar(console: Console, name: str, steps: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """Yields what is to be called after each step, or after some with their number, and with another name if it
    changed; `done` were before. A bar on a terminal; nothing in a log."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=steps, completed=done)
        yield lambda steps=1, name=None: progress.update(task, advance=steps, description=name)

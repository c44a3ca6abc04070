"""A bar where someone looks at it, nothing in a log."""

import io

from rich.console import Console

from dslstm_jax.progress import progress_bar


def output(terminal: bool) -> str:
    file = io.StringIO()
    with progress_bar(Console(file=file, force_terminal=terminal, width=80), "reading", 3) as done:
        for _ in range(3):
            done()
    return file.getvalue()


def test_a_terminal_shows_name_and_count() -> None:
    shown = output(terminal=True)
    assert "reading" in shown
    assert "3/3" in shown


def test_a_log_stays_clean() -> None:
    assert output(terminal=False) == ""

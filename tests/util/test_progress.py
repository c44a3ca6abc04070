"""A bar where someone looks at it; in a log nothing, or a line now and then."""

import io

from rich.console import Console

from dslstm_jax.util.progress import progress_bar


def output(terminal: bool, **options: float) -> str:
    file = io.StringIO()
    with progress_bar(Console(file=file, force_terminal=terminal, width=80), "reading", 3, **options) as done:
        for _ in range(3):
            done()
    return file.getvalue()


def test_a_terminal_shows_name_and_count() -> None:
    shown = output(terminal=True)
    assert "reading" in shown
    assert "3/3" in shown


def test_a_log_stays_clean() -> None:
    assert output(terminal=False) == ""


def test_a_log_has_a_line_now_and_then_if_asked() -> None:
    assert output(terminal=False, log_every=0) == "reading: 1 of 3\nreading: 2 of 3\nreading: 3 of 3\n"
    assert output(terminal=False, log_every=60) == ""
    assert "3/3" in output(terminal=True, log_every=0)
    assert "of 3" not in output(terminal=True, log_every=0)

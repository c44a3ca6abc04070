"""The one look of our pictures: colors, axes, titles, and PNG files written whole or not at all."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dslstm_jax.util.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#333333"
BLUE = "#1f5c99"
ORANGE = "#b8772d"
GRAY = "#777777"
PALE = "#b9bfc7"
_LINES = "#999999"

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _LINES,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.titlesize": 11,
    "font.size": 9,
    "grid.color": "#e4e4e4",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    **{f"{axis}tick.color": _LINES for axis in "xy"},
    **{f"{axis}tick.labelcolor": INK for axis in "xy"},
    **{f"{axis}tick.labelsize": 9 for axis in "xy"},
}


@contextmanager
def picture(
    path: str | Path, title: str, width: float, height: float, *, formulas: bool = False
) -> Iterator["Figure"]:
    """Gives an empty figure; what the `with` block draws on it becomes a PNG.

    Args:
      path: the file, written whole or not at all; nothing is written when the block raises.
      title: over the picture; it may have several lines, long ones are wrapped.
      width: inches.
      height: inches.
      formulas: whether text between two $ is one, such as a power of ten at a logarithmic axis; names are none.

    Raises:
      RunError: the file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "text.parse_math": formulas}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        letters = int(11 * figure.get_figwidth())  # as many of this size fit into a line
        if title:
            figure.suptitle("\n".join(textwrap.fill(line, letters) for line in title.splitlines()))
        with whole_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)


def palette(count: int) -> Sequence[Any]:
    """A color for each of `count` classes; they repeat after 20."""
    from matplotlib import colormaps

    colors = colormaps["tab10" if count <= 10 else "tab20"]
    return [colors(place % colors.N) for place in range(count)]

"""Sliding windows over a recording of any length."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from dslstm_jax.data.audio import SHORTEST
from dslstm_jax.errors import ConfigError


@dataclass(frozen=True)
class Window:
    """The emotion of a part of a recording."""

    start: float
    """Seconds from the beginning of the recording."""
    end: float
    """Seconds."""
    label: str | None
    """None where there is digital silence."""
    probabilities: dict[str, float] | None


class Cut(NamedTuple):
    """A part of a recording."""

    start: int
    """Sample of the recording with which the part begins."""
    samples: Float32[np.ndarray, " N"]


def window_sizes(window: float, hop: float, longest: float, sample_rate: int) -> tuple[int, int]:
    """Window and hop, from seconds to samples.

    Raises:
      ConfigError: a window too short or too long to be recognized, or windows that leave sound out.
    """
    if not SHORTEST <= window <= longest:
        raise ConfigError(f"a window of {window:g} seconds; give {SHORTEST:g} to {longest:g}")
    if not SHORTEST <= hop <= window:
        raise ConfigError(f"a hop of {hop:g} seconds; give {SHORTEST:g} to the window's {window:g}")
    return round(window * sample_rate), round(hop * sample_rate)


def cut(blocks: Iterable[Float32[np.ndarray, " N"]], window: int, hop: int) -> Iterator[Cut]:
    """Parts of `window` samples, one every `hop`; the last one ends where the recording ends.

    So it begins less than a hop after the one before it. A recording shorter than a window is one part. Memory holds
    a block and a window.

    Args:
      blocks: the recording; side by side they are its samples.
      window: samples of a part.
      hop: samples between the beginnings of two parts, at most a window.
    """
    kept = np.zeros(0, np.float32)
    first = start = end = 0  # of what is kept, of the next part, of the last part
    for block in blocks:
        kept = np.concatenate([kept, block])
        while start + window <= first + len(kept):
            end = start + window
            yield Cut(start, kept[start - first : end - first])
            start += hop
        needed = min(start, first + len(kept) - window)  # by the next part or the last one
        behind = max(0, needed - first)
        kept, first = kept[behind:], first + behind
    if end < first + len(kept):
        yield Cut(first, kept)

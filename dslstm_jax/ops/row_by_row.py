"""How a function of one row is applied to all rows of a batch."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jaxtyping import Array


def row_by_row(function: Callable[..., Any], *arrays: Array) -> Any:
    """The function over the first axis of all arrays, as `jax.vmap(function)(*arrays)` gives it.

    A CPU takes one row after the other: what is made on the way then stays in its cache, where fresh memory would
    cost more than the arithmetic. Other devices take all rows at once.

    Args:
      function: of one row of each array; gives arrays.
      arrays: each with as many rows.
    """

    def in_turn(*rows: Array) -> Any:
        return lax.map(lambda row: function(*row), rows)

    return lax.platform_dependent(*arrays, cpu=in_turn, default=jax.vmap(function))

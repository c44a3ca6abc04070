"""How a function of one row is applied to all rows of a batch."""

from collections.abc import Callable
from typing import Any

import jax
from jax import export, lax
from jaxtyping import Array


def row_by_row(function: Callable[..., Any], *arrays: Array, together: int = 1) -> Any:
    """The function over the first axis of all arrays, as `jax.vmap(function)(*arrays)` gives it.

    A CPU takes some rows after the others: what is made on the way then stays in its cache, where fresh memory would
    cost more than the arithmetic. Other devices take all rows at once.

    Args:
      function: of one row of each array; gives arrays.
      arrays: each with as many rows.
      together: rows that a CPU takes at once; one, where an exported program leaves their number open.
    """
    if export.is_symbolic_dim(arrays[0].shape[0]):  # such a number cannot be divided into groups and a rest
        together = 1

    def in_turn(*rows: Array) -> Any:
        return lax.map(lambda row: function(*row), rows, batch_size=together if together > 1 else None)

    return lax.platform_dependent(*arrays, cpu=in_turn, default=jax.vmap(function))

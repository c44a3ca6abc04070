"""Ranks and types of arrays that meet, written down: nothing here relies on JAX's implicit promotion."""

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Shaped


def to_rank(values: Shaped[Array, "..."], rank: int) -> Shaped[Array, "..."]:
    """The values behind as many new axes of length 1 as `rank` asks for, to meet an array of that rank."""
    return values[(None,) * (rank - values.ndim)]


def wide_type(dtype: DTypeLike) -> np.dtype:
    """float32, or the type itself where that is longer."""
    return np.promote_types(dtype, np.float32)

"""What every recurrence must hold, whatever its cell: scan == loop, steps == whole, padding has no influence."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Function = Callable[..., Any]


def random_tree(seed: int, **shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    """Normal numbers of the given shapes, in the default float type."""
    generator = np.random.default_rng(seed)
    return {name: jnp.asarray(generator.normal(size=shape) * 0.5, float) for name, shape in shapes.items()}


def largest_difference(found: Any, expected: Any) -> float:
    """Over all leaves of two trees of one structure."""
    differences = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), found, expected)
    return max(jax.tree.leaves(differences))


def check_values_and_gradients(found: Function, expected: Function, arguments: Any, tolerance: float) -> None:
    """Two functions of one tree agree in every output and, for a random sum of these, in every gradient."""

    def with_gradient(function: Function) -> Function:
        """One program, for operations that are compiled one by one take most of the time."""

        def weighted_sum(tree: Any) -> tuple[Any, Any]:
            outputs = function(tree)
            shares = [jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape) for x in jax.tree.leaves(outputs)]
            return sum((a * b).sum() for a, b in zip(jax.tree.leaves(outputs), shares, strict=True)), outputs

        return jax.jit(jax.grad(weighted_sum, has_aux=True))

    (*gradients,), (outputs, references) = zip(*(with_gradient(f)(arguments) for f in (found, expected)), strict=True)
    difference = largest_difference(outputs, references)
    gradient_difference = largest_difference(*gradients)
    print(f"values differ by {difference:.1e}, gradients by {gradient_difference:.1e}")
    assert difference <= tolerance
    assert gradient_difference <= tolerance
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients[1])), "every argument matters"


def check_padding(function: Function, sequences: tuple[jax.Array, ...], lengths: tuple[int, ...]) -> None:
    """NaN behind each row's length changes no output and no gradient, and each row equals itself alone.

    Args:
      function: (sequences, mask) -> (outputs [B, T, H], final state).
      sequences: [B, T, F] each.
      lengths: of the rows.
    """
    size = sequences[0].shape[1]
    mask = jnp.arange(size)[None] < jnp.array(lengths)[:, None]
    function = jax.jit(function)
    outputs, final = function(sequences, mask)
    spoiled = tuple(jnp.where(mask[..., None], x, jnp.nan) for x in sequences)
    jax.tree.map(np.testing.assert_array_equal, function(spoiled, mask), (outputs, final))
    assert not np.asarray(outputs)[~np.asarray(mask)].any()
    gradient = jax.jit(jax.grad(lambda x: jnp.sin(function(x, mask)[0]).sum()))(spoiled)
    for leaf in gradient:
        assert bool(jnp.isfinite(leaf).all())
        assert not np.asarray(leaf)[~np.asarray(mask)].any()
    for row, length in enumerate(lengths):
        if length == 0:
            continue
        alone = tuple(x[row : row + 1, :length] for x in sequences)
        one, state = function(alone, jnp.ones((1, length), bool))
        np.testing.assert_allclose(outputs[row : row + 1, :length], one, atol=1e-6)
        for whole, part in zip(final, state, strict=True):
            np.testing.assert_allclose(whole[row : row + 1], part, atol=1e-6)

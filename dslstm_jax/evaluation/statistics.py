"""How sure a figure is: bootstrap over utterances and speakers, paired tests, calibration.

A unit (an utterance, a speaker) is its confusion matrix, [..., C, C]: the figures of a resample are those of the sum
of its units' matrices, so a resample is a product of counts with matrices.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from dslstm_jax.ops.metrics import Matrix

RESAMPLES = 2000
BINS = 15
"""Of the calibration error: equal widths of confidence."""


class Interval(NamedTuple):
    """The middle 95 % of the resamples."""

    low: float
    high: float


def unit_matrices(
    truths: Int[np.ndarray, " N"], predictions: Int[np.ndarray, "S N"], classes: int
) -> Float[np.ndarray, "N S C C"]:
    """Each utterance's confusion matrix under each of S predictors: a single 1."""
    one = np.eye(classes)
    return np.einsum("nt,snp->nstp", one[truths], one[predictions])


def by_group(matrices: Float[np.ndarray, "N *S C C"], groups: npt.ArrayLike) -> Float[np.ndarray, "G *S C C"]:
    """The units' matrices added up by group, in the order of the groups' names or numbers."""
    names, places = np.unique(groups, return_inverse=True)
    total = np.zeros((len(names), *matrices.shape[1:]))
    np.add.at(total, places, matrices)
    return total


def bootstrap(
    matrices: Float[np.ndarray, "U *S C C"],
    figure: Callable[[Matrix], Any],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Float[np.ndarray, " resamples *S"]:
    """The figure of resamples of the units, drawn with replacement, as many as there are (Efron 1979).

    All entries of *S see the same resamples, so that their differences are paired.
    """
    units = len(matrices)
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(units, np.full(units, 1 / units), size=resamples).astype(np.float64)
    sums = counts @ matrices.reshape(units, -1)
    return np.asarray(figure(sums.reshape(resamples, *matrices.shape[1:])))


def interval(values: Float[np.ndarray, " resamples"]) -> Interval:
    """The percentile interval, 2.5 % to 97.5 %."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))


def two_sided(differences: Float[np.ndarray, " resamples"]) -> float:
    """p of no difference: twice the share of the resamples on the rarer side of 0, each side counted once more
    than it has (Davison and Hinkley 1997), so that no p is 0."""
    below, above = np.sum(differences <= 0), np.sum(differences >= 0)
    return float(min(1.0, 2 * (min(below, above) + 1) / (len(differences) + 1)))


def sign_flip_test(differences: Sequence[float]) -> float:
    """p that the mean of paired differences is as far from 0 by chance: all signs are flipped, or a hundred thousand
    draws of them where there are more (Fisher's paired permutation test, two-sided). 1 for a single difference."""
    from scipy.stats import permutation_test

    if len(differences) < 2:
        return 1.0

    found = permutation_test(
        (np.asarray(differences, np.float64),),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=100_000,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def calibration_error(
    probabilities: Float[np.ndarray, "N C"], truths: Int[np.ndarray, " N"], bins: int = BINS
) -> float:
    """ECE: the mean distance of confidence (the largest probability) and accuracy over `bins` equal bins of
    confidence, weighted by the utterances in them (Guo et al., ICML 2017)."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truths
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=confidence - correct)
    return float(np.abs(gaps).sum() / len(truths))

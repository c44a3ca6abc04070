"""Totals of batches added up on the host, one batch behind the devices, so that they never wait for us."""

from collections.abc import Iterable

import jax
import numpy as np

from dslstm_jax.ops.metrics import Totals, unweighted_accuracy, weighted_accuracy


class RunningTotals:
    """The sum over the batches so far, in float64. A batch is read back when the next one is pushed."""

    def __init__(self, start: Totals | None = None) -> None:
        self.behind = start
        """The sum without the batch that was pushed last; None before the first."""
        self._waiting: Totals | None = None

    def push(self, totals: Totals) -> None:
        """Takes a batch's totals, and adds those of the one before."""
        self._add(self._waiting)
        self._waiting = totals

    def read(self) -> Totals | None:
        """The sum over all batches so far; None if there was none."""
        self._add(self._waiting)
        self._waiting = None
        return self.behind

    def _add(self, totals: Totals | None) -> None:
        if totals is not None:
            batch = jax.tree.map(lambda value: np.asarray(value, np.float64), totals)
            self.behind = batch if self.behind is None else jax.tree.map(np.add, self.behind, batch)


def add(totals: Iterable[Totals]) -> Totals:
    """The sum over batches.

    Raises:
      ValueError: there is none.
    """
    total = RunningTotals()
    for batch in totals:
        total.push(batch)
    if (found := total.read()) is None:
        raise ValueError("there is no batch to add up")
    return found


def name_figures(totals: Totals, part: str) -> dict[str, float]:
    """Mean loss, WA and UA under the names of metrics.jsonl."""
    return {
        f"{part}_loss": float(totals.loss / totals.utterances),
        f"{part}_wa": float(weighted_accuracy(totals.confusion)),
        f"{part}_ua": float(unweighted_accuracy(totals.confusion)),
    }

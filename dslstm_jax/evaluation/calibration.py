"""Probabilities that mean what they say: one temperature for all logits (Guo et al., ICML 2017).

It is fitted on the validation side, and no emotion takes another's place by it.
"""

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from dslstm_jax.data.dataset import Dataset
from dslstm_jax.evaluation.evaluate import evaluate
from dslstm_jax.evaluation.statistics import calibration_error
from dslstm_jax.runs.folder import RunFolder
from dslstm_jax.training.parallel import Parallel
from dslstm_jax.util.files import write_json

COLDEST, HOTTEST = 0.05, 20.0
"""Temperatures that are looked for."""


def with_temperature(
    probabilities: Float[np.ndarray, "*N C"], temperature: npt.ArrayLike
) -> Float[np.ndarray, "*N C"]:
    """softmax(log p / T): the probabilities as if all logits had been divided by the temperature, one or [*N]."""
    logits = _log(probabilities) / np.asarray(temperature, np.float64)[..., None]
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def fit_temperature(probabilities: Float[np.ndarray, "N C"], truths: Int[np.ndarray, " N"]) -> float:
    """The temperature from COLDEST to HOTTEST of the smallest mean negative log-likelihood; 1 for no utterance.

    The truth's target is (N + 1) / (N + C) and that of the others 1 / (N + C), not 1 and 0 (Platt 1999): few
    utterances, all of them right, would else make the recognizer certain of everything.
    """
    import scipy.optimize

    count, classes = probabilities.shape
    if not count:
        return 1.0
    log = _log(probabilities)
    targets = (count * np.eye(classes)[truths] + 1) / (count + classes)

    def slope(inverse: float) -> float:
        return float(np.sum((with_temperature(probabilities, 1 / inverse) - targets) * log))

    # The likelihood is convex in 1/T: its slope grows, and is 0 at the temperature sought.
    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) >= 0:
        return HOTTEST
    if slope(high) <= 0:
        return COLDEST
    return float(1 / scipy.optimize.brentq(slope, low, high, xtol=1e-14, rtol=1e-14))


def negative_log_likelihood(probabilities: Float[np.ndarray, "N C"], truths: Int[np.ndarray, " N"]) -> float:
    """Mean over the utterances, in nats."""
    return float(-_log(probabilities)[np.arange(len(truths)), truths].mean())


def calibrate(run: RunFolder, dataset: Dataset, parallel: Parallel) -> float | None:
    """Fits the temperature of the run's chosen epoch on its validation side, and writes calibration.json. For a
    refitted run it is that of the network which had not learned from that side.

    Args:
      run: the run folder.
      dataset: the run's own.
      parallel: the devices.

    Returns:
      The temperature, by which `dslstm_jax.load` divides the logits; None, and no file, where nothing was held back
      for validation.

    Raises:
      RunError: there is no usable checkpoint, or the file cannot be written.
    """
    if not dataset.split.validation:
        return None
    result = evaluate(run.selected_by or run, dataset, "validation", parallel)
    temperature = fit_temperature(result.probabilities, result.truths)
    sides = {"before": result.probabilities, "after": with_temperature(result.probabilities, temperature)}
    if parallel.is_main:
        speakers = (run.selected_by or run).read_folds()["validation"]["speakers"]
        of_speakers = f" of speakers {', '.join(speakers)}" if speakers else ""
        values = {
            "temperature": temperature,
            "fitted_on": f"validation, {result.utterances} utterances{of_speakers}",
            "epoch": result.epoch,
            "nll": {side: negative_log_likelihood(found, result.truths) for side, found in sides.items()},
            "calibration_error": {side: calibration_error(found, result.truths) for side, found in sides.items()},
        }
        write_json(run.calibration, values)
    return temperature


def _log(probabilities: Float[np.ndarray, "*N C"]) -> Float[np.ndarray, "*N C"]:
    """Finite: a probability of 0 is taken for the smallest that float32 has."""
    return np.log(np.maximum(np.asarray(probabilities, np.float64), np.finfo(np.float32).tiny))

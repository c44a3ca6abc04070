"""How batches get to the devices: from the files of their recordings, or out of what lies there already."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

from dslstm_jax.config import Config
from dslstm_jax.data.batches import Batch
from dslstm_jax.data.dataset import Dataset
from dslstm_jax.data.resident import Recordings, gather_waveforms, read_recordings, without_waveforms
from dslstm_jax.data.splits import Split
from dslstm_jax.training.parallel import Parallel


def placing(dataset: Dataset, config: Config, parallel: Parallel) -> Callable[[Batch], Batch]:
    """What brings a batch of a loader of this config to the devices.

    Raises:
      ConfigError, AudioError: as in `resident`.
    """
    recordings = resident(dataset, config, parallel)
    return parallel.place if recordings is None else partial(_complete, recordings, parallel)


def resident(dataset: Dataset, config: Config, parallel: Parallel) -> Recordings | None:
    """The corpus on every device, where data.keep asks for it. Datasets that differ in their split share it.

    Raises:
      ConfigError: the recordings are too long together.
      AudioError: a recording cannot be decoded.
    """
    if config.data.keep == "files":
        return None
    whole = replace(dataset, split=Split((), (), ()))  # as a key, whatever its split
    return _resident(whole, config.features.sample_rate, config.features.trim, parallel)


@lru_cache(maxsize=1)
def _resident(whole: Dataset, sample_rate: int, trim: float, parallel: Parallel) -> Recordings:
    return parallel.copy(read_recordings(whole, sample_rate, trim))


def _complete(recordings: Recordings, parallel: Parallel, batch: Batch) -> Batch:
    return gather_waveforms(recordings, parallel.place(without_waveforms(batch)), batch.waveforms.shape[1])

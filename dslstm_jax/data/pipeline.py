"""Utterances to padded batches on the device, read ahead by Grain."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import grain
import jax
import numpy as np
import numpy.typing as npt

from dslstm_jax.config import Config
from dslstm_jax.data.batches import Batch, PlannedBatch, balanced_weights, choose_lengths, pad_waveforms, plan_epoch
from dslstm_jax.data.dataset import Dataset
from dslstm_jax.data.reading import READING_THREADS, read_utterance
from dslstm_jax.errors import ConfigError


@dataclass(frozen=True)
class Loader:
    """Some utterances of a dataset, to be read epoch after epoch; none is ever left out."""

    dataset: Dataset
    members: tuple[int, ...]
    """Indices of the utterances."""
    batch_size: int
    padded_lengths: tuple[int, ...]
    """Samples that batches may be padded to, shortest first."""
    sample_rate: int
    """Hertz."""
    trim: float
    """Decibels; features.trim."""
    class_weights: tuple[float, ...]
    """The weight of an utterance of each class."""
    read_waveforms: bool = True
    """If not, NaN stands in their place, which takes no memory, until `placing` fills in what is on the devices."""

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.members) / self.batch_size)

    def plan(self, shuffle: tuple[int, int] | None = None) -> list[PlannedBatch]:
        """See `plan_epoch`."""
        return plan_epoch(self.members, self.dataset.lengths, self.batch_size, self.padded_lengths, shuffle)

    def batches(
        self,
        shuffle: tuple[int, int] | None = None,
        *,
        start: int = 0,
        share: tuple[int, int] = (0, 1),
        place: Callable[[Batch], Batch] = jax.device_put,
    ) -> Iterable[Batch]:
        """The batches of an epoch, read ahead and put on the device while others are computed with.

        Args:
          shuffle: (seed, epoch); None keeps the order of the members.
          start: batches that were read before; they are not read again.
          share: (process, processes). Each process reads its rows; side by side they are the batch of one process.
          place: brings a batch from the host to the devices.

        Raises:
          ConfigError: the rows cannot be shared evenly.
          AudioError: a recording cannot be decoded.
        """
        process, processes = share
        if self.batch_size % processes:
            raise ConfigError(
                f"training.batch_size: {self.batch_size} rows cannot be shared by {processes} processes; "
                f"make it a multiple of {processes}"
            )
        rows = self.batch_size // processes
        corpus = self.dataset.corpus
        classes = {label: index for index, label in enumerate(corpus.labels)}

        def column(values: Sequence[float], dtype: npt.DTypeLike) -> np.ndarray:
            return np.array([*values, *[0] * (rows - len(values))], dtype)

        def read(planned: PlannedBatch) -> Batch:
            members = planned.members[process * rows : (process + 1) * rows]
            utterances = [corpus.utterances[member] for member in members]
            if self.read_waveforms:
                sounds = [read_utterance(utterance, self.sample_rate, trim=self.trim) for utterance in utterances]
                waveforms, lengths = pad_waveforms(sounds, rows, planned.length)
            else:
                waveforms = np.broadcast_to(np.float32(np.nan), (rows, planned.length))
                lengths = column([self.dataset.lengths[member] for member in members], np.int32)
            labels = [classes[utterance.label] for utterance in utterances]
            weights = [self.class_weights[label] for label in labels]
            return Batch(
                waveforms, lengths, column(labels, np.int32), column(weights, np.float32), column(members, np.int32)
            )

        threads = grain.ReadOptions(num_threads=READING_THREADS, prefetch_buffer_size=READING_THREADS)
        read_ahead = grain.MapDataset.source(self.plan(shuffle)[start:]).map(read).to_iter_dataset(threads)
        # two batches lie ready on the device
        return grain.experimental.ThreadPrefetchIterDataset(read_ahead.map(place), prefetch_buffer_size=2)


def make_loader(
    dataset: Dataset,
    members: Sequence[int],
    config: Config,
    batch_size: int,
    multiple: int = 1,
    *,
    balanced: bool = False,
) -> Loader:
    """A loader whose padded lengths suit the dataset as config.data asks: all its sides share their programs.

    Batches have `batch_size` rows, or fewer if there are not as many members; then as many more as make it a
    `multiple`, so that devices and parts of a step have the same number. Where `balanced`, the members weigh as
    `balanced_weights` says, otherwise 1.
    """
    batch_size = -(-min(batch_size, len(members)) // multiple) * multiple
    padded_lengths = choose_lengths(
        dataset.lengths,
        batch_size=batch_size,
        sample_rate=config.features.sample_rate,
        max_padding=config.data.max_padding,
        most=config.data.max_lengths,
    )
    corpus = dataset.corpus
    weights = (1.0,) * len(corpus.labels)
    if balanced:
        labels = [corpus.labels.index(corpus.utterances[member].label) for member in members]
        weights = balanced_weights(labels, len(corpus.labels))
    features, from_files = config.features, config.data.keep == "files"
    return Loader(
        dataset, tuple(members), batch_size, padded_lengths, features.sample_rate, features.trim, weights, from_files
    )

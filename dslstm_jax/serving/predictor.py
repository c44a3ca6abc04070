"""predict: sound in, emotion out."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
import numpy.typing as npt
import platformdirs
from jaxtyping import Array, Float, Int

from dslstm_jax.config import Config
from dslstm_jax.data.audio import check_recording, prepare_samples, read_audio
from dslstm_jax.data.pipeline import READING_THREADS, bucket_length, pad_waveforms
from dslstm_jax.errors import AudioError
from dslstm_jax.models.recognizer import Variables, average, forward
from dslstm_jax.serving.export import SUFFIX, Program, read_model, write_model
from dslstm_jax.training.checkpoint import load_best
from dslstm_jax.training.run import open_run

ROWS = 8
"""Rows of the programs that serve many recordings; a single one has a program of one row."""
WINDOW = 64
"""Recordings that are read ahead and sorted by length."""
LONGEST = 600.0
"""Seconds; a longer recording is refused before it is decoded. The features of one row grow with its length: at ten
minutes they take 1.7 GB."""
_LONG = 64
"""Seconds; rows padded to more than this are recognized one by one: eight rows of ten minutes would take 9 GB."""

T = TypeVar("T")


@partial(jax.jit, static_argnames="config")
def predict(
    variables: Variables, waveforms: Float[Array, "B N"], lengths: Int[Array, " B"], *, config: Config
) -> Float[Array, "B C"]:
    """The probability of each emotion: one pure, jitted function from samples to answers.

    Args:
      variables: the recognizer's weights and running statistics.
      waveforms: samples in [-1, 1] at config.features.sample_rate, valid up to `lengths`; what lies behind is
        ignored, NaN too.
      lengths: samples of each waveform.
      config: features and model.
    """
    branches, _ = forward(variables, waveforms, lengths, config=config)
    return jax.nn.softmax(average(branches), axis=-1)


@dataclass(frozen=True)
class Prediction:
    """The emotion of one recording."""

    label: str
    probabilities: dict[str, float]
    duration_seconds: float


class Predictor:
    """A trained recognizer that takes sound of any rate, length and type.

    Recordings are padded to 1, 2, 4, 8, ... seconds, and one program is compiled for each of these lengths.
    """

    def __init__(
        self, variables: Variables, config: Config, labels: Sequence[str], program: Program | None = None
    ) -> None:
        self.variables = variables
        self.config = config
        self.labels = tuple(labels)
        self.program = program
        """What an exported file computes; None: `predict`."""

    @property
    def sample_rate(self) -> int:
        """Hertz that sound is resampled to."""
        return self.config.features.sample_rate

    def __call__(self, samples: npt.ArrayLike, sample_rate: float) -> Prediction:
        """Recognizes one recording.

        Args:
          samples: [N] or [N, channels], floats in [-1, 1] or integers as soundfile reads them.
          sample_rate: of `samples`, in hertz.

        Raises:
          AudioError: the samples or the rate make no sense, are silent, or are more than LONGEST seconds.
        """
        return self._recognize([self._prepare(samples, sample_rate)], rows=1)[0]

    def batch(self, recordings: Sequence[npt.ArrayLike], sample_rate: float) -> list[Prediction]:
        """Recognizes several recordings at once, those of like length together; see `__call__`."""
        return self._recognize([self._prepare(samples, sample_rate) for samples in recordings], rows=ROWS)

    def files(self, paths: Iterable[str | Path]) -> Iterator[Prediction | AudioError]:
        """Recognizes files one after the other, as many as there are; what cannot be read yields its error.

        Memory holds a window of files at a time; the answers come in the order of the paths.
        """
        with ThreadPoolExecutor(READING_THREADS) as pool:
            for window in _windows(paths, WINDOW):
                sounds = list(pool.map(self._read, window))
                usable = [sound for sound in sounds if not isinstance(sound, AudioError)]
                answers = iter(self._recognize(usable, rows=ROWS))
                for sound in sounds:
                    yield sound if isinstance(sound, AudioError) else next(answers)

    def export(self, path: str | Path) -> None:
        """Writes one file that `load` reads, and any program that has JAX: docs/export.md.

        Raises:
          RunError: the file cannot be written.
        """
        write_model(path, predict, self.variables, self.config, self.labels)

    def _prepare(self, samples: npt.ArrayLike, sample_rate: float) -> Float[np.ndarray, " N"]:
        recording = prepare_samples(samples, sample_rate, self.sample_rate, LONGEST)
        check_recording(recording, self.sample_rate)
        return recording

    def _read(self, path: str | Path) -> Float[np.ndarray, " N"] | AudioError:
        try:
            return read_audio(path, self.sample_rate, LONGEST)
        except AudioError as error:
            return error

    def _recognize(self, waveforms: Sequence[Float[np.ndarray, " N"]], rows: int) -> list[Prediction]:
        buckets: dict[int, list[int]] = {}
        for index, waveform in enumerate(waveforms):
            buckets.setdefault(bucket_length(len(waveform), self.sample_rate), []).append(index)
        predictions: dict[int, Prediction] = {}
        for length, indices in buckets.items():
            side_by_side = rows if length <= _LONG * self.sample_rate else 1
            for group in _windows(indices, side_by_side):
                padded, lengths = pad_waveforms([waveforms[index] for index in group], side_by_side, length)
                probabilities = np.asarray(self._probabilities(padded, lengths))
                for index, row in zip(group, probabilities, strict=False):
                    seconds = len(waveforms[index]) / self.sample_rate
                    predictions[index] = self._prediction(row, seconds)
        return [predictions[index] for index in range(len(waveforms))]

    def _probabilities(self, waveforms: Float[np.ndarray, "B N"], lengths: Int[np.ndarray, " B"]) -> Array:
        if self.program is not None:
            return self.program(waveforms, lengths)
        return predict(self.variables, waveforms, lengths, config=self.config)

    def _prediction(self, probabilities: Float[np.ndarray, " C"], seconds: float) -> Prediction:
        named = dict(zip(self.labels, probabilities.tolist(), strict=True))
        return Prediction(max(named, key=named.__getitem__), named, seconds)


def _windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window


def keep_programs() -> None:
    """Compiled programs are kept in the user's cache folder for later processes, unless JAX was told of a place
    (JAX_COMPILATION_CACHE_DIR) or no folder can be made there."""
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    folder = platformdirs.user_cache_path("dslstm_jax") / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def load(run: str | Path) -> Predictor:
    """The recognizer of a run folder, of the epoch that validation chose, or of a file of `dslstm export`.

    Raises:
      RunError: no such folder or file, no checkpoint in the folder, or a damaged one.
    """
    path = Path(run)
    if path.is_file() or path.suffix == SUFFIX:
        return Predictor(*read_model(path))
    opened = open_run(path)
    variables, _ = load_best(opened)
    return Predictor(variables, opened.config, opened.labels)

"""predict: sound in, emotion out."""

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float, Int

from dslstm_jax.config import RecognizerConfig
from dslstm_jax.data.audio import check_recording, prepare_samples, read_audio, read_blocks, read_header
from dslstm_jax.data.batches import bucket_length, pad_waveforms
from dslstm_jax.data.reading import READING_THREADS
from dslstm_jax.errors import AudioError, ConfigError, RunError
from dslstm_jax.models.recognizer import Variables, average, forward, scale_logits
from dslstm_jax.recurrence.lstm import runs_here
from dslstm_jax.runs.folder import open_run
from dslstm_jax.serving.export import SUFFIX, Member, Program, read_model, write_model
from dslstm_jax.serving.streaming import Stream
from dslstm_jax.serving.timeline import Cut, Window, cut, window_sizes

ROWS = 8
"""Rows of the programs that serve many recordings; a single one has a program of one row."""
GROUP = 64
"""Recordings that are sorted by length and recognized together. No answer depends, not even in its last bits, on more
than its group: a job can go on at a multiple of it as if it had not been stopped."""
LONGEST = 600.0
"""Seconds; a longer recording is refused before it is decoded. The features of one row grow with its length: at ten
minutes they take 1.7 GB. A group of recordings is closed when it has more than this, and a timeline has no limit."""
_LONG = 64
"""Seconds; rows padded to more than this are recognized one by one: eight rows of ten minutes would take 9 GB."""

BUNDLED = Path(__file__).parents[1] / "pretrained" / "model.dslstm"
"""What `load` gives without a name."""

T = TypeVar("T")
Recording = Float[np.ndarray, " N"]
Source = Recording | Path | AudioError
"""A recording; a file with more than LONGEST seconds, for its timeline; or what is wrong."""


@partial(jax.jit, static_argnames="config")
def predict(
    variables: Variables, waveforms: Float[Array, "B N"], lengths: Int[Array, " B"], *, config: RecognizerConfig
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


def predict_by_all(
    members: Sequence[Member], waveforms: Float[Any, "B N"], lengths: Int[Any, " B"]
) -> Float[Array, "B C"]:
    """`predict` for an ensemble: the mean of the probabilities that its networks give."""
    answers = [predict(variables, waveforms, lengths, config=config) for variables, config in members]
    return answers[0] if len(answers) == 1 else jnp.mean(jnp.stack(answers), axis=0)


@dataclass(frozen=True)
class Prediction:
    """The emotion of one recording."""

    label: str
    probabilities: dict[str, float]
    duration_seconds: float
    windows: tuple[Window, ...] | None = None
    """The timeline, if it was asked for."""


class Predictor:
    """A trained recognizer that takes sound of any rate, length and type, from any number of threads.

    Recordings are padded to 1, 2, 4, 8, ... seconds, and one program is compiled for each of these lengths.
    """

    def __init__(
        self,
        variables: Variables,
        config: RecognizerConfig,
        labels: Sequence[str],
        program: Program | None = None,
        others: Sequence[Member] = (),
    ) -> None:
        self.variables = variables
        """Of the first network, as `config` is."""
        self.config = config
        self.members = (Member(variables, config), *others)
        """All networks; where there are several, they answer by the mean of their probabilities."""
        self.labels = tuple(labels)
        self.program = program or partial(predict_by_all, self.members)
        """From samples and lengths to probabilities; an exported file brings its own."""

    @property
    def sample_rate(self) -> int:
        """Hertz that sound is resampled to."""
        return self.config.features.sample_rate

    def __call__(
        self, sound: str | os.PathLike[str] | bytes | BinaryIO | npt.ArrayLike, sample_rate: float | None = None
    ) -> Prediction:
        """Recognizes one recording.

        Args:
          sound: the path of a sound file, its bytes, or the file opened in binary mode. With `sample_rate`, samples:
            [N] or [N, channels], floats in [-1, 1] or integers as soundfile reads them.
          sample_rate: of samples, in hertz.

        Raises:
          AudioError: the file cannot be read; or the samples or the rate make no sense, are silent, or are more than
            LONGEST seconds.
        """
        recording = self._load(sound) if sample_rate is None else self._prepare(sound, sample_rate)
        return self._recognize([recording], rows=1)[0]

    def batch(self, recordings: Iterable[npt.ArrayLike], sample_rate: float) -> list[Prediction]:
        """Recognizes several recordings at once, those of like length together; see `__call__`.

        Raises:
          AudioError: `recording INDEX: REASON`, the first that cannot be used.
        """
        predictions = []
        for index, answer in enumerate(self.arrays(recordings, sample_rate)):
            if isinstance(answer, AudioError):
                raise AudioError(f"recording {index}: {answer}") from answer
            predictions.append(answer)
        return predictions

    def arrays(self, recordings: Iterable[npt.ArrayLike], sample_rate: float) -> Iterator[Prediction | AudioError]:
        """Recognizes recordings one after the other, as many as there are; one that cannot be used yields its error.

        Memory holds some dozens of them; the answers come in their order.

        Args:
          recordings: as `__call__` takes them; any iterable, a generator without end too.
          sample_rate: of all of them, in hertz.
        """

        def prepare(samples: npt.ArrayLike) -> Source:
            try:
                return self._prepare(samples, sample_rate)
            except AudioError as error:
                return error

        return self._answers(map(prepare, recordings))  # in this thread: a generator may use its array again

    def files(
        self, paths: Iterable[str | Path | AudioError], *, window: float | None = None, hop: float = 1.0
    ) -> Iterator[Prediction | AudioError]:
        """Recognizes files one after the other, as many as there are; what cannot be read yields its error.

        Memory holds some dozens of them; the answers come in the order of the paths.

        Args:
          paths: any iterable; an error in the place of a path is passed on.
          window: seconds; if given, each prediction has its timeline, and files may be of any length: the answer for
            one with more than LONGEST seconds is the mean over its windows.
          hop: seconds from one window to the next.

        Raises:
          ConfigError: a window or hop that makes no sense.
        """
        sizes = None if window is None else window_sizes(window, hop, LONGEST, self.sample_rate)

        def read(path: str | Path | AudioError) -> Source:
            try:
                if isinstance(path, AudioError):
                    return path
                if sizes:
                    samples, sample_rate = read_header(path)
                    if samples > LONGEST * sample_rate:
                        return Path(path)
                return read_audio(path, self.sample_rate, LONGEST)
            except AudioError as error:
                return error

        return self._answers(_read_ahead(read, paths), sizes)

    def timeline(
        self, samples: npt.ArrayLike, sample_rate: float, window: float = 3.0, hop: float = 1.0
    ) -> list[Window]:
        """Recognizes the parts of one recording of any length.

        Args:
          samples: as for `__call__`.
          sample_rate: of `samples`, in hertz.
          window: seconds of each part; a recording that is shorter is one part.
          hop: seconds from the beginning of one part to that of the next. The last part ends with the recording, so
            it may begin sooner.

        Raises:
          AudioError: as `__call__`, but for the length.
          ConfigError: a window or hop that makes no sense.
        """
        sizes = window_sizes(window, hop, LONGEST, self.sample_rate)
        return list(self._windows(cut([self._prepare(samples, sample_rate, longest=None)], *sizes), sizes[0]))

    def stream(self, sample_rate: float) -> Stream:
        """Recognizes one recording of any length while it comes in; docs/stream.md says which models can.

        Args:
          sample_rate: of the samples that will be pushed, in hertz.

        Raises:
          AudioError: a rate that no recording has.
          ConfigError: the model needs the whole recording; the message names the field. Or it is an ensemble.
        """
        if len(self.members) > 1:
            raise ConfigError(f"an ensemble of {len(self.members)} networks cannot stream; load one of its runs")
        return Stream(self.members[0], sample_rate, self._prediction)

    def export(self, path: str | Path) -> None:
        """Writes one file that `load` reads, and any program that has JAX: docs/export.md.

        Raises:
          RunError: the file cannot be written.
        """
        write_model(path, predict_by_all, self.members, self.labels)

    def _load(self, sound: Any) -> Recording:
        if isinstance(sound, str | os.PathLike):
            return read_audio(Path(sound), self.sample_rate, LONGEST)
        content = sound.read() if hasattr(sound, "read") and not isinstance(sound, io.TextIOBase) else sound
        if not isinstance(content, bytes):
            raise AudioError("give a path, bytes or a file opened in binary mode, or samples with their sample_rate")
        with TemporaryDirectory(prefix="dslstm_") as folder:
            path = Path(folder) / "sound"
            path.write_bytes(content)
            try:
                return read_audio(path, self.sample_rate, LONGEST)
            except AudioError as error:
                raise AudioError(str(error).removeprefix(f"{path}: ")) from error

    def _prepare(self, samples: Any, sample_rate: float, longest: float | None = LONGEST) -> Recording:
        recording = prepare_samples(samples, sample_rate, self.sample_rate, longest)
        check_recording(recording, self.sample_rate)
        return recording

    def _answers(
        self, sources: Iterable[Source], sizes: tuple[int, int] | None = None
    ) -> Iterator[Prediction | AudioError]:
        """Groups end at every GROUP-th source, and before where they hold more than LONGEST seconds."""
        group: list[Source] = []
        for number, source in enumerate(sources, 1):
            group.append(source)
            samples = sum(len(each) for each in group if isinstance(each, np.ndarray))
            if number % GROUP == 0 or samples > LONGEST * self.sample_rate:
                yield from self._answer(group, sizes)
                group = []
        yield from self._answer(group, sizes)

    def _answer(self, group: Sequence[Source], sizes: tuple[int, int] | None) -> Iterator[Prediction | AudioError]:
        recordings = [source for source in group if isinstance(source, np.ndarray)]
        answers = iter(self._recognize(recordings, ROWS))
        parts = [list(cut([recording], *sizes)) for recording in recordings] if sizes else []
        windows = self._windows(chain(*parts), sizes[0]) if sizes else iter(())
        counts = map(len, parts)
        for source in group:
            if isinstance(source, AudioError):
                yield source
            elif sizes is None:
                yield next(answers)
            elif isinstance(source, Path):
                yield self._long_file(source, *sizes)
            else:
                yield replace(next(answers), windows=tuple(islice(windows, next(counts))))

    def _long_file(self, path: Path, window: int, hop: int) -> Prediction | AudioError:
        try:
            windows = tuple(self._windows(cut(read_blocks(path, self.sample_rate), window, hop), window))
        except AudioError as error:
            return error
        shares = [list(part.probabilities.values()) for part in windows if part.probabilities is not None]
        return replace(self._prediction(np.mean(shares, axis=0), windows[-1].end), windows=windows)

    def _windows(self, parts: Iterable[Cut], length: int) -> Iterator[Window]:
        """The emotions of parts of at most `length` samples."""
        for group in _take(parts, GROUP):
            answers = iter(self._recognize([part.samples for part in group if part.samples.any()], ROWS, length))
            for start, samples in group:
                span = start / self.sample_rate, (start + len(samples)) / self.sample_rate
                answer = next(answers) if samples.any() else None
                yield Window(*span, *((answer.label, answer.probabilities) if answer else (None, None)))

    def _recognize(self, waveforms: Sequence[Recording], rows: int, length: int | None = None) -> list[Prediction]:
        """The emotions of recordings, padded to `length` samples or, if None, to the next bucket's."""
        targets = [length or bucket_length(len(waveform), self.sample_rate) for waveform in waveforms]
        predictions: dict[int, Prediction] = {}
        for target in dict.fromkeys(targets):
            side_by_side = rows if target <= _LONG * self.sample_rate else 1
            for group in _take([index for index, each in enumerate(targets) if each == target], side_by_side):
                padded, lengths = pad_waveforms([waveforms[index] for index in group], side_by_side, target)
                probabilities = np.asarray(self.program(padded, lengths))
                for index, row in zip(group, probabilities, strict=False):
                    predictions[index] = self._prediction(row, len(waveforms[index]) / self.sample_rate)
        return [predictions[index] for index in range(len(waveforms))]

    def _prediction(self, probabilities: Float[np.ndarray, " C"], seconds: float) -> Prediction:
        named = dict(zip(self.labels, probabilities.tolist(), strict=True))
        return Prediction(max(named, key=named.__getitem__), named, seconds)


def _take(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while taken := list(islice(iterator, size)):
        yield taken


def _read_ahead(read: Callable[[T], Source], items: Iterable[T]) -> Iterator[Source]:
    """`map(read, items)` in threads, some items ahead."""
    with ThreadPoolExecutor(READING_THREADS) as pool:
        waiting: deque[Future[Source]] = deque()
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > 2 * READING_THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def load(run: str | Path | Sequence[str | Path] | None = None) -> Predictor:
    """The recognizer of a run folder, of the epoch that validation chose, or of a file of `dslstm export`.

    Its probabilities are calibrated: the temperature of the run's calibration.json is in the weights.

    Args:
      run: the folder or file; None: the model that comes with the package. A list of them: their ensemble, which
        answers by the mean of the probabilities of all networks (those of exported files are computed anew).

    Raises:
      RunError: no such folder or file, no checkpoint in the folder, or a damaged one; or the classes or sample rates
        of an ensemble differ.
    """
    if isinstance(run, Sequence) and not isinstance(run, str):
        return _join(run, [load(each) for each in run])
    if run is None and not BUNDLED.is_file():
        raise RunError(
            f"this installation has no model of its own ({BUNDLED} is missing): name one, --model RUN or load(RUN), "
            f"or make it: dslstm train configs/pretrained.py --help, then dslstm export RUN --output {BUNDLED}"
        )
    path = BUNDLED if run is None else Path(run)
    if path.is_file() or path.suffix == SUFFIX:
        members, labels, program = read_model(path)
        return Predictor(*members[0], labels, program, members[1:])
    from dslstm_jax.runs.checkpoint import load_best  # Orbax takes a moment to import

    opened = open_run(path)
    if not runs_here(opened.config.model.lstm_backend):  # the scan gives the same answers anywhere
        model = replace(opened.config.model, lstm_backend="scan")
        opened = replace(opened, config=replace(opened.config, model=model))
    temperature = opened.read_temperature()
    variables, _ = load_best(opened)
    return Predictor(scale_logits(variables, 1 / temperature), opened.config.recognizer, opened.labels)


def _join(paths: Sequence[str | Path], predictors: Sequence[Predictor]) -> Predictor:
    """All networks of some recognizers as one ensemble."""
    if not predictors:
        raise RunError("an ensemble of no runs; name one at least")
    first = predictors[0]
    for path, other in zip(paths, predictors, strict=True):
        both = f"{paths[0]} and {path} cannot be one ensemble"
        if other.labels != first.labels:
            raise RunError(f"{both}: their classes are {', '.join(first.labels)} and {', '.join(other.labels)}")
        if other.sample_rate != first.sample_rate:
            raise RunError(f"{both}: their sample rates are {first.sample_rate} and {other.sample_rate} Hz")
    members = [member for predictor in predictors for member in predictor.members]
    return Predictor(*members[0], first.labels, others=members[1:])

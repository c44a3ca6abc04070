"""Recognition while the sound comes in: the same work and memory for every second, however many there are.

A step reads a cut-out of the sound that ends with the newest sample. Features and CNNs take it for a recording; of
its frames the recurrences read those that are new and that the cut-out's own edges have not changed. They and the
pooling go on from where the last step ended. So streams and whole recordings go through the same three stages of the
recognizer, and the answers are equal.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float, Float32, Int

from dslstm_jax.config import RecognizerConfig
from dslstm_jax.data.audio import Resampler, check_sound, mono_part
from dslstm_jax.errors import AudioError, ConfigError
from dslstm_jax.features import Features, extract_features
from dslstm_jax.models.branches import Read
from dslstm_jax.models.pooling import combine
from dslstm_jax.models.receptive_field import ReceptiveField, receptive_fields
from dslstm_jax.models.recognizer import Recognizer, Variables, average, count_classes
from dslstm_jax.serving.export import Member

if TYPE_CHECKING:
    from dslstm_jax.serving.predictor import Prediction

STEP = 0.5
"""Seconds of sound that a step adds."""


class Part(NamedTuple):
    """A cut-out of each recording of a batch, for one of the sequences that the recurrences read."""

    waveforms: Float[Any, "B N"]
    """Samples in [-1, 1], valid up to `lengths`."""
    lengths: Int[Any, " B"]
    first: Int[Any, " B"]
    """The first frame of the sequence that is new, and the same as in the whole recording."""
    end: Int[Any, " B"]
    """The frame behind the last one of these."""


def check_causal(config: RecognizerConfig) -> None:
    """Makes sure that no part of the recognizer waits for the end of a recording.

    Raises:
      ConfigError: one does; the message names the field.
    """
    features, model = config.features, config.model
    frames = [spectrogram.frames for spectrogram in features.spectrograms]
    if model.spectrogram_branch != "none" and any(frames):
        raise ConfigError(
            f"features.spectrograms: frames are {frames}, and stretching needs the whole recording; to stream they "
            "must be 0: train a model with that, as configs/pretrained.py does"
        )
    for field, value, waits, needed, allowed in (
        ("features.trim", features.trim, features.trim > 0, "the peak of the whole recording", "0"),
        ("model.normalize", model.normalize, model.normalize == "utterance", "the whole recording", "corpus or none"),
        ("model.bidirectional", True, model.bidirectional, "the end of the recording", "False"),
    ):
        if waits:
            raise ConfigError(
                f"{field} is {value}, which needs {needed}; to stream it must be {allowed}: train a model with that"
            )


@partial(jax.jit, static_argnames="config")
def step(
    variables: Variables, before: tuple[Read, ...] | None, parts: tuple[Part, ...], *, config: RecognizerConfig
) -> tuple[Float[Array, "B C"], tuple[Read, ...]]:
    """`predict` for recordings that are given part by part.

    Args:
      variables: the recognizer's weights and running statistics.
      before: what the last step found; None before the first.
      parts: one for each of `receptive_fields`.
      config: features and model.

    Returns:
      The probability of each emotion, of what has been read so far; and what was found, for the next step.
    """
    recognizer = Recognizer(config, count_classes(variables)).bind(variables)
    sequences = recognizer.encode(_features(parts, config))
    fresh = tuple(sequence.within(part.first, part.end) for sequence, part in zip(sequences, parts, strict=True))
    found = recognizer.recur(fresh, None if before is None else [read.states for read in before])
    if before is not None:
        found = tuple(
            new._replace(summary=combine(old.summary, new.summary)) for old, new in zip(before, found, strict=True)
        )
    branches = recognizer.classify([read.summary for read in found])
    return jax.nn.softmax(average(branches), axis=-1), found


def _features(parts: tuple[Part, ...], config: RecognizerConfig) -> Features:
    """Of the parts; those of the spectrograms that one recurrence reads together are of the same part."""
    found = [extract_features(part.waveforms, part.lengths, config.features) for part in parts]
    together = config.model.spectrogram_branch != "lstm"
    sources = [found[0 if together else index] for index in range(len(config.features.spectrograms))]
    return found[-1]._replace(
        spectrograms=tuple(source.spectrograms[index] for index, source in enumerate(sources)),
        spectrogram_lengths=tuple(source.spectrogram_lengths[index] for index, source in enumerate(sources)),
    )


class Stream:
    """Recognizes one recording while it comes in; `Predictor.stream` makes it. It belongs to one thread.

    What an answer is does not depend on how the sound was cut into pushes.
    """

    def __init__(self, member: Member, sample_rate: float, answer: Callable[..., "Prediction"]) -> None:
        """`answer` makes a prediction of probabilities and seconds; `Predictor.stream` says what is raised."""
        variables, config = member
        check_causal(config)
        # cuDNN does not take frames that begin late.
        self._config = replace(config, model=replace(config.model, lstm_backend="scan"))
        self._variables, self._answer = variables, answer
        self._sample_rate = config.features.sample_rate
        self._resampler = Resampler(sample_rate, self._sample_rate)
        self._hop = round(STEP * self._sample_rate)
        self._fields = receptive_fields(config)
        self._read = [0] * len(self._fields)  # frames that the recurrences have read
        self._buffer = np.zeros(max(map(self._size, self._fields)), np.float32)
        self._first = 0  # samples that have left the buffer
        self._stepped = 0  # samples at the last step
        self._count = 0  # samples that have come
        self._silent, self._ended = True, False
        # Nothing was found before the first step: states of 0, and summaries of no frame.
        _, shapes = step.eval_shape(variables, None, self._parts(ended=False), config=self._config)
        self._found = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    @property
    def latency_seconds(self) -> float:
        """Sound is part of an answer at most so long after it was pushed, the time to compute left aside: the rest of
        a step, and what CNNs and deltas read after a frame."""
        return (self._hop + max(field.after for field in self._fields)) / self._sample_rate

    def push(self, samples: npt.ArrayLike) -> "Prediction | None":
        """Takes more of the sound.

        Args:
          samples: [N] or [N, channels], any number of them; see `Predictor.__call__`. They are copied.

        Returns:
          The emotion of all sound so far, but for the last fractions of a second, where at least one step was done.
          None where none was, and as long as too little is known or all is digital silence.

        Raises:
          AudioError: the samples make no sense. The stream is then as it was before, and may go on.
        """
        return self._take(mono_part(samples))

    def finish(self) -> "Prediction":
        """The emotion of the whole recording, as `Predictor.__call__` gives it; nothing can be pushed after it.

        Raises:
          AudioError: there is too little sound or only digital silence.
        """
        self._take(np.zeros(0, np.float32), last=True)
        check_sound(self._count, self._silent, self._sample_rate)
        return self._step(ended=True)

    def _take(self, samples: Float32[np.ndarray, " N"], last: bool = False) -> "Prediction | None":
        if self._ended:
            raise AudioError("the stream has ended; begin another one with Predictor.stream")
        samples, self._ended, answer = self._resampler(samples, last), last, None
        while len(samples):
            missing = self._stepped + self._hop - self._count
            new, samples = samples[:missing], samples[missing:]
            place = self._count - self._first
            self._buffer[place : place + len(new)] = new
            self._count += len(new)
            self._silent = self._silent and not new.any()
            if len(new) == missing:
                answer = self._step(ended=False)
                if self._silent or not all(self._read):
                    answer = None
        return answer

    def _step(self, ended: bool) -> "Prediction":
        probabilities, self._found = step(self._variables, self._found, self._parts(ended), config=self._config)
        self._stepped = self._count
        self._read = [field.complete(self._count) for field in self._fields]
        behind = min(map(self._start, self._fields, self._read)) - self._first
        self._buffer[: len(self._buffer) - behind] = self._buffer[behind:]
        self._first += behind
        return self._answer(np.asarray(probabilities)[0], self._count / self._sample_rate)

    def _size(self, field: ReceptiveField) -> int:
        """Samples of a cut-out."""
        return max(field.context * field.hop + self._hop + field.after, field.shortest)

    def _start(self, field: ReceptiveField, read: int) -> int:
        """The sample with which the next cut-out begins."""
        return max(0, read - field.context) * field.hop

    def _parts(self, ended: bool) -> tuple[Part, ...]:
        parts = []
        for field, read in zip(self._fields, self._read, strict=True):
            start = self._start(field, read)
            waveform = np.zeros(self._size(field), np.float32)
            cut = self._buffer[start - self._first : self._count - self._first]
            waveform[: len(cut)] = cut
            length = max(self._count, field.shortest) - start if ended else self._count - start
            first = read - start // field.hop
            end = np.iinfo(np.int32).max if ended else first + field.complete(self._count) - read
            parts.append(Part(waveform[None], *np.array([[length], [first], [end]], np.int32)))
        return tuple(parts)

"""Recognition while the sound comes in: the same work and memory for every second, however many there are.

A step reads a cut-out of the sound that ends with the newest sample. Features and CNNs take it for a recording; of
its frames the recurrences read those that are new and that the cut-out's own edges have not changed. They and the
pooling go on from where the last step ended. So one forward pass serves streams and whole recordings, and the answers
are equal.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float, Float32

from dslstm_jax.config import Config
from dslstm_jax.data.audio import Resampler, check_sound, mono_part
from dslstm_jax.errors import AudioError, ConfigError
from dslstm_jax.models.branches import Span
from dslstm_jax.models.receptive_field import ReceptiveField, receptive_fields
from dslstm_jax.models.recognizer import Part, Variables, average, forward_parts

if TYPE_CHECKING:
    from dslstm_jax.serving.predictor import Prediction

STEP = 0.5
"""Seconds of sound that a step adds."""
_ALL = np.iinfo(np.int32).max
"""As the end of a span: all frames that there are."""


def check_causal(config: Config) -> None:
    """Makes sure that no part of the recognizer waits for the end of a recording.

    Raises:
      ConfigError: one does; the message names the field.
    """
    model = config.model
    frames = [spectrogram.frames for spectrogram in config.features.spectrograms]
    if model.spectrogram_branch != "none" and any(frames):
        raise ConfigError(
            f"features.spectrograms: frames are {frames}, and stretching needs the whole recording; to stream they "
            "must be 0: train a model with that, as configs/pretrained.py does"
        )
    if config.features.trim:
        raise ConfigError(
            f"features.trim is {config.features.trim}, which needs the peak of the whole recording; to stream it "
            "must be 0: train a model with that"
        )
    if model.normalize == "utterance":
        raise ConfigError(
            "model.normalize is utterance, which needs the whole recording; to stream it must be corpus or none: "
            "train a model with that"
        )
    if model.bidirectional:
        raise ConfigError(
            "model.bidirectional is True, which needs the end of the recording; to stream it must be False: train a "
            "model with that"
        )


@partial(jax.jit, static_argnames="config")
def step(
    variables: Variables, carried: Variables, parts: tuple[Part, ...], *, config: Config
) -> tuple[Float[Array, "B C"], Variables]:
    """The probability of each emotion after one more part of a recording, and what to carry to the next step; see
    `forward_parts`."""
    branches, carried = forward_parts(variables, carried, parts, config=config)
    return jax.nn.softmax(average(branches), axis=-1), carried


def _row(value: npt.ArrayLike) -> Any:
    """As a batch of one."""
    values = np.asarray(value)
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int32)[None]


class Stream:
    """Recognizes one recording while it comes in; `Predictor.stream` makes it. It belongs to one thread.

    What an answer is does not depend on how the sound was cut into pushes.
    """

    def __init__(
        self,
        variables: Variables,
        config: Config,
        sample_rate: float,
        answer: Callable[[Float[np.ndarray, " C"], float], "Prediction"],
    ) -> None:
        """
        Args:
          variables: the recognizer's weights and running statistics.
          config: features and model.
          sample_rate: of the samples that will be pushed, in hertz.
          answer: makes a prediction of probabilities and seconds.

        Raises:
          AudioError: a rate that no recording has.
          ConfigError: the model needs the whole recording.
        """
        check_causal(config)
        # Runs that differ elsewhere share the program; cuDNN does not take frames that begin late.
        self._config = Config(features=config.features, model=replace(config.model, lstm_backend="scan"))
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
        _, shapes = step.eval_shape(variables, {}, self._parts(ended=False), config=self._config)
        self._carried = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

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
        self._check_open()
        return self._take(self._resampler(mono_part(samples)))

    def finish(self) -> "Prediction":
        """The emotion of the whole recording, as `Predictor.__call__` gives it; nothing can be pushed after it.

        Raises:
          AudioError: there is too little sound or only digital silence.
        """
        self._check_open()
        self._ended = True
        self._take(self._resampler(np.zeros(0, np.float32), last=True))
        check_sound(self._count, self._silent, self._sample_rate)
        return self._step(ended=True)

    def _check_open(self) -> None:
        if self._ended:
            raise AudioError("the stream has ended; begin another one with Predictor.stream")

    def _take(self, samples: Float32[np.ndarray, " N"]) -> "Prediction | None":
        answer = None
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
        probabilities, self._carried = step(self._variables, self._carried, self._parts(ended), config=self._config)
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
            end = _ALL if ended else first + field.complete(self._count) - read
            parts.append(Part(_row(waveform), _row(length), Span(_row(first), _row(end))))
        return tuple(parts)

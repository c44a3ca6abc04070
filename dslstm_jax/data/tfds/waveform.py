"""Sound as a feature of tensorflow-datasets, without TensorFlow; the one module that imports tensorflow-datasets."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int16

from dslstm_jax.data.audio import read_audio
from dslstm_jax.errors import DslstmError

try:
    import importlib_resources  # noqa: F401 (tensorflow-datasets needs it for our builders)
    import tensorflow_datasets as tfds
except ImportError as error:
    raise DslstmError('records need tensorflow-datasets: pip install "dslstm-jax[records]"') from error


class Waveform(tfds.features.Tensor):
    """Mono 16-bit samples [N] at a known rate, stored as they are: two bytes each.

    `tfds.features.Audio` needs TensorFlow and stores up to ten bytes a sample. A folder's features.json names this
    class, and tensorflow-datasets imports it from here when it opens the folder.
    """

    def __init__(self, *, sample_rate: int, doc: Any = None) -> None:
        super().__init__(shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES, doc=doc)
        self.sample_rate = sample_rate
        """Hertz."""

    def encode_example(self, sound: Int16[np.ndarray, " N"] | str | Path) -> Any:
        """What goes into the record: int16 samples at `sample_rate`, or those of a sound file.

        Raises:
          AudioError: the file cannot be used.
          ValueError: an array of another type or shape.
        """
        if isinstance(sound, str | Path):
            sound = to_int16(read_audio(sound, self.sample_rate))
        return super().encode_example(sound)

    @classmethod
    def from_json_content(cls, value: Any) -> "Waveform":
        return cls(sample_rate=value["sample_rate"])

    def to_json_content(self) -> Any:
        return {"sample_rate": self.sample_rate}


def to_int16(samples: Float[np.ndarray, "..."]) -> Int16[np.ndarray, "..."]:
    """Samples in [-1, 1] as 16-bit integers, rounded; those of a 16-bit file come back exactly."""
    return np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16)

"""The feature that holds sound: stored exactly, found again through features.json, never with TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dslstm_jax.data.audio import read_audio
from dslstm_jax.data.tfds.waveform import Waveform, tfds, to_int16
from dslstm_jax.errors import AudioError

ALL = np.arange(-32768, 32768, dtype=np.int16)


def stored(feature: Waveform, sound: object) -> np.ndarray:
    """Through the bytes of a record and back."""
    features = tfds.features.FeaturesDict({"waveform": feature})
    example = features.encode_example({"waveform": sound})
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    record = serializer.serialize_example(example)
    assert len(record) < 2 * len(ALL) + 60
    return features.deserialize_example_np(record)["waveform"]


def test_samples_come_back_exactly() -> None:
    back = stored(Waveform(sample_rate=16_000), ALL)
    assert back.dtype == np.int16
    np.testing.assert_array_equal(back, ALL)
    assert "tensorflow" not in sys.modules


def test_a_features_json_brings_it_back(tmp_path: Path) -> None:
    features = tfds.features.FeaturesDict({"waveform": Waveform(sample_rate=22_050), "name": tfds.features.Text()})
    features.save_config(tmp_path)
    assert "dslstm_jax.data.tfds.waveform.Waveform" in (tmp_path / "features.json").read_text()
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        f"feature = tfds.features.FeatureConnector.from_config({str(tmp_path)!r})['waveform']\n"
        "print(type(feature).__name__, feature.sample_rate, feature.np_dtype.__name__, 'tensorflow' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["Waveform", "22050", "int16", "False"]


def test_a_file_is_read_as_everywhere_else(tmp_path: Path) -> None:
    path = tmp_path / "plain.wav"
    soundfile.write(path, ALL, 16_000, subtype="PCM_16")
    np.testing.assert_array_equal(stored(Waveform(sample_rate=16_000), path), ALL)
    stereo = tmp_path / "stereo.wav"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (4410, 2))
    soundfile.write(stereo, noise, 44_100, subtype="FLOAT")
    sound = stored(Waveform(sample_rate=16_000), str(stereo))
    np.testing.assert_allclose(sound / 32768, read_audio(stereo, 16_000), rtol=0, atol=0.51 / 32768)
    with pytest.raises(AudioError, match=r"missing\.wav: no such file"):
        Waveform(sample_rate=16_000).encode_example(tmp_path / "missing.wav")


@pytest.mark.parametrize("sound", [np.zeros(4, np.float32), np.zeros((4, 2), np.int16), np.zeros(4, np.int64)])
def test_other_arrays_are_refused(sound: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"int16|Shape"):
        Waveform(sample_rate=16_000).encode_example(sound)


def test_float_samples_are_rounded_and_full_scale_is_kept() -> None:
    np.testing.assert_array_equal(to_int16(ALL.astype(np.float32) / 32768), ALL)
    steps = np.array([-1.0, -0.6 / 32768, 0.4 / 32768, 0.6 / 32768, 1.0], np.float32)
    np.testing.assert_array_equal(to_int16(steps), [-32768, -1, 0, 1, 32767])


def test_without_tensorflow_datasets_the_mend_is_named() -> None:
    code = (
        "import json, sys\nsys.modules['tensorflow_datasets'] = None\n"
        "from dslstm_jax.errors import DslstmError\n"
        "try:\n    import dslstm_jax.data.tfds.waveform\n"
        "except DslstmError as error:\n    print(json.dumps(str(error)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == 'records need tensorflow-datasets: pip install "dslstm-jax[records]"'

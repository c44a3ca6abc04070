"""Records: what `dslstm prepare` or tensorflow-datasets wrote as ArrayRecord files; TensorFlow is not needed."""

import functools
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.audio import check_recording, prepare_samples
from dslstm_jax.data.corpora.acted import CREMA_D, SAVEE
from dslstm_jax.data.corpora.base import About, Corpus, StoredExample, Utterance, corpus_root, make_corpus
from dslstm_jax.errors import AudioError, CorpusError, DslstmError, first_three, one_line

ABOUT = About(
    license="that of the corpus in them",
    source="dslstm prepare, or tensorflow-datasets",
    root="the folder with dataset_info.json, or one above it",
)
INFO, FEATURES, UTTERANCES = "dataset_info.json", "features.json", "utterances.jsonl"
"""What tensorflow-datasets writes into a folder, and the list of its examples that `dslstm prepare` adds."""

_AUDIO = "tensorflow_datasets.core.features.audio_feature.Audio"
_TENSOR = "tensorflow_datasets.core.features.tensor_feature.Tensor"
# The labels of tensorflow-datasets' crema_d and savee under our names, and those in class order.
_OUR_NAMES = {"happiness": "happy", "anger": "angry", "sadness": "sad", "fear": "fearful", "surprise": "surprised"}
_OUR_NAMES |= CREMA_D.emotions
_CLASS_ORDER = tuple(SAVEE.emotions.values())


class Row(NamedTuple):
    """An example without its sound: a line of utterances.jsonl."""

    name: str
    """The file it was made from, or SPLIT#NUMBER."""
    label: str
    speaker: str | None
    session: str | None
    samples: int


@dataclass(frozen=True)
class _Folder:
    """An opened folder."""

    name: str
    """Of the corpus in it."""
    splits: Mapping[str, int]
    """Number of examples of each."""
    labels: tuple[str, ...]
    """In the order of the numbers in the records."""
    classes: tuple[str, ...]
    """The labels in the order of our classes."""
    sample_rate: int
    sound: str
    """Name of the feature with the samples."""
    feature: Any
    source: Any
    """The records of all splits, one after the other: each a serialized tf.train.Example."""

    def fields(self, position: int) -> Any:
        """What an example holds under the name of each feature."""
        from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

        return Example.FromString(self.source[position]).features.feature

    def samples(self, fields: Any) -> Shaped[np.ndarray, "N *channels"]:
        """int16, or floats with full scale 1.

        Raises:
          AudioError: integers beyond 16 bits.
        """
        field = fields[self.sound]
        if field.HasField("bytes_list"):
            stored = field.bytes_list.value[0]
        else:
            stored = np.array(field.int64_list.value or field.float_list.value, self.feature.np_dtype)
        values = self.feature.decode_example_np(stored)
        if values.dtype == np.int16 or values.dtype.kind == "f":
            return values
        narrow = values.astype(np.int16)
        if not np.array_equal(narrow, values):
            raise AudioError(f"its samples, of type {values.dtype}, do not fit in 16 bits")
        return narrow


def load(config: CorpusConfig) -> Corpus:
    """All splits of a folder, one after the other; nothing is decoded if the folder has an utterances.jsonl.

    The corpus has the name of what is in the folder. The labels of tensorflow-datasets' own corpora get our names:
    HAP and happiness become happy.

    Args:
      config: `root` is a version folder, which holds dataset_info.json and features.json, or a folder with exactly
        one such folder up to three levels below.

    Raises:
      AudioError: an example is damaged, and there is no utterances.jsonl.
      CorpusError: no such folder, several, or one that cannot be read.
      DslstmError: tensorflow-datasets is not installed.
    """
    _opened.cache_clear()  # the folder may have been made anew since
    path = _find_folder(corpus_root("records", config.root))
    folder = _open(path)
    utterances = []
    for position, (name, label, speaker, session, samples) in enumerate(_read_rows(path, folder.splits)):
        record = StoredExample(str(path), position, samples, folder.sample_rate)
        utterances.append(Utterance(str(path / name), label, speaker, session, record))
    corpus = make_corpus("records", folder.classes, utterances, f"{path} holds no example")
    return replace(corpus, name=folder.name)


def _find_folder(root: Path) -> Path:
    """`root` itself or the one folder below it that holds records: at the deepest `root/NAME/CONFIG/VERSION`."""
    if (root / INFO).is_file() and (root / FEATURES).is_file():
        return root
    found = sorted(
        info.parent
        for depth in (1, 2, 3)
        for info in root.glob(f"{'*/' * depth}{INFO}")
        if info.with_name(FEATURES).is_file()
        and not any(part.startswith((".", "incomplete.")) for part in info.relative_to(root).parts)
    )
    if not found:
        raise CorpusError(
            f"--corpus.root {root}: neither it nor a folder below it holds {INFO} and {FEATURES}; "
            "make one with dslstm prepare"
        )
    if len(found) > 1:
        raise CorpusError(
            f"--corpus.root {root}: there are {len(found)} folders of records below it; name one of "
            f"{first_three([str(path) for path in found])}"
        )
    return found[0]


def scan(path: Path) -> Iterator[Row]:
    """What every example of a folder says of itself, in order; utterances.jsonl is made of this.

    Raises:
      AudioError: an example is damaged.
      CorpusError: the folder cannot be read.
      DslstmError: tensorflow-datasets is not installed.
    """
    folder = _open(path)
    places = ((split, number) for split, count in folder.splits.items() for number in range(count))
    for position, (split, number) in enumerate(places):
        with _errors_of(path, position):
            fields = folder.fields(position)
            (label,) = fields["label"].int64_list.value
            if not 0 <= label < len(folder.labels):
                raise AudioError(f"its label is {label}, for which there is no name")
            row = Row(
                _text(fields, "name") or f"{split}#{number}",
                folder.labels[label],
                _text(fields, "speaker") or _text(fields, "speaker_id"),
                _text(fields, "session"),
                len(folder.samples(fields)),
            )
        yield row


def read_record(record: StoredExample, sample_rate: int, longest: float | None = None) -> Float32[np.ndarray, " N"]:
    """The samples of a record in [-1, 1] at `sample_rate` (hertz); at the stored rate exactly int16 / 32768.

    May be called from several threads; each folder is opened once.

    Args:
      record: where the sound lies.
      sample_rate: of the result, in hertz.
      longest: in seconds; a longer record is not resampled.

    Raises:
      AudioError: `FOLDER, example POSITION: REASON`: damaged, too long, too short or silent.
      DslstmError: tensorflow-datasets is not installed.
    """
    with _errors_of(record.folder, record.position):
        with _opening:
            folder = _opened(Path(record.folder))
        samples = folder.samples(folder.fields(record.position))
        if len(samples) != record.samples:
            raise AudioError(f"it has {len(samples)} samples, not {record.samples}; delete {UTTERANCES}")
        plain = samples.dtype == np.int16 and samples.ndim == 1 and folder.sample_rate == sample_rate
        if plain and (longest is None or len(samples) <= longest * sample_rate):
            recording = samples.astype(np.float32)
            recording *= np.float32(1 / 32768)
        else:
            recording = prepare_samples(samples, folder.sample_rate, sample_rate, longest)
        check_recording(recording, sample_rate)
    return recording


@contextmanager
def _errors_of(folder: Path | str, position: int) -> Iterator[None]:
    """What is wrong with an example becomes an AudioError that says where it lies."""
    try:
        yield
    except (AudioError, CorpusError) as error:
        raise AudioError(f"{folder}, example {position}: {error}") from error
    except DslstmError:
        raise
    except Exception as error:  # array_record and protobuf raise many kinds
        reason = f"damaged ({one_line(error)}); make the folder anew"
        raise AudioError(f"{folder}, example {position}: {reason}") from error


def _open(path: Path) -> _Folder:
    """Reads the metadata files and opens the shards."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    from dslstm_jax.data.tfds.waveform import Waveform, tfds

    try:
        info = tfds.core.dataset_info.read_from_json(path / INFO)
        described = json.loads((path / FEATURES).read_text(encoding="utf-8"))
        audio_rates = _replace_audio(described)
        connector = tfds.features.FeaturesDict.from_json(described)
        connector.load_metadata(path, feature_name=None)
        features = dict(connector.items())
        template = tfds.core.ShardedFileTemplate(path, dataset_name=info.name, filetype_suffix="array_record")
        splits = tfds.core.SplitDict.from_proto(info.splits, template)
        shards = [shard for split in splits.values() for shard in split.file_instructions]
    except Exception as error:  # tensorflow-datasets raises many kinds
        raise CorpusError(f"{path}: {INFO} or {FEATURES} cannot be used: {one_line(error)}") from error
    formats = [info.file_format or "tfrecord", *info.alternative_file_formats]
    if "array_record" not in formats:
        raise CorpusError(
            f"{path}: {formats[0]} files cannot be read without TensorFlow; "
            'build the folder anew with file_format="array_record"'
        )
    for shard in shards:
        if not Path(shard.filename).is_file():
            raise CorpusError(f"{path}: {Path(shard.filename).name} is missing; make the folder anew")
    waveform_rates = {name: found.sample_rate for name, found in features.items() if isinstance(found, Waveform)}
    rates = audio_rates | waveform_rates
    if len(rates) != 1:
        raise CorpusError(f"{path}: {len(rates)} features with sound, not one; there are: {', '.join(features)}")
    (sound, sample_rate), *_ = rates.items()
    if not sample_rate:
        raise CorpusError(f"{path / FEATURES}: feature {sound!r} has no sample rate; write it there (hertz)")
    label = features.get("label")
    if not isinstance(label, tfds.features.ClassLabel) or not label.names:
        raise CorpusError(f"{path}: no ClassLabel 'label' with names; there are: {', '.join(features)}")
    labels = classes = tuple(label.names)
    if sound in audio_rates:  # not made by dslstm prepare
        labels = tuple(_OUR_NAMES.get(name, name) for name in labels)
        classes = (*_CLASS_ORDER, *sorted(set(labels) - set(_CLASS_ORDER)))
    return _Folder(
        name=info.name.removeprefix("dslstm_"),
        splits={name: split.num_examples for name, split in splits.items()},
        labels=labels,
        classes=classes,
        sample_rate=sample_rate,
        sound=sound,
        feature=features[sound],
        source=ArrayRecordDataSource(shards) if shards else (),
    )


_opened = functools.cache(_open)
_opening = threading.Lock()


def _replace_audio(described: Any) -> dict[str, int]:
    """Makes each Audio of a features.json a Tensor, which needs no TensorFlow; the sample rates by feature."""
    features = described["featuresDict"]["features"]
    rates = {}
    for name, feature in features.items():
        if feature["pythonClassName"] == _AUDIO:
            audio = feature["audio"]
            if audio.get("lazyDecode"):
                raise ValueError(f"{name!r} holds undecoded files, lazy_decode")
            rates[name] = int(audio.get("sampleRate", 0))
            tensor = {"shape": audio["shape"], "dtype": audio["dtype"], "encoding": audio["encoding"].lower()}
            features[name] = {"pythonClassName": _TENSOR, "tensor": tensor}
    return rates


def _read_rows(path: Path, splits: Mapping[str, int]) -> list[Row]:
    """The lines of utterances.jsonl or, if there is none, what all examples say of themselves."""
    file = path / UTTERANCES
    if not file.is_file():
        return list(scan(path))
    try:
        rows = [Row(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, TypeError, ValueError) as error:
        raise CorpusError(f"{file}: damaged ({one_line(error)}); delete it") from error
    if len(rows) != sum(splits.values()):
        raise CorpusError(f"{file}: {len(rows)} lines, {sum(splits.values())} examples; delete it")
    return rows


def _text(fields: Any, name: str) -> str | None:
    """A text or number, unless it is empty or missing."""
    values = (*fields[name].bytes_list.value, *fields[name].int64_list.value) if name in fields else ()
    value = values[0] if values else b""
    return (value.decode() if isinstance(value, bytes) else str(value)) or None

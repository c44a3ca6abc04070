"""Corpora as tensorflow-datasets builders."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int16

from dslstm_jax.config import CorpusConfig, DataConfig
from dslstm_jax.data.corpora import CORPORA, Corpus, Utterance, load_corpus
from dslstm_jax.data.reading import READING_THREADS, read_utterance
from dslstm_jax.data.tfds.waveform import Waveform, tfds, to_int16
from dslstm_jax.errors import AudioError, CorpusError

SAMPLE_RATE = 16_000
LONGEST = DataConfig.longest
CHUNK = 256
"""Recordings that are decoded at once; `prepare` keeps them before it goes on."""

Pcm = Int16[np.ndarray, " N"]


class _Writer(tfds.core.ExampleWriter):
    """ArrayRecord files with the same bytes whenever they are made, and without compression.

    Compression would save a sixth of 16-bit speech, and reading would take four times as long.
    """

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter
        from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

        writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        for _, example in examples:
            # tensorflow-datasets leaves the order of the features to protobuf, which shuffles it
            writer.write(Example.FromString(example).SerializeToString(deterministic=True))
        writer.close()  # says if the disk did not take it all


class CorpusBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A corpus as tensorflow-datasets examples: waveform, label, speaker, session, and name, the file below the root.

    All of them are in the split "train". The corpus is where `corpus` says, or else in the `manual_dir` of the
    DownloadConfig: `tfds.builder("dslstm_emodb", data_dir=DIR).download_and_prepare(download_config=...)`.

    Args:
      corpus: settings of the corpus; its name is ignored.
      sample_rate: of the waveforms, in hertz.
      longest: in seconds; a longer recording cannot be used.
      sounds: gives the waveform of each utterance, or None to leave it out; by default `decode`.
      beam: decode in Apache Beam's workers instead; recordings that cannot be used are left out.
      settings: of tfds.core.GeneratorBasedBuilder; `data_dir` above all.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir is the folder of the corpus; for a manifest, that of manifest.csv."
    CORPUS: ClassVar[str]

    def __init__(
        self,
        *,
        corpus: CorpusConfig | None = None,
        sample_rate: int = SAMPLE_RATE,
        longest: float = LONGEST,
        sounds: Callable[[Sequence[Utterance]], Iterable[Pcm | None]] | None = None,
        beam: bool = False,
        file_format: Any = "array_record",
        **settings: Any,
    ) -> None:
        self._corpus = replace(corpus or CorpusConfig(), name=self.CORPUS)
        self._sample_rate = sample_rate
        self._read = partial(read_sound, sample_rate=sample_rate, longest=longest)
        self._sounds = sounds or partial(decode, read=self._read)
        self._beam = beam
        super().__init__(file_format=file_format, **settings)

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.CORPUS} as dslstm-jax reads it: mono, 16 bits, {self._sample_rate} Hz.",
            features=tfds.features.FeaturesDict(
                {
                    "waveform": Waveform(sample_rate=self._sample_rate),
                    "label": tfds.features.ClassLabel(),  # _split_generators finds the names
                    "speaker": tfds.features.Text(),
                    "session": tfds.features.Text(),
                    "name": tfds.features.Text(),
                }
            ),
            supervised_keys=("waveform", "label"),
            license=CORPORA[self.CORPUS].ABOUT.license,
        )

    def _split_generators(self, dl_manager: Any) -> Any:
        config = self._corpus
        if self.CORPUS == "manifest":
            if config.manifest is None:
                config = replace(config, manifest=str(dl_manager.manual_dir / "manifest.csv"))
        elif self.CORPUS != "synthetic" and config.root is None:
            config = replace(config, root=str(dl_manager.manual_dir))
        corpus = load_corpus(config)
        self.info.features["label"].names = list(corpus.labels)
        return {"train": self._generate_examples(name_utterances(corpus, config))}

    def _generate_examples(self, named: Mapping[str, Utterance]) -> Any:
        if not self._beam:
            sounds = self._sounds(list(named.values()))
            pairs = zip(named.items(), sounds, strict=True)
            return (
                (name, _example(name, utterance, sound)) for (name, utterance), sound in pairs if sound is not None
            )
        import apache_beam

        decode_one = apache_beam.FlatMap(partial(_decode_one, read=self._read))
        return apache_beam.Create(list(named.items())) | apache_beam.Reshuffle() | decode_one

    def _example_writer(self) -> Any:
        plain = super()._example_writer()
        return _Writer(plain.file_format) if plain.file_format == tfds.core.FileFormat.ARRAY_RECORD else plain


BUILDERS: dict[str, Any] = {
    name: type(f"Dslstm{name.title().replace('_', '')}", (CorpusBuilder,), {"CORPUS": name, "__module__": __name__})
    for name in CORPORA
    if name != "records"
}
"""The class of each corpus; tensorflow-datasets makes the name dslstm_crema_d of DslstmCremaD."""
globals().update({builder.__name__: builder for builder in BUILDERS.values()})  # where pickle looks for them


def name_utterances(corpus: Corpus, config: CorpusConfig) -> dict[str, Utterance]:
    """The utterances in their order, by their path below the corpus root or, if one is elsewhere, below what all
    paths have in common.

    Raises:
      CorpusError: a name that is not text in UTF-8.
    """
    paths = [os.path.abspath(utterance.path) for utterance in corpus.utterances]  # noqa: PTH100 (links stay)
    root = config.root or (config.manifest and os.path.dirname(config.manifest))  # noqa: PTH120
    base = os.path.abspath(os.path.expanduser(root)) if root else "/"  # noqa: PTH100, PTH111
    if not root or os.path.commonpath([base, *paths]) != base:
        base = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    named = {os.path.relpath(path, base): u for path, u in zip(paths, corpus.utterances, strict=True)}
    for name in named:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise CorpusError(f"{base}: the name {name!a} is not UTF-8; records cannot keep it, rename it") from error
    return named


def decode(utterances: Sequence[Utterance], read: Callable[[Utterance], Pcm]) -> Iterator[Pcm]:
    """The waveform of each utterance, read in threads."""
    with ThreadPoolExecutor(READING_THREADS) as pool:
        for start in range(0, len(utterances), CHUNK):  # not all at once, which would fill the memory
            yield from pool.map(read, utterances[start : start + CHUNK])


def read_sound(utterance: Utterance, sample_rate: int, longest: float) -> Pcm:
    return to_int16(read_utterance(utterance, sample_rate, longest))


def _decode_one(row: tuple[str, Utterance], read: Callable[[Utterance], Pcm]) -> Iterator[tuple[str, dict[str, Any]]]:
    """One recording in a worker of Apache Beam; none if it cannot be used."""
    name, utterance = row
    with contextlib.suppress(AudioError):  # `prepare` finds and names those that are missing
        yield name, _example(name, utterance, read(utterance))


def _example(name: str, utterance: Utterance, sound: Pcm) -> dict[str, Any]:
    return {
        "waveform": sound,
        "label": utterance.label,
        "speaker": utterance.speaker or "",
        "session": utterance.session or "",
        "name": name,
    }

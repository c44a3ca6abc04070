"""Corpora as tensorflow-datasets builders, and `prepare`, which builds one and can be killed and started again."""

import contextlib
import fcntl
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Int16
from rich.console import Console

from dslstm_jax.config import CorpusConfig, DataConfig
from dslstm_jax.data.corpora import CORPORA, Corpus, Utterance, load_corpus
from dslstm_jax.data.corpora.base import first_three
from dslstm_jax.data.corpora.records import UTTERANCES, scan
from dslstm_jax.data.reading import READING_THREADS, read_utterance
from dslstm_jax.data.waveform import Waveform, tfds, to_int16
from dslstm_jax.errors import AudioError, ConfigError, CorpusError, DslstmError, RunError
from dslstm_jax.files import make_folder, to_json, whole_file, write_json, write_text
from dslstm_jax.progress import progress_bar

SAMPLE_RATE = 16_000
LONGEST = DataConfig.longest
METADATA = "metadata.json"
"""What the records were made from; tensorflow-datasets shows it as `builder.info.metadata`."""
CHUNK = 256
"""Recordings that are decoded before what was decoded is safe from a kill."""

Sound = Int16[np.ndarray, " N"]


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
        sounds: Callable[[Sequence[Utterance]], Iterable[Sound | None]] | None = None,
        beam: bool = False,
        file_format: Any = "array_record",
        **settings: Any,
    ) -> None:
        self._corpus = replace(corpus or CorpusConfig(), name=self.CORPUS)
        self._sample_rate, self._longest = sample_rate, longest
        self._sounds = sounds or partial(decode, sample_rate=sample_rate, longest=longest)
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

        decode_one = partial(_decode_one, sample_rate=self._sample_rate, longest=self._longest)
        return apache_beam.Create(list(named.items())) | apache_beam.Reshuffle() | apache_beam.FlatMap(decode_one)

    def _example_writer(self) -> Any:
        plain = super()._example_writer()
        return _Writer(plain.file_format) if plain.file_format == tfds.core.FileFormat.ARRAY_RECORD else plain


class DslstmCremaD(CorpusBuilder):
    CORPUS = "crema_d"


class DslstmEmodb(CorpusBuilder):
    CORPUS = "emodb"


class DslstmIemocap(CorpusBuilder):
    CORPUS = "iemocap"


class DslstmManifest(CorpusBuilder):
    CORPUS = "manifest"


class DslstmRavdess(CorpusBuilder):
    CORPUS = "ravdess"


class DslstmSavee(CorpusBuilder):
    CORPUS = "savee"


class DslstmSynthetic(CorpusBuilder):
    CORPUS = "synthetic"


BUILDERS: dict[str, type[CorpusBuilder]] = {
    builder.CORPUS: builder
    for builder in (
        DslstmCremaD,
        DslstmEmodb,
        DslstmIemocap,
        DslstmManifest,
        DslstmRavdess,
        DslstmSavee,
        DslstmSynthetic,
    )
}


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


def decode(utterances: Sequence[Utterance], sample_rate: int, longest: float = LONGEST) -> Iterator[Sound]:
    """The waveform of each utterance, decoded in threads.

    Raises:
      AudioError: a recording cannot be used.
    """
    with ThreadPoolExecutor(READING_THREADS) as pool:
        for start in range(0, len(utterances), CHUNK):  # not all at once, which would fill the memory
            part = utterances[start : start + CHUNK]
            yield from pool.map(partial(_read, sample_rate=sample_rate, longest=longest), part)


def _read(utterance: Utterance, sample_rate: int, longest: float) -> Sound:
    return to_int16(read_utterance(utterance, sample_rate, longest))


def _decode_one(row: tuple[str, Utterance], sample_rate: int, longest: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """One recording in a worker of Apache Beam; none if it cannot be used."""
    name, utterance = row
    with contextlib.suppress(AudioError):  # `prepare` finds and names those that are missing
        yield name, _example(name, utterance, _read(utterance, sample_rate, longest))


def _example(name: str, utterance: Utterance, sound: Sound) -> dict[str, Any]:
    return {
        "waveform": sound,
        "label": utterance.label,
        "speaker": utterance.speaker or "",
        "session": utterance.session or "",
        "name": name,
    }


class Prepared(NamedTuple):
    """What `prepare` made, or found."""

    folder: Path
    utterances: int
    errors: tuple[AudioError, ...]
    """One for each recording that was left out now."""
    made: bool
    """False: the folder was there already."""


def prepare(
    config: CorpusConfig,
    output: Path,
    *,
    console: Console,
    sample_rate: int = SAMPLE_RATE,
    longest: float = LONGEST,
    on_error: Literal["stop", "skip"] = "stop",
    beam_runner: str | None = None,
) -> Prepared:
    """Builds a corpus in `output/dslstm_NAME/VERSION`, which appears there at once and complete.

    Until then everything is in `output/.prepare-dslstm_NAME`. A call that follows a killed one takes the decoded
    sound from there, of each chunk whose recordings have not changed since, and ends with the same bytes.

    Args:
      config: the corpus.
      output: the data_dir of tensorflow-datasets.
      console: for the progress, and for each recording that cannot be used.
      sample_rate: of the waveforms, in hertz.
      longest: in seconds; a longer recording cannot be used.
      on_error: what to do if recordings cannot be used: "stop" before anything appears, or "skip" them.
      beam_runner: decode in Apache Beam's workers under this runner (DirectRunner, FlinkRunner, ...), which see
        both the corpus and `output`; nothing is taken over from a killed call.

    Raises:
      ConfigError: several corpora, records of records, or an unknown runner.
      CorpusError: the corpus cannot be loaded; a recording cannot be used and `on_error` is "stop"; or the folder is
        there already and was made otherwise.
      RunError: `output` cannot be written, or another `prepare` is at work in it.
      DslstmError: apache-beam is needed and not installed.
    """
    if config.names:
        raise ConfigError("records are made of one corpus at a time: give --corpus.name, not --corpus.names")
    corpus = load_corpus(config)
    if config.name not in BUILDERS:
        raise ConfigError(f"corpus {config.name!r} cannot be prepared; those that can are: {', '.join(BUILDERS)}")
    named = name_utterances(corpus, config)
    name, version = BUILDERS[config.name].name, BUILDERS[config.name].VERSION
    folder, work = output / name / str(version), output / f".prepare-{name}"
    made_of = {"sample_rate": sample_rate, "longest": longest, "labels": corpus.labels}
    if config.name == "synthetic":
        made_of["synthetic"] = asdict(config.synthetic)
    if folder.exists():
        count = _check_same(folder, made_of, named, on_error)
        _remove(work)
        return Prepared(folder, count, (), made=False)
    beam = {} if beam_runner is None else _beam_settings(beam_runner)
    make = partial(BUILDERS[config.name], data_dir=work / "build", corpus=config, sample_rate=sample_rate)
    total = len(named)
    with _alone(work):
        _remove(work / "build")  # tensorflow-datasets would take what it finds there for its own
        if beam:
            _build(make(longest=longest, beam=True), **beam)
        else:
            chunks = make_folder(work / "chunks")
            errors = _decode_chunks(list(named.values()), chunks, sample_rate, longest, console)
            _judge(errors, total, on_error, console)
            with progress_bar(console, "writing", total) as done:
                _build(make(sounds=partial(_read_chunks, folder=chunks, done=done)))
        made = work / "build" / folder.relative_to(output)
        rows = list(scan(made))
        written = {row.name for row in rows}
        missing = [name for name in named if name not in written]
        if beam:
            errors = [_why(named[name], sample_rate, longest) for name in missing]
            _judge(errors, total, on_error, console)
        write_text(made / UTTERANCES, "".join(to_json(row._asdict()) + "\n" for row in rows))
        write_json(made / METADATA, {**made_of, "left_out": missing})
        _move(made, folder)
        _remove(work)
    return Prepared(folder, len(rows), tuple(errors), made=True)


def _decode_chunks(
    utterances: Sequence[Utterance], folder: Path, sample_rate: int, longest: float, console: Console
) -> list[AudioError]:
    """Decodes what is not yet in `folder`, in files of CHUNK utterances; returns what cannot be used."""

    def read(utterance: Utterance) -> Sound | AudioError:
        try:
            return _read(utterance, sample_rate, longest)
        except AudioError as error:
            return error

    errors: list[AudioError] = []
    with progress_bar(console, "reading", len(utterances)) as done, ThreadPoolExecutor(READING_THREADS) as pool:
        for file, part in _chunks(folder, utterances):
            stamps = [_stamp(utterance) for utterance in part]
            made_of = json.dumps([sample_rate, longest, stamps])
            if None not in stamps and _made_of(file) == made_of:
                for _ in part:
                    done()
                continue
            sounds: list[Sound] = []
            for place, sound in enumerate(pool.map(read, part)):
                if isinstance(sound, AudioError):
                    errors.append(sound)
                    stamps[place] = None  # so that it is looked at anew the next time
                    sound = np.zeros(0, np.int16)
                sounds.append(sound)
                done()
            with whole_file(file) as temporary:
                np.savez(
                    temporary,
                    made_of=json.dumps([sample_rate, longest, stamps]),
                    lengths=[len(sound) for sound in sounds],
                    sound=np.concatenate(sounds),
                )
    return errors


def _read_chunks(utterances: Sequence[Utterance], folder: Path, done: Callable[[], None]) -> Iterator[Sound | None]:
    """What `_decode_chunks` left in `folder`; None for what could not be used."""
    for file, _ in _chunks(folder, utterances):
        with np.load(file) as chunk:
            ends, samples = np.cumsum(chunk["lengths"]), chunk["sound"]
        for sound in np.split(samples, ends[:-1]):
            yield sound if len(sound) else None
            done()


def _chunks(folder: Path, utterances: Sequence[Utterance]) -> Iterator[tuple[Path, Sequence[Utterance]]]:
    for start in range(0, len(utterances), CHUNK):
        yield folder / f"{start:08}.npz", utterances[start : start + CHUNK]


def _stamp(utterance: Utterance) -> tuple[str, int, int] | None:
    """By what a file is recognized; None if it is not there."""
    try:
        status = Path(utterance.path).stat()
    except (OSError, ValueError):
        return None
    return utterance.path, status.st_size, status.st_mtime_ns


def _made_of(file: Path) -> str | None:
    """The stamps of a chunk's recordings; None if there is no such chunk."""
    try:
        with np.load(file) as chunk:
            return str(chunk["made_of"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _judge(errors: Sequence[AudioError], total: int, on_error: str, console: Console) -> None:
    """Names all recordings that cannot be used, and goes on without them only if that was asked for."""
    for error in errors:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
    if errors and on_error == "stop":
        raise CorpusError(
            f"{len(errors)} of {total} recordings cannot be used; mend or remove them, or leave them out with "
            "--on-error skip"
        )
    if len(errors) == total:
        raise CorpusError(f"none of the {total} recordings can be used")


def _why(utterance: Utterance, sample_rate: int, longest: float) -> AudioError:
    """What is wrong with a recording that Beam's workers left out."""
    try:
        _read(utterance, sample_rate, longest)
    except AudioError as error:
        return error
    return AudioError(f"{utterance.path}: Apache Beam's workers could not read it; can they see the file?")


def _build(builder: CorpusBuilder, **download: Any) -> None:
    """download_and_prepare, whose messages would only repeat ours."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**download))
    except (OSError, RuntimeError) as error:  # what array_record raises where the disk is full
        raise RunError(f"cannot write the records: {_one_line(error)}") from error
    except Exception as error:
        if not download or isinstance(error, DslstmError):
            raise
        raise RunError(f"Apache Beam: {_one_line(error)}") from error
    finally:
        tfds.enable_progress_bar()


def _beam_settings(runner: str) -> dict[str, Any]:
    """The runner of that name, as the DownloadConfig wants it."""
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise DslstmError('--beam-runner needs Apache Beam: pip install "dslstm-jax[beam]"') from error
    try:
        found = apache_beam.runners.create_runner(runner)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"--beam-runner {runner}: {_one_line(error)}") from error
    return {"beam_runner": found, "beam_options": PipelineOptions(flags=[])}  # our flags are not Beam's


def _check_same(folder: Path, made_of: Mapping[str, Any], named: Mapping[str, Utterance], on_error: str) -> int:
    """Makes sure that a folder holds what would be made now; the number of its examples.

    Raises:
      CorpusError: naming the first difference.
    """
    mend = "delete it or give another --output"
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        before, left_out = _flatten({name: metadata[name] for name in made_of}), metadata["left_out"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{folder} is there already, and not by dslstm prepare; {mend}") from error
    now = _flatten(json.loads(to_json(made_of)))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise CorpusError(f"{folder} was made with {name} = {before.get(name)}, not {now.get(name)}; {mend}")
    if left_out and on_error == "stop":
        raise CorpusError(
            f"{folder} was made without {len(left_out)} recordings that could not be used: {first_three(left_out)}; "
            "accept that with --on-error skip, or mend them and delete the folder"
        )
    records = load_corpus(CorpusConfig("records", root=str(folder))).utterances
    there = {str(Path(utterance.path).relative_to(folder)): _known(utterance) for utterance in records}
    here = {name: _known(utterance) for name, utterance in named.items() if name not in left_out}
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise CorpusError(
                f"{folder} was made from another state of the corpus: {name} is {there.get(name, 'not there')}, now "
                f"{here.get(name, 'not there')}; {mend}"
            )
    return len(records)


def _known(utterance: Utterance) -> str:
    about = (("label", utterance.label), ("speaker", utterance.speaker), ("session", utterance.session))
    return ", ".join(f"{name} {value}" for name, value in about if value is not None)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict):
        return {
            key: leaf
            for name, value in values.items()
            for key, leaf in _flatten(value, f"{prefix}.{name}" if prefix else name).items()
        }
    return {prefix: values}


def _move(made: Path, folder: Path) -> None:
    """Puts a finished folder in its place, in one step, when all of it has reached the disk."""
    make_folder(folder.parent)
    try:
        for path in made.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        made.rename(folder)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from error


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RunError(f"cannot remove {folder}: {error.strerror or error}") from error


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Makes the folder and keeps other processes out of it, until the block or this process ends."""
    make_folder(work)
    try:
        lock = (work / "lock").open("w")
    except OSError as error:
        raise RunError(f"cannot write in {work}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another dslstm prepare is at work in {work}; wait for it") from error
        except OSError:  # a file system without locks
            pass
        yield

"""`prepare` makes records of a corpus; it can be killed and started again."""

import contextlib
import fcntl
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Console

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora import Utterance, load_corpus
from dslstm_jax.data.corpora.records import UTTERANCES, scan
from dslstm_jax.data.reading import READING_THREADS, file_stamp
from dslstm_jax.data.tfds.builders import BUILDERS, CHUNK, LONGEST, SAMPLE_RATE, Pcm, name_utterances, read_sound
from dslstm_jax.data.tfds.waveform import tfds
from dslstm_jax.errors import AudioError, ConfigError, CorpusError, DslstmError, RunError, first_three, one_line
from dslstm_jax.util.files import flatten, make_folder, run_errors, to_json, whole_file, write_json, write_text
from dslstm_jax.util.progress import progress_bar

METADATA = "metadata.json"
"""What the records were made from; tensorflow-datasets shows it as `builder.info.metadata`."""


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
    if config.parts:
        raise ConfigError("records are made of one corpus at a time: give --corpus.name, not --corpus.parts")
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


def _read(utterance: Utterance, sample_rate: int, longest: float) -> Pcm | AudioError:
    try:
        return read_sound(utterance, sample_rate, longest)
    except AudioError as error:
        return error


def _decode_chunks(
    utterances: Sequence[Utterance], folder: Path, sample_rate: int, longest: float, console: Console
) -> list[AudioError]:
    """Decodes what is not yet in `folder`, in files of CHUNK utterances; returns what cannot be used."""
    read = partial(_read, sample_rate=sample_rate, longest=longest)
    errors: list[AudioError] = []
    with progress_bar(console, "reading", len(utterances)) as done, ThreadPoolExecutor(READING_THREADS) as pool:
        for file, part in _chunks(folder, utterances):
            stamps = [(stamp := file_stamp(one.path)) and (one.path, *stamp) for one in part]
            made_of = json.dumps([sample_rate, longest, stamps])
            if None not in stamps and _made_of(file) == made_of:
                done(len(part))
                continue
            sounds: list[Pcm] = []
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


def _read_chunks(utterances: Sequence[Utterance], folder: Path, done: Callable[[], None]) -> Iterator[Pcm | None]:
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
    found = _read(utterance, sample_rate, longest)
    if isinstance(found, AudioError):
        return found
    return AudioError(f"{utterance.path}: Apache Beam's workers could not read it; can they see the file?")


def _build(builder: Any, **download: Any) -> None:
    """download_and_prepare, whose messages would only repeat ours."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**download))
    except (OSError, RuntimeError) as error:  # what array_record raises where the disk is full
        raise RunError(f"cannot write the records: {one_line(error)}") from error
    except Exception as error:
        if not download or isinstance(error, DslstmError):
            raise
        raise RunError(f"Apache Beam: {one_line(error)}") from error
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
        raise ConfigError(f"--beam-runner {runner}: {one_line(error)}") from error
    return {"beam_runner": found, "beam_options": PipelineOptions(flags=[])}  # our flags are not Beam's


def _check_same(folder: Path, made_of: Mapping[str, Any], named: Mapping[str, Utterance], on_error: str) -> int:
    """Makes sure that a folder holds what would be made now; the number of its examples."""
    mend = "delete it or give another --output"
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        before, left_out = flatten({name: metadata[name] for name in made_of}), metadata["left_out"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{folder} is there already, and not by dslstm prepare; {mend}") from error
    now = flatten(json.loads(to_json(made_of)))
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


def _move(made: Path, folder: Path) -> None:
    """Puts a finished folder in its place, in one step, when all of it has reached the disk."""
    make_folder(folder.parent)
    with run_errors(f"cannot write {folder}"):
        for path in made.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        made.rename(folder)


def _remove(folder: Path) -> None:
    with run_errors(f"cannot remove {folder}"), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Makes the folder and keeps other processes out of it, until the block or this process ends."""
    make_folder(work)
    with run_errors(f"cannot write in {work}"):
        lock = (work / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another dslstm prepare is at work in {work}; wait for it") from error
        except OSError:  # a file system without locks
            pass
        yield

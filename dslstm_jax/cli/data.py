"""dslstm corpora, prepare."""

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dslstm_jax.config import CorpusConfig
from dslstm_jax.errors import ConfigError


@dataclass(frozen=True)
class Corpora:
    """List the known corpora, or count and draw what a local copy of one holds."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")] = ""
    """The corpus to count; without it, all are listed."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Picture of the labels of each speaker and of the durations; by default NAME.png."""
    corpus: CorpusConfig = CorpusConfig(name="")


@dataclass(frozen=True)
class Prepare:
    """Write a corpus as records (tensorflow-datasets, ArrayRecord), which are read without decoding.

    The corpus `records` reads them: dslstm train CONFIG.py --corpus.name records --corpus.root FOLDER.
    """

    output: Path
    """Where the folder of the records is made. tensorflow-datasets calls it data_dir."""
    sample_rate: int = 16_000
    """Hertz; recordings at other rates are resampled to it."""
    longest: float = 60.0
    """Seconds; a longer recording cannot be used: cut it into utterances."""
    on_error: Literal["stop", "skip"] = "stop"
    """Whether recordings that cannot be used stop the command or are left out. All of them are named. stop: no
    records are made."""
    beam_runner: str | None = None
    """Decode in Apache Beam's workers under this runner, such as DirectRunner."""
    corpus: CorpusConfig = CorpusConfig()
    """Which recordings to write."""


def describe_corpora(arguments: Corpora) -> int:
    """dslstm corpora"""
    from dslstm_jax.data.corpora import CORPORA, load_corpus
    from dslstm_jax.data.summary import find_duplicates, read_headers
    from dslstm_jax.reporting.corpus import draw_corpus, format_counts, format_headers
    from dslstm_jax.reporting.tables import align

    config = replace(arguments.corpus, name=arguments.name or arguments.corpus.name)
    if not config.name and not config.parts:
        if config != CorpusConfig(name=""):
            raise ConfigError("which corpus? give its name: dslstm corpora NAME --corpus.root DIR")
        abouts = [(name, module.ABOUT) for name, module in CORPORA.items()]
        rows = [(name, about.license, about.source, about.root) for name, about in abouts]
        print(align([("name", "license", "source", "--corpus.root"), *rows], left=4))
        return 0
    corpus = load_corpus(config)
    headers = read_headers(corpus.utterances)
    print(format_counts(corpus))
    print(format_headers(headers))
    problems = [*map(str, headers.errors), *find_duplicates(headers.readable)]
    print(f"problems: {len(problems) or 'none'}", flush=True)
    for problem in problems:
        print(f"dslstm corpora: {problem}", file=sys.stderr)
    picture = arguments.output or Path(f"{corpus.name}.png")
    draw_corpus(corpus, headers, picture)
    print(f"picture: {picture}")
    return 1 if problems else 0


def prepare_records(arguments: Prepare) -> int:
    """dslstm prepare"""
    from rich.console import Console

    from dslstm_jax.data.tfds.prepare import prepare

    options = {**vars(arguments), "console": Console(stderr=True)}
    prepared = prepare(options.pop("corpus"), **options)
    left_out = f", {len(prepared.errors)} left out" if prepared.errors else ""
    print(f"{prepared.utterances} utterances{left_out}" + ("" if prepared.made else "; nothing to do"))
    print(f"records: {prepared.folder}")
    flags = ["--corpus.name", "records", "--corpus.root", str(prepared.folder)]
    if arguments.sample_rate != 16_000:
        flags += ["--features.sample-rate", str(arguments.sample_rate)]
    print("try:", shlex.join(["dslstm", "train", "configs/dual_level.py", *flags, "--workdir", "runs/records"]))
    return 1 if prepared.errors else 0

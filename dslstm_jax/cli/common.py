"""What several commands do."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dslstm_jax.config import Config

if TYPE_CHECKING:
    from dslstm_jax.data.dataset import Dataset


def read_dataset(config: Config) -> "Dataset":
    """The dataset of a run; each recording that cannot be used is named on stderr."""
    from rich.console import Console

    from dslstm_jax.data.corpora import load_corpus
    from dslstm_jax.data.dataset import make_dataset
    from dslstm_jax.util.progress import progress_bar

    corpus = load_corpus(config.corpus)
    with progress_bar(Console(stderr=True), "reading", len(corpus.utterances)) as done:
        return make_dataset(corpus, config, done=done, report=lambda error: print(error, file=sys.stderr))


def _absolute(path: str | None) -> str | None:
    return path and str(Path(path).expanduser().resolve())


def with_absolute_paths(config: Config) -> Config:
    """The config with its files named so that the run folder can be used from anywhere."""
    protocol = config.split.protocol
    if protocol.endswith(".json"):
        protocol = str(_absolute(protocol))
    corpus = config.corpus.with_paths(_absolute)
    return replace(config, corpus=corpus, split=replace(config.split, protocol=protocol))

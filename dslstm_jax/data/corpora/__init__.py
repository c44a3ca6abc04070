"""Every corpus by name; one small module each, with `load(config) -> Corpus`, which lists files and decodes none."""

import difflib
from collections.abc import Callable

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora import emodb, iemocap, manifest, ravdess, synthetic
from dslstm_jax.data.corpora.base import Corpus, Utterance
from dslstm_jax.errors import CorpusError

__all__ = ["CORPORA", "Corpus", "Utterance", "load_corpus"]

CORPORA: dict[str, Callable[[CorpusConfig], Corpus]] = {
    "emodb": emodb.load,
    "iemocap": iemocap.load,
    "manifest": manifest.load,
    "ravdess": ravdess.load,
    "synthetic": synthetic.load,
}


def load_corpus(config: CorpusConfig) -> Corpus:
    """The corpus that `config.name` names.

    Raises:
      CorpusError: no such corpus, or its files are not as it needs them.
    """
    if config.name not in CORPORA:
        nearest = difflib.get_close_matches(config.name.lower(), CORPORA, n=1, cutoff=0.5)
        guess = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise CorpusError(f"no corpus {config.name!r}; {guess}there are: {', '.join(CORPORA)}")
    return CORPORA[config.name](config)

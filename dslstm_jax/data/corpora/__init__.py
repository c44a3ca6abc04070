"""Every corpus by name; one small module each, whose `load` lists files and decodes none."""

import difflib
from typing import Protocol

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora import crema_d, emodb, iemocap, manifest, ravdess, savee, synthetic
from dslstm_jax.data.corpora.base import About, Corpus, Utterance
from dslstm_jax.errors import CorpusError

__all__ = ["CORPORA", "About", "Corpus", "Utterance", "load_corpus"]


class CorpusModule(Protocol):
    """What each module gives."""

    ABOUT: About

    def load(self, config: CorpusConfig) -> Corpus: ...


CORPORA: dict[str, CorpusModule] = {
    "crema_d": crema_d,
    "emodb": emodb,
    "iemocap": iemocap,
    "manifest": manifest,
    "ravdess": ravdess,
    "savee": savee,
    "synthetic": synthetic,
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
    return CORPORA[config.name].load(config)

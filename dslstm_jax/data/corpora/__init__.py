"""Every corpus by name; one small module each, whose `load` lists files and decodes none."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora import crema_d, emodb, iemocap, manifest, ravdess, records, savee, synthetic
from dslstm_jax.data.corpora.base import About, Corpus, Utterance, apply_labels, split_list
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
    "records": records,
    "savee": savee,
    "synthetic": synthetic,
}


def load_corpus(config: CorpusConfig) -> Corpus:
    """The corpus that `config.name` names, or those of `config.names` as one, under the labels that
    `config.label_map` and `config.labels` ask for.

    Raises:
      CorpusError: no such corpus, its files are not as it needs them, or it has no such labels.
    """
    names = split_list(config.names)
    return apply_labels(_join(names, config) if names else _load_one(config), config)


def _join(names: Sequence[str], config: CorpusConfig) -> Corpus:
    """Several corpora as one. Speaker 03 of one is not speaker 03 of another: they become emodb/03 and ravdess/03."""
    if config.root is not None:
        raise CorpusError(
            "--corpus.root is the folder of one corpus; with --corpus.names give --corpus.roots DIR DIR"
        )
    if config.roots and len(config.roots) != len(names):
        raise CorpusError(
            f"--corpus.roots names {len(config.roots)} folders for the {len(names)} corpora of --corpus.names; "
            "give one for each, in the same order"
        )
    corpora = [
        _load_one(replace(config, name=name, root=root))
        for name, root in zip(names, config.roots or (None,) * len(names), strict=True)
    ]
    joined = [corpus.name for corpus in corpora]
    if len(set(joined)) < len(joined):  # two of records can hold different corpora
        raise CorpusError(f"--corpus.names {','.join(names)}: name each corpus once")

    def apart(corpus: Corpus, name: str | None) -> str | None:
        return name and f"{corpus.name}/{name}"

    return Corpus(
        name="+".join(joined),
        labels=tuple(dict.fromkeys(label for corpus in corpora for label in corpus.labels)),
        utterances=tuple(
            replace(
                utterance,
                speaker=apart(corpus, utterance.speaker),
                session=apart(corpus, utterance.session),
                corpus=corpus.name,
            )
            for corpus in corpora
            for utterance in corpus.utterances
        ),
    )


def _load_one(config: CorpusConfig) -> Corpus:
    """The corpus that `config.name` names, under its own labels."""
    if config.name not in CORPORA:
        nearest = difflib.get_close_matches(config.name.lower(), CORPORA, n=1, cutoff=0.5)
        guess = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise CorpusError(f"no corpus {config.name!r}; {guess}there are: {', '.join(CORPORA)}")
    return CORPORA[config.name].load(config)

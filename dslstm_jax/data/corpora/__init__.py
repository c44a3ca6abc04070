"""Every corpus by name: a small module or a row of `acted` each, whose `load` lists files and decodes none."""

from dataclasses import replace
from types import ModuleType

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.corpora import iemocap, manifest, records, synthetic
from dslstm_jax.data.corpora.acted import CREMA_D, EMODB, RAVDESS, SAVEE, ActedCorpus
from dslstm_jax.data.corpora.base import About, Corpus, Utterance, apply_labels, did_you_mean
from dslstm_jax.errors import CorpusError

__all__ = ["CORPORA", "About", "Corpus", "Utterance", "load_corpus"]


CORPORA: dict[str, ModuleType | ActedCorpus] = {
    "crema_d": CREMA_D,
    "emodb": EMODB,
    "iemocap": iemocap,
    "manifest": manifest,
    "ravdess": RAVDESS,
    "records": records,
    "savee": SAVEE,
    "synthetic": synthetic,
}
"""Each has ABOUT and load(config)."""


def load_corpus(config: CorpusConfig) -> Corpus:
    """The corpus that `config.name` names, or those of `config.parts` as one, under the labels that
    `config.label_map` and `config.labels` ask for.

    Raises:
      CorpusError: no such corpus, its files are not as it needs them, or it has no such labels.
    """
    return apply_labels(_join(config) if config.parts else _load_one(config), config)


def _join(config: CorpusConfig) -> Corpus:
    """Several corpora as one. Speaker 03 of one is not speaker 03 of another: they become emodb/03 and ravdess/03."""
    for field in ("root", "manifest", "columns"):
        if getattr(config, field):
            raise CorpusError(
                f"--corpus.{field} is of one corpus; with several give each its folder: "
                f"--corpus.parts {' '.join(f'{part.name}=DIR' for part in config.parts)}"
            )
    corpora = [_load_part(part, config) for part in config.parts]
    joined = [corpus.name for corpus in corpora]
    if len(set(joined)) < len(joined):  # two of records can hold different corpora
        raise CorpusError(f"--corpus.parts {' '.join(joined)}: name each corpus once")

    return Corpus(
        name="+".join(joined),
        labels=tuple(dict.fromkeys(label for corpus in corpora for label in corpus.labels)),
        utterances=tuple(utterance for corpus in corpora for utterance in corpus.utterances),
    )


def _load_part(part: CorpusConfig, whole: CorpusConfig) -> Corpus:
    """One of several corpora under its own labels, of which the whole knows more."""
    known = replace(part, label_map=part.label_map + whole.label_map, labels=part.labels or whole.labels)
    corpus = apply_labels(_load_one(known), part)

    def apart(name: str | None) -> str | None:
        return name and f"{corpus.name}/{name}"

    utterances = tuple(
        replace(one, speaker=apart(one.speaker), session=apart(one.session), corpus=corpus.name)
        for one in corpus.utterances
    )
    return replace(corpus, utterances=utterances)


def _load_one(config: CorpusConfig) -> Corpus:
    """The corpus that `config.name` names, under its own labels."""
    if config.name not in CORPORA:
        guess = did_you_mean(config.name, CORPORA)
        raise CorpusError(f"no corpus {config.name!r}{guess} there are: {', '.join(CORPORA)}")
    return CORPORA[config.name].load(config)

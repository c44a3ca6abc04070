"""A corpus that has been looked through: every recording usable, its length known, and who is on which side."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from dslstm_jax.config import Config
from dslstm_jax.data.corpora import Corpus
from dslstm_jax.data.index import measure
from dslstm_jax.data.splits import Split, choose_fold, make_folds
from dslstm_jax.errors import AudioError, CorpusError


@dataclass(frozen=True)
class Dataset:
    """What training and evaluation read."""

    corpus: Corpus
    lengths: tuple[int, ...]
    """Samples of each utterance at features.sample_rate, without what features.trim cuts off."""
    split: Split


def make_dataset(
    corpus: Corpus,
    config: Config,
    *,
    done: Callable[[], None] = lambda: None,
    report: Callable[[AudioError], None] = lambda _: None,
) -> Dataset:
    """Looks at every recording, and deals the usable ones to the sides of the split.

    Args:
      corpus: what config.corpus names.
      config: data, split, sample rate and trimming.
      done: called after each recording.
      report: told of each recording that cannot be used.

    Raises:
      CorpusError: the corpus cannot be split so; or a recording cannot be used and data.on_error is "stop".
    """
    split = _deal(corpus, config)  # what is wrong with it is said before the long look
    measured = measure(
        corpus.utterances, config.features.sample_rate, config.data.longest, config.features.trim, done=done
    )
    if errors := [length for length in measured if isinstance(length, AudioError)]:
        for error in errors:
            report(error)
        count = f"{len(errors)} of {len(corpus.utterances)} recordings cannot be used"
        if config.data.on_error == "stop":
            raise CorpusError(f"{count}; mend or remove them, or leave them out with --data.on-error skip")
        pairs = zip(corpus.utterances, measured, strict=True)
        corpus = replace(corpus, utterances=tuple(one for one, length in pairs if isinstance(length, int)))
        for label, left in corpus.counts().items():
            if left == 0:
                raise CorpusError(f"{count}, and without them no {label!r} is left; mend them")
        split = _deal(corpus, config)
    return Dataset(corpus, tuple(length for length in measured if isinstance(length, int)), split)


def _deal(corpus: Corpus, config: Config) -> Split:
    split = config.split
    folds = make_folds(corpus.utterances, split.protocol, split.seed, validation=split.validation)
    return choose_fold(folds, split.fold)

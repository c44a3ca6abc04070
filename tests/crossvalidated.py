"""A cross-validation's results without any training."""

import numpy as np

from dslstm_jax.config import Config, SplitConfig
from dslstm_jax.data.corpora import Corpus, Utterance
from dslstm_jax.data.splits import describe, make_folds
from dslstm_jax.evaluation.results import Outcome, summarize
from dslstm_jax.reporting.crossval_report import write_results

LABELS = ("happy", "sad")
ENVIRONMENT = {
    "commit": None,
    "command": ["dslstm"],
    "python": "3.11",
    "processor": "abacus",
    "cores": 1,
    "packages": {},
    "devices": ["cpu"],
}


def crossed(folder, *, wrong, seeds=2, labels=LABELS, protocol="speaker3", drop=(), shuffle=False, corpora=""):
    """Results in `folder` of six speakers with four utterances of each label; every `wrong`th answer is wrong."""
    utterances = [
        Utterance(f"{speaker}/{label}{take}.wav", label, speaker, corpus=corpora[place : place + 1] or None)
        for place, speaker in enumerate("abcdef")
        for label in labels
        for take in range(4)
        if f"{speaker}/{label}{take}.wav" not in drop
    ]
    if shuffle:
        utterances = utterances[::-1]
    corpus = Corpus("made", labels, tuple(utterances))
    splits = make_folds(utterances, protocol, 0)
    outcomes = []
    for fold, split in enumerate(splits):
        for seed in range(seeds):
            truths = np.array([labels.index(utterances[member].label) for member in split.test])
            names = [utterances[member].path for member in split.test]
            order = np.argsort(np.argsort(names))
            answers = np.where((order + seed) % wrong == 0, 1 - truths, truths)
            outcomes.append(Outcome(fold, seed, 1, split.test, 0.1 + 0.8 * np.eye(len(labels))[answers]))
    config = Config(split=SplitConfig(protocol))
    folds = [describe(utterances, split) for split in splits]
    records = [[{"epoch": 1, "train_loss": 1.0, "validation_ua": None}] for _ in outcomes]
    results = summarize(corpus, folds, outcomes, config, ENVIRONMENT, None)
    write_results(folder / "report", results, records, title="made")
    return folder

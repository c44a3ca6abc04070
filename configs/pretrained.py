"""The recipe of configs/robust.py on EmoDB and RAVDESS, for four emotions: the model of the package.

    dslstm train configs/pretrained.py --corpus.roots EMODB RAVDESS --workdir runs/pretrained
    dslstm export runs/pretrained --output dslstm_jax/pretrained/model.dslstm

RAVDESS's calm counts as neutral. Other emotions are left out.
"""

from dataclasses import replace
from pathlib import Path

from dslstm_jax.config import CorpusConfig, load_config

config = replace(
    load_config(str(Path(__file__).with_name("robust.py"))),
    corpus=CorpusConfig(
        names=("emodb", "ravdess"),
        label_map=("calm=neutral",),
        labels=("happy", "neutral", "angry", "sad"),
    ),
)

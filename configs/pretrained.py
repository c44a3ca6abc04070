"""The package's model: configs/robust.py on EmoDB and RAVDESS, for four emotions, but able to stream.

    dslstm train configs/pretrained.py --corpus.roots EMODB RAVDESS --workdir runs/pretrained
    dslstm export runs/pretrained --output dslstm_jax/pretrained/model.dslstm

RAVDESS's calm counts as neutral. Other emotions are left out. A recording that is still coming in has no mean yet, so
features are normalized over the corpus.
"""

from dataclasses import replace
from pathlib import Path

from dslstm_jax.config import CorpusConfig, load_config

robust = load_config(str(Path(__file__).with_name("robust.py")))
config = replace(
    robust,
    corpus=CorpusConfig(
        names=("emodb", "ravdess"),
        label_map=("calm=neutral",),
        labels=("happy", "neutral", "angry", "sad"),
    ),
    model=replace(robust.model, normalize="corpus"),
    training=replace(robust.training, epochs=30, learning_rate=1.5e-3),
)

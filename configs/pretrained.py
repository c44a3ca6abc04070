"""The package's model: a smaller configs/robust.py on EmoDB and RAVDESS, for four emotions, which can stream.

    dslstm train configs/pretrained.py --corpus.parts emodb=EMODB ravdess=RAVDESS --workdir runs/pretrained
    dslstm export runs/pretrained --output dslstm_jax/pretrained/model.dslstm

RAVDESS's calm counts as neutral. Other emotions are left out. A recording that is still coming in has no mean, peak
or end yet, so features are normalized over the corpus, silence is not cut off, and recurrences run one way.
"""

from dataclasses import replace
from pathlib import Path

from dslstm_jax.config import CorpusConfig, load_config

robust = load_config(str(Path(__file__).with_name("robust.py")))
config = replace(
    robust,
    corpus=CorpusConfig(
        parts=(CorpusConfig("emodb"), CorpusConfig("ravdess")),
        label_map=("calm=neutral",),
        labels=("happy", "neutral", "angry", "sad"),
    ),
    augmentation=replace(robust.augmentation, speed=0.1, frequency_masks=2, time_masks=2, mixup=0.0),
    features=replace(robust.features, trim=0.0, pitch=False),
    model=replace(robust.model, channels=(8, 16), normalize="corpus", bidirectional=False),
    training=replace(robust.training, epochs=30, learning_rate=1.5e-3),
)

"""A small dual-level model on the synthetic voices: a look at the whole system in about two minutes on two cores.

    dslstm train configs/quickstart.py --workdir runs/quickstart

The architecture is the paper's with fewer channels and units. It downloads nothing.
"""

from dslstm_jax.config import Config, CorpusConfig, ModelConfig, TrainingConfig

config = Config(
    corpus=CorpusConfig(name="synthetic"),
    model=ModelConfig(channels=(8, 8), hidden=32, mfcc_hidden=32),
    training=TrainingConfig(epochs=12, batch_size=16),
)

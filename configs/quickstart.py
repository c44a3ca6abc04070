"""A small dual-level model on the synthetic voices: the whole system in about a minute and a half on two cores.

    dslstm train configs/quickstart.py --workdir runs/quickstart

The architecture is the paper's with fewer channels and units. It downloads nothing.
"""

from dslstm_jax.config import Config, CorpusConfig, DataConfig, ModelConfig, SyntheticConfig, TrainingConfig

config = Config(
    corpus=CorpusConfig(name="synthetic", synthetic=SyntheticConfig(speakers=20)),
    data=DataConfig(max_padding=1.0),  # one program: here compiling takes longer than padding
    model=ModelConfig(channels=(8, 8), hidden=32, mfcc_hidden=32),
    training=TrainingConfig(epochs=12, batch_size=16, halve_after=(6, 9)),
)

"""The paper's dual-level model (Wang et al. 2020, figure 2) for a corpus of some hundred utterances.

    dslstm train configs/dual_level.py --corpus.name emodb --corpus.root DIR --workdir RUN

Model and optimizer are the paper's; validation speakers choose the epoch. Two values differ, for the corpus is small:
an epoch over 200 utterances in batches of 128 would be two steps, and 25 epochs learn the training set by heart.
"""

from dslstm_jax.config import Config, TrainingConfig

config = Config(training=TrainingConfig(epochs=25, batch_size=32))

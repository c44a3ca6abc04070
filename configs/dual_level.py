"""The paper's dual-level model (PAPER, figure 2) for corpora of some hundred utterances, chosen by validation.

    dslstm train configs/dual_level.py --corpus.name emodb --corpus.root DIR --workdir RUN

Everything but the batch size is the paper's: with its 128 an epoch over 200 utterances would be two steps.
"""

from dslstm_jax.config import Config, TrainingConfig

config = Config(training=TrainingConfig(batch_size=32))

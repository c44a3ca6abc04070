"""The eight rows of the paper's table (Wang et al. 2020, table 1), by name: FILE:ROW picks one.

    dslstm train configs/paper.py:dual_level --corpus.name iemocap --corpus.root DIR --workdir RUN

Training as in the authors' code: Adam 1e-3, halved after epochs 10, 20 and 30; 50 epochs; batch 128.
"""

from dslstm_jax.config import SPECTROGRAM_512, SPECTROGRAM_1024, Config, CorpusConfig, FeaturesConfig, ModelConfig

KERNEL_512, KERNEL_1024 = (4, 2), (2, 4)
IEMOCAP = CorpusConfig(name="iemocap")
ONLY_512 = FeaturesConfig(spectrograms=(SPECTROGRAM_512,))
ONLY_1024 = FeaturesConfig(spectrograms=(SPECTROGRAM_1024,))

m_lstm = Config(IEMOCAP, model=ModelConfig(spectrogram_branch="none"))
cnn_lstm_512 = Config(IEMOCAP, features=ONLY_512, model=ModelConfig("lstm", mfcc_branch=False, kernels=(KERNEL_512,)))
cnn_lstm_1024 = Config(
    IEMOCAP, features=ONLY_1024, model=ModelConfig("lstm", mfcc_branch=False, kernels=(KERNEL_1024,))
)
cnn_lstm_both = Config(IEMOCAP, model=ModelConfig("lstm", mfcc_branch=False))
cnn_lstm_512_plus_m_lstm = Config(IEMOCAP, features=ONLY_512, model=ModelConfig("lstm", kernels=(KERNEL_512,)))
cnn_lstm_both_plus_m_lstm = Config(IEMOCAP, model=ModelConfig("lstm"))
m_ds_lstm = Config(IEMOCAP, model=ModelConfig("ds_lstm", mfcc_branch=False))
dual_level = Config(IEMOCAP)

"""Towards a recipe for unknown speakers: the paper's architecture, smaller, regularized, and with time as it is.

    dslstm crossval configs/robust.py --corpus.name emodb --corpus.root DIR --protocol speaker5 --workdir RUN

It is being worked on: no score is published yet, and the values will change.
"""

from dslstm_jax.config import (
    AugmentationConfig,
    Config,
    DataConfig,
    FeaturesConfig,
    ModelConfig,
    SpectrogramConfig,
    TrainingConfig,
)

config = Config(
    data=DataConfig(max_lengths=3),
    augmentation=AugmentationConfig(noise=0.5, gain=6.0, speed=0.1, frequency_masks=2, time_masks=2),
    features=FeaturesConfig(
        spectrograms=(
            SpectrogramConfig(n_fft=512, hop_length=256, mel_bands=64, frames=0),
            SpectrogramConfig(n_fft=1024, hop_length=512, mel_bands=128, frames=0),
        )
    ),
    model=ModelConfig(
        channels=(16, 16),
        hidden=64,
        mfcc_hidden=64,
        dropout=0.4,
        normalize="corpus",
        pooling="attention",
        recurrent_norm="none",
    ),
    training=TrainingConfig(
        epochs=50,
        batch_size=16,
        learning_rate=2e-3,
        schedule="cosine",
        warmup=3.0,
        weight_decay=0.02,
        clip_norm=1.0,
        label_smoothing=0.1,
        class_weights="balanced",
        ema_decay=0.99,
        choose_over=10,
    ),
)

"""Towards a recipe for unknown speakers: the paper's architecture, smaller, regularized, and with time as it is.

    dslstm crossval configs/robust.py --corpus.name emodb --corpus.root DIR --protocol speaker5 --workdir RUN

It is being worked on, and the values may change: BENCHMARKS.md has scores, and says of which values. The silence
around the speech is cut off, and the pitch stands beside the MFCC. Each utterance is normalized by its own mean and
deviation, so that neither the level nor the channel of a recording counts, and the recurrences run both ways; it
therefore cannot stream, as configs/pretrained.py can. The spectrograms are not masked: under masks their CNN learns
too little. It is small, to be trained in minutes; on EmoDB the paper's 200 units are better, in twice the time:
--model.hidden 200 --model.mfcc-hidden 200.

configs/robust.py:studio is for recordings like EmoDB's, from one studio and at one distance: noise, changes of
loudness and dropout, together, hold it back there, and are left out. On RAVDESS it is worse than the recipe. Where
speakers are as few, --training.choose refit lets those that validate train, too.

configs/robust.py:known_speakers is for speakers who are heard in training: how loud and how high one of them speaks
then says something. Recordings are normalized together, their level stays as it is and their pitch nearly so. The
MFCC have 20 cepstra instead of 12; noise and dropout hold back here, too, and are left out. The last epoch counts,
and nothing is held back to choose another.

configs/robust.py:stretched, :step_norm and :finer change an element each, for the tables: the paper's stretched
spectrograms, with these the paper's normalization, and windows of half the length.
"""

from dataclasses import replace

from dslstm_jax.config import (
    AugmentationConfig,
    Config,
    DataConfig,
    FeaturesConfig,
    MfccConfig,
    ModelConfig,
    SpectrogramConfig,
    SplitConfig,
    TrainingConfig,
)

config = Config(
    data=DataConfig(max_lengths=3),
    augmentation=AugmentationConfig(noise=0.5, gain=6.0, speed=0.15, mixup=0.2),
    features=FeaturesConfig(
        trim=35.0,
        pitch=True,
        mfcc=MfccConfig(hop_length=320),
        spectrograms=(
            SpectrogramConfig(n_fft=512, hop_length=320, mel_bands=40, frames=0),
            SpectrogramConfig(n_fft=1024, hop_length=640, mel_bands=80, frames=0),
        ),
    ),
    model=ModelConfig(
        channels=(16, 32, 32),
        hidden=64,
        mfcc_hidden=64,
        dropout=0.3,
        normalize="utterance",
        pooling="attention",
        recurrent_norm="none",
        bidirectional=True,
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
        ema_decay=0.95,
        choose_over=5,
    ),
)

studio = replace(
    config,
    augmentation=replace(config.augmentation, noise=0.0, gain=0.0),
    model=replace(config.model, dropout=0.0),
)

known_speakers = replace(
    studio,
    split=SplitConfig(protocol="random10", validation=False),
    augmentation=replace(studio.augmentation, speed=0.05),
    features=replace(studio.features, mfcc=replace(studio.features.mfcc, mel_bands=40, cepstra=20)),
    model=replace(studio.model, normalize="corpus"),
    training=replace(studio.training, choose="last"),
)

fine, coarse = config.features.spectrograms
stretched = replace(
    config, features=replace(config.features, spectrograms=(replace(fine, frames=230), replace(coarse, frames=120)))
)
step_norm = replace(stretched, model=replace(stretched.model, recurrent_norm="step"))
finer = replace(
    config,
    features=replace(
        config.features,
        spectrograms=(
            SpectrogramConfig(n_fft=256, hop_length=160, mel_bands=20, frames=0),
            SpectrogramConfig(n_fft=512, hop_length=320, mel_bands=40, frames=0),
        ),
    ),
)

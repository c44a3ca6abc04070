"""A recognizer small enough to train within a test, and a corpus of tones it can learn."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from dslstm_jax.config import (
    Config,
    CorpusConfig,
    DataConfig,
    FeaturesConfig,
    ModelConfig,
    SpectrogramConfig,
    SplitConfig,
    TrainingConfig,
)

SPECTROGRAMS = (SpectrogramConfig(512, 256, 16, 60), SpectrogramConfig(1024, 512, 32, 32))
FEATURES = FeaturesConfig(spectrograms=SPECTROGRAMS)
MODEL = ModelConfig(channels=(3, 2), hidden=6, mfcc_hidden=6, layers=1)
SPEAKERS = ("03", "08", "09", "10", "11", "12")


def tiny_config(root: Path | str, **changes: Any) -> Config:
    """Four epochs over the tones, three folds of speakers; batches of one length, for each is programs to compile."""
    config = Config(
        corpus=CorpusConfig(name="emodb", root=str(root)),
        split=SplitConfig(protocol="speaker3"),
        data=DataConfig(max_padding=0.3),
        features=FEATURES,
        model=MODEL,
        training=TrainingConfig(epochs=4, batch_size=4, learning_rate=0.02),
    )
    return replace(config, **changes)


def write_config(path: Path, config: Config) -> Path:
    """A config file, as a user would have it."""
    path.write_text(f"from dslstm_jax.config import *\n\nconfig = {config!r}\n")
    return path


def write_tones(root: Path) -> Path:
    """An EmoDB tree whose emotions are pitches; speakers differ a little; 0.3 to 0.6 seconds."""
    (root / "wav").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for speaker_number, speaker in enumerate(SPEAKERS):
        for emotion, pitch in {"F": 900, "N": 300, "W": 2500, "T": 120}.items():
            for text in ("a01", "a02"):
                time = np.arange(int(generator.uniform(0.3, 0.6) * 16_000)) / 16_000
                tone = np.sin(2 * np.pi * pitch * (1 + 0.03 * speaker_number) * time)
                samples = 0.3 * tone + 0.02 * generator.normal(size=time.size)
                soundfile.write(root / "wav" / f"{speaker}{text}{emotion}a.wav", samples, 16_000, subtype="PCM_16")
    return root


def read_figures(run: Path) -> list[dict[str, float]]:
    """metrics.jsonl of a run folder without the speed, which no two runs share."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "utterances_per_second"} for row in rows]

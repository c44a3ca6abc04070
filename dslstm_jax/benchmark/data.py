"""How fast recordings become batches, against what the training step consumes, and whether the two overlap."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import soundfile
from rich.console import Console

from dslstm_jax.benchmark.measure import Contender, race
from dslstm_jax.config import Config, CorpusConfig, SplitConfig
from dslstm_jax.data.batches import Batch
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.dataset import make_dataset
from dslstm_jax.data.pipeline import Loader, make_loader
from dslstm_jax.data.tfds.prepare import prepare
from dslstm_jax.ops.metrics import Totals
from dslstm_jax.reporting.benchmark import Report, Row
from dslstm_jax.runs.state import TrainState
from dslstm_jax.training.step import StepConfig, create_state, make_optimizer, train_step

Step = Callable[[Batch], tuple[TrainState, Totals]]
SECONDS = (2.5, 4.5)
"""Shortest and longest of the recordings, about RAVDESS's."""
SPEAKERS = 4
UTTERANCES = 512
STEPS = 8
"""Training steps that are timed."""
EPOCHS = 5
"""Epochs of reading that are timed."""


def benchmark_data(config: Config, folder: Path) -> Report:
    """Times the host's part of training: decode, resample, bucket, batch.

    Args:
      config: what is trained; its batch size and padded lengths are used, its corpus is not.
      folder: an empty one, which takes the recordings: noise, in three forms.
    """
    optimizer = make_optimizer(config.training, STEPS)
    compiled = jax.jit(partial(train_step, config=StepConfig.of(config), optimizer=optimizer))
    step = partial(compiled, create_state(config, 2, optimizer))
    loaders = {form: make_loader_of(corpus, config) for form, corpus in write_recordings(folder).items()}
    ready = list(loaders["16 kHz WAV"].batches((0, 0)))
    jax.block_until_ready([step(batch) for batch in ready])  # compiles for every length
    alone, _ = _time_steps([ready[0], *ready[:STEPS]], step)
    rows = [_row(form, loader, step, alone) for form, loader in loaders.items()]
    size = f"{UTTERANCES} recordings of {SECONDS[0]} to {SECONDS[1]} s, batches of {config.training.batch_size}"
    notes = (
        f"{size}. `reading` is the pipeline alone (median of {EPOCHS} epochs), `step` the training step alone on "
        f"batches that lie ready (mean of {STEPS}), `both` the step while the pipeline reads the next batches, "
        "`waited` the part of it in which no batch was ready; all for one batch.",
    )
    return Report("data", notes, rows)


def write_recordings(folder: Path) -> dict[str, CorpusConfig]:
    """Noise of the same lengths as 48 kHz WAV, 16 kHz WAV and ArrayRecord."""
    generator = np.random.default_rng(0)
    lengths = (generator.uniform(*SECONDS, size=UTTERANCES) * 16_000).astype(int)
    corpora = {}
    for times in (3, 1):
        rate = times * 16_000
        root = folder / f"{rate}"
        root.mkdir()
        lines = ["path,label,speaker"]
        for number, length in enumerate(lengths):
            samples = 0.1 * generator.standard_normal(times * length, dtype=np.float32)
            soundfile.write(root / f"{number:05}.wav", samples, rate, subtype="PCM_16")
            lines.append(f"{number:05}.wav,{'sad' if number % 2 else 'happy'},{number // 2 % SPEAKERS}")
        (root / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        corpora[f"{rate // 1000} kHz WAV"] = CorpusConfig(name="manifest", manifest=str(root / "manifest.csv"))
    records = prepare(corpora["16 kHz WAV"], folder / "records", console=Console(quiet=True))
    return {**corpora, "ArrayRecord": CorpusConfig(name="records", root=str(records.folder))}


def make_loader_of(corpus: CorpusConfig, config: Config) -> Loader:
    """All utterances of a corpus, in the batches of the config."""
    dataset = make_dataset(load_corpus(corpus), Config(split=SplitConfig("speaker3"), features=config.features))
    from_files = replace(config, data=replace(config.data, keep="files"))
    return make_loader(dataset, range(len(dataset.lengths)), from_files, config.training.batch_size)


def _row(form: str, loader: Loader, step: Step, alone: float) -> Row:
    def read() -> None:
        for _ in loader.batches((0, 0), place=lambda batch: batch):
            pass

    (reading,) = race([Contender("", read)], EPOCHS, limit=math.inf)
    both, waited = _time_steps(islice(loader.batches((0, 0)), STEPS + 1), step)
    return {
        "recordings": form,
        "utterances/s": len(loader.members) / reading.median,
        "p10": len(loader.members) / reading.p90,
        "p90": len(loader.members) / reading.p10,
        "reading ms": 1e3 * reading.median / loader.steps,
        "step ms": 1e3 * alone,
        "reading is faster by": alone / (reading.median / loader.steps),
        "both ms": 1e3 * both,
        "waited ms": 1e3 * waited,
    }


def _time_steps(batches: Iterable[Batch], step: Step) -> tuple[float, float]:
    """Seconds of a step with its batch to wait for, and how much of it was waiting.

    The first batch is not counted: there is nothing yet that it could be read beside.
    """
    waits, ends = [], [time.perf_counter()]
    for batch in batches:
        waits.append(time.perf_counter() - ends[-1])
        jax.block_until_ready(step(batch))
        ends.append(time.perf_counter())
    count = len(waits) - 1
    return (ends[-1] - ends[1]) / count, sum(waits[1:]) / count

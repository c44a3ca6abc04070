"""How fast recordings become batches, against what the training step consumes, and whether the two overlap."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import soundfile
from rich.console import Console

from dslstm_jax.benchmark.harness import Report, Row, clock
from dslstm_jax.config import Config, CorpusConfig, SplitConfig
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.dataset import make_dataset
from dslstm_jax.data.pipeline import Batch, Loader, make_loader
from dslstm_jax.data.records import prepare
from dslstm_jax.training.step import Totals, TrainState, create_state, make_optimizer, train_step

Step = Callable[[TrainState, Batch], tuple[TrainState, Totals]]
SECONDS = (2.5, 4.5)
"""Shortest and longest of the recordings, about RAVDESS's."""
SPEAKERS = 4


def benchmark_data(
    config: Config, folder: Path, *, utterances: int = 512, repeats: int = 5, steps: int = 4
) -> Report:
    """Times the host's part of training: decode, resample, bucket, batch.

    Args:
      config: what is trained; its batch size and padded lengths are used, its corpus is not.
      folder: an empty one, which takes the recordings: noise, in three forms.
      utterances: how many recordings.
      repeats: epochs read of each form.
      steps: training steps taken while reading, and without.
    """
    step = jax.jit(partial(train_step, config=config, optimizer=make_optimizer(config.training, steps)))
    loaders = {form: make_loader_of(corpus, config) for form, corpus in write_recordings(folder, utterances).items()}
    alone, state = _step_alone(loaders["16 kHz WAV"], config, step, steps)
    rows = [_row(form, loader, step, state, alone, repeats, steps) for form, loader in loaders.items()]
    size = f"{utterances} recordings of {SECONDS[0]} to {SECONDS[1]} s, batches of {config.training.batch_size}"
    notes = (
        f"{size}. `reading` is the pipeline alone (median of {repeats} epochs), `step` the training step alone on "
        f"batches that lie ready (mean of {steps}), `both` the step while the pipeline reads the next batches, "
        "`waited` the part of it in which no batch was ready; all for one batch.",
    )
    return Report("data", notes, tuple(rows))


def write_recordings(folder: Path, utterances: int) -> dict[str, CorpusConfig]:
    """The same noises as 48 kHz WAV, 16 kHz WAV and ArrayRecord."""
    corpora = {}
    for rate in (48_000, 16_000):
        root = folder / f"{rate}"
        root.mkdir()
        generator = np.random.default_rng(0)
        lines = ["path,label,speaker"]
        for number in range(utterances):
            samples = 0.1 * generator.standard_normal(round(generator.uniform(*SECONDS) * rate), dtype=np.float32)
            soundfile.write(root / f"{number:05}.wav", samples, rate, subtype="PCM_16")
            lines.append(f"{number:05}.wav,{'sad' if number % 2 else 'happy'},{number // 2 % SPEAKERS}")
        (root / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        corpora[f"{rate // 1000} kHz WAV"] = CorpusConfig(name="manifest", manifest=str(root / "manifest.csv"))
    records = prepare(corpora["16 kHz WAV"], folder / "records", console=Console(quiet=True))
    return {**corpora, "ArrayRecord": CorpusConfig(name="records", root=str(records.folder))}


def make_loader_of(corpus: CorpusConfig, config: Config) -> Loader:
    """All utterances of a corpus, in the batches of the config."""
    dataset = make_dataset(load_corpus(corpus), Config(split=SplitConfig("speaker3"), features=config.features))
    return make_loader(dataset, range(len(dataset.lengths)), config, config.training.batch_size)


def _step_alone(loader: Loader, config: Config, step: Step, steps: int) -> tuple[float, TrainState]:
    """Seconds of a step when batches lie ready, once its programs are compiled; and a state to go on with."""
    state = create_state(config, 2, make_optimizer(config.training, steps))
    batches = list(islice(loader.batches((0, 0)), max(steps, 1)))
    ready = {batch.waveforms.shape: batch for batch in loader.batches((0, 0))}
    for batch in ready.values():
        jax.block_until_ready(step(state, batch))
    started = time.perf_counter()
    for batch in batches:
        state, _ = jax.block_until_ready(step(state, batch))
    return (time.perf_counter() - started) / len(batches), state


def _row(form: str, loader: Loader, step: Step, state: TrainState, alone: float, repeats: int, steps: int) -> Row:
    def read() -> None:
        for _ in loader.batches((0, 0), place=lambda batch: batch):
            pass

    reading = clock(read, repeats)
    both, waited = _step_while_reading(islice(loader.batches((0, 0)), steps), step, state)
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


def _step_while_reading(batches: Iterable[Batch], step: Step, state: TrainState) -> tuple[float, float]:
    """Seconds of a step with the batch before it to wait for, and how much of it was waiting.

    The first batch is not counted: there is nothing yet that it could be read beside.
    """
    iterator = iter(batches)
    state, _ = jax.block_until_ready(step(state, next(iterator)))
    waited, count, started = 0.0, 0, time.perf_counter()
    while True:
        asked = time.perf_counter()
        batch = next(iterator, None)
        waited += time.perf_counter() - asked
        if batch is None:
            break
        state, _ = jax.block_until_ready(step(state, batch))
        count += 1
    return (time.perf_counter() - started) / count, waited / count

"""Waveforms to features, beside librosa and openSMILE; and how their cost grows with the length of a recording."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import numpy as np

from dslstm_jax.benchmark.harness import Report, Row
from dslstm_jax.benchmark.measure import (
    Contender,
    Program,
    compare,
    compile_program,
    measuring_notes,
    noise,
    race,
)
from dslstm_jax.benchmark.peers import LibrosaOpenSmile, installed
from dslstm_jax.config import Config
from dslstm_jax.data.batches import choose_lengths, pad_waveforms, plan_epoch
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.reading import read_utterance
from dslstm_jax.models.recognizer import features_for

UTTERANCES = 64
SECONDS = (1, 10, 60, 600)
"""Lengths of the recordings whose cost is compared."""
PEER = "librosa + openSMILE"


def benchmark_features(config: Config, batch_sizes: Sequence[int], repeats: int) -> Report:
    """Times all features of some utterances in batches as training makes them, and of single recordings.

    Args:
      config: the corpus that utterances are taken from, the features, and how much padding batches may have.
      batch_sizes: utterances side by side.
      repeats: calls that are timed.
    """
    waveforms = read_waveforms(config, UTTERANCES)
    rate = config.features.sample_rate
    peers = []
    if installed("torch", "librosa", "opensmile"):
        peer = LibrosaOpenSmile(config.features)
        peers = [Contender(PEER, lambda: [peer.of(waveform) for waveform in waveforms])]
    seconds = sum(map(len, waveforms)) / rate
    rows: list[Row] = []
    for size in batch_sizes:
        contenders = [our_contender(waveforms, config, size), *peers]
        labels = {"recordings": f"{len(waveforms)} utterances", "batch": size}
        units = {"utterances": len(waveforms), "seconds of sound": seconds}
        rows += compare(labels, contenders, race(contenders, repeats), units)
    for length in SECONDS:
        long = [0.1 * noise(length * rate)]
        contenders = [our_contender(long, config, 1)]
        if peers:
            contenders.append(Contender(PEER, partial(peer.of, long[0])))
        labels = {"recordings": f"{length} s", "batch": 1}
        units = {"utterances": 1, "seconds of sound": length}
        rows += compare(labels, contenders, race(contenders, repeats), units)
    durations = sorted(len(waveform) / rate for waveform in waveforms)
    notes = (
        f"The utterances are of {config.corpus.name}: {durations[0]:.1f} to {durations[-1]:.1f} s, mean "
        f"{seconds / len(durations):.2f} s; the others are noise. Ours takes them in padded batches as training "
        "makes them (`compile s` is of all their programs, `peak MB` of the largest; operations on padding do not "
        "count); the peers take one after the other.",
    )
    return Report("features", (*notes, *measuring_notes()), tuple(rows))


def read_waveforms(config: Config, count: int) -> list[np.ndarray]:
    """Utterances from all over the corpus of a config, all of them if there are fewer."""
    utterances = load_corpus(config.corpus).utterances
    chosen = utterances[:: max(1, len(utterances) // count)][:count]
    return [read_utterance(utterance, config.features.sample_rate, config.data.longest) for utterance in chosen]


def our_contender(waveforms: Sequence[np.ndarray], config: Config, batch_size: int) -> Contender:
    """`features_for` over batches of like length; padding them is part of the work."""
    lengths = [len(waveform) for waveform in waveforms]
    rate, data = config.features.sample_rate, config.data
    padded = choose_lengths(
        lengths, batch_size=batch_size, sample_rate=rate, max_padding=data.max_padding, most=data.max_lengths
    )
    plan = plan_epoch(range(len(waveforms)), lengths, batch_size, padded)
    compute = jax.jit(partial(features_for, config=config.recognizer))
    batches = [([waveforms[member] for member in batch.members], batch_size, batch.length) for batch in plan]
    programs = {
        batch.length: compile_program(compute, *pad_waveforms([], batch_size, batch.length)) for batch in plan
    }
    each = [programs[batch.length] for batch in plan]
    whole = Program.together(each)
    sound = sum(lengths) / sum(batch_size * batch.length for batch in plan)

    def call() -> list[object]:
        return [program.run(*pad_waveforms(*batch)) for program, batch in zip(each, batches, strict=True)]

    return Contender("dslstm_jax", call, replace(whole, operations=sound * whole.operations))

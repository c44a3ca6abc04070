"""Waveforms to features, beside librosa and openSMILE; and how their cost grows with the length of a recording."""

from collections.abc import Sequence
from functools import partial
from statistics import fmean

import jax
import numpy as np

from dslstm_jax.benchmark.measure import (
    CompiledProgram,
    Contender,
    compare_timings,
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
from dslstm_jax.reporting.benchmark import Report, Row

UTTERANCES = 64
SECONDS = (1, 10, 60, 600)
"""Lengths of the recordings whose cost is compared."""


def benchmark_features(config: Config, batch_sizes: Sequence[int], repeats: int) -> Report:
    """Times all features of some utterances in batches as training makes them, and of single recordings.

    Args:
      config: the corpus that utterances are taken from, the features, and how much padding batches may have.
      batch_sizes: utterances side by side.
      repeats: calls that are timed.
    """
    waveforms = read_waveforms(config, UTTERANCES)
    rate = config.features.sample_rate
    cases = [(f"{len(waveforms)} utterances", waveforms, size) for size in batch_sizes]
    cases += [(f"{length} s", [0.1 * noise(length * rate)], 1) for length in SECONDS]
    peer = LibrosaOpenSmile(config.features).of if installed("torch", "librosa", "opensmile") else None
    rows: list[Row] = []
    for recordings, sounds, size in cases:
        contenders = [our_contender(sounds, config, size)]
        if peer is not None:
            contenders.append(Contender("librosa + openSMILE", partial(jax.tree.map, peer, sounds)))
        units = {"utterances": len(sounds), "seconds of sound": sum(map(len, sounds)) / rate}
        labels = {"recordings": recordings, "batch": size}
        rows += compare_timings(labels, contenders, race(contenders, repeats), units)
    durations = [len(waveform) / rate for waveform in waveforms]
    notes = (
        f"The utterances are of {config.corpus.name}: {min(durations):.1f} to {max(durations):.1f} s, mean "
        f"{fmean(durations):.2f} s; the others are noise. Ours takes them in padded batches as training "
        "makes them (`compile s` is of all their programs, `peak MB` of the largest; operations on padding do not "
        "count); the peers take one after the other.",
    )
    return Report("features", (*notes, *measuring_notes()), rows)


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
    programs = {
        length: compile_program(compute, *pad_waveforms([], batch_size, length))
        for length in dict.fromkeys(batch.length for batch in plan)
    }

    def call() -> list[object]:
        batches = [([waveforms[member] for member in batch.members], batch_size, batch.length) for batch in plan]
        return [programs[batch[2]].run(*pad_waveforms(*batch)) for batch in batches]

    each = [programs[batch.length] for batch in plan]
    sound = sum(lengths) / sum(batch_size * batch.length for batch in plan)
    whole = CompiledProgram(
        call,
        compile_seconds=sum(program.compile_seconds for program in programs.values()),
        operations=sound * sum(program.operations for program in each),
        traffic=sum(program.traffic for program in each),
        memory=max(program.memory for program in each),
    )
    return Contender("dslstm_jax", call, whole)

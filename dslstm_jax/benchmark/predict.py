"""One recording from samples to answer, warm; and from the start of a process, with and without kept programs."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import soundfile

from dslstm_jax.benchmark.measure import Contender, compare_timings, compile_program, measuring_notes, noise, race
from dslstm_jax.benchmark.peers import Twin, has_twin
from dslstm_jax.config import Config
from dslstm_jax.data.batches import bucket_length, pad_waveforms
from dslstm_jax.errors import RunError
from dslstm_jax.models.recognizer import initialize
from dslstm_jax.reporting.benchmark import Report
from dslstm_jax.runs.checkpoint import Checkpoints
from dslstm_jax.runs.folder import create_run
from dslstm_jax.serving.predictor import load, predict

LABELS = ("happy", "neutral", "angry", "sad")
SECONDS = 3
COLD_STARTS = 3


def benchmark_predict(config: Config, repeats: int, folder: Path) -> Report:
    """Times the predictor on one recording.

    Args:
      config: features and model; the weights are fresh.
      repeats: recordings that are timed, one after the other.
      folder: an empty one, for a run folder and its programs.
    """
    rate = config.features.sample_rate
    samples = 0.1 * noise(SECONDS * rate)
    run = create_run(folder / "run", config, LABELS, folds={})
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save_variables(initialize(jax.random.key(0), config.recognizer, len(LABELS)))
    predictor = load(run.path)
    waveforms, lengths = pad_waveforms([samples], 1, bucket_length(len(samples), rate))
    ours = jax.jit(partial(predict, config=config))
    program = compile_program(ours, predictor.variables, waveforms, lengths)
    contenders = [Contender("dslstm_jax", lambda: predictor(samples, rate), program)]
    if has_twin(config):
        twin = Twin(config, len(LABELS))
        contenders.append(Contender("PyTorch, librosa, openSMILE", lambda: twin.predict(samples)))
    labels = {"recording": f"{SECONDS} s", "start": "warm"}
    rows = compare_timings(labels, contenders, race(contenders, repeats), {"recordings": 1})

    soundfile.write(folder / "sound.wav", samples, rate, subtype="PCM_16")
    starts = [
        Contender("dslstm_jax, programs kept", lambda: _cold_start(run.path, folder, keep=True)),
        Contender("dslstm_jax, compiled anew", lambda: _cold_start(run.path, folder, keep=False)),
    ]
    rows += compare_timings({**labels, "start": "cold"}, starts, race(starts, COLD_STARTS), {"recordings": 1})
    notes = (
        "`warm` is one call from samples to label and probabilities. `cold` is a whole process, `dslstm predict` "
        "with one file: importing, loading the weights, the answer; with the programs that an earlier process kept, "
        "and compiling all anew.",
    )
    return Report("predict", (*notes, *measuring_notes()), rows)


def _cold_start(run: Path, folder: Path, *, keep: bool) -> None:
    """One process of `dslstm predict`, which finds the programs of the last one or keeps none."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "JAX_ENABLE_COMPILATION_CACHE": str(keep).lower()}
    command = [sys.executable, "-m", "dslstm_jax", "predict", "--model", str(run), str(folder / "sound.wav")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"dslstm predict failed: {done.stderr.strip()}")

"""The training step, from waveforms and from features that lie ready, beside the same network in PyTorch."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dslstm_jax.benchmark.features import read_waveforms
from dslstm_jax.benchmark.measure import Contender, compare_timings, compile_program, measuring_notes, race
from dslstm_jax.benchmark.peers import Twin, has_twin
from dslstm_jax.config import Config
from dslstm_jax.data.batches import Batch, pad_waveforms
from dslstm_jax.features import Features
from dslstm_jax.models.recognizer import Recognizer, features_for
from dslstm_jax.reporting.benchmark import Report
from dslstm_jax.runs.state import TrainState
from dslstm_jax.training.devices import ParallelConfig
from dslstm_jax.training.parallel import make_parallel
from dslstm_jax.training.step import create_state, cross_entropy, make_optimizer

CLASSES = 4


def benchmark_train(config: Config, repeats: int) -> Report:
    """Times one step on config.training.batch_size utterances, of all lengths that the corpus has.

    Args:
      config: corpus, features, model and training.
      repeats: steps that are timed.
    """
    waveforms = read_waveforms(config, config.training.batch_size)
    rows = len(waveforms)
    padded, lengths = pad_waveforms(waveforms, rows, max(map(len, waveforms)))
    labels = np.arange(rows, dtype=np.int32) % CLASSES
    batch = Batch(padded, lengths, labels, np.ones(rows, np.float32), np.arange(rows, dtype=np.int32))
    whole, networks = [_whole_step(config, batch)], [_network_step(config, batch)]
    if has_twin(config):
        twin = Twin(config, CLASSES)
        ready = twin.features(waveforms)
        name = "PyTorch, librosa, openSMILE"
        whole.append(Contender(name, lambda: twin.train_step(twin.features(waveforms), labels)))
        networks.append(Contender("PyTorch, features ready", lambda: twin.train_step(ready, labels)))
    contenders, found = [*whole, *networks], []
    timings = dict(zip([contender.name for contender in contenders], race(contenders, repeats), strict=True))
    for work, chosen in {"from waveforms": [*whole, *networks[1:]], "from features": networks}.items():
        own, case = [timings[contender.name] for contender in chosen], {"step": work, "batch": rows}
        found += compare_timings(case, chosen, own, {"utterances": rows}, dtype=config.model.dtype)
    seconds = np.array(lengths) / config.features.sample_rate
    notes = (
        f"One step of Adam on {rows} utterances of {config.corpus.name}, {seconds.min():.1f} to {seconds.max():.1f} "
        f"s, mean {seconds.mean():.2f} s, our products in {config.model.dtype}. `from waveforms` is what `dslstm "
        "train` runs, features included; the PyTorch network is the same one in float32, with the MFCC packed, and "
        "gets its features utterance by utterance or ready.",
    )
    return Report("train", (*notes, *measuring_notes(config.model.dtype)), found)


def _contender(name: str, step: Any, state: TrainState, *others: Any) -> Contender:
    """A step uses up the state it is given, so that each call goes on from where the last one ended."""
    program, states = compile_program(step, state, *others), [state]

    def call() -> Any:
        states[0], said = program.run(states[0], *others)
        return states[0], said

    return Contender(name, call, program)


def _whole_step(config: Config, batch: Batch) -> Contender:
    parallel = make_parallel(ParallelConfig())
    if len(batch.lengths) % len(parallel.devices):
        parallel = make_parallel(ParallelConfig(mode="single"))
    optimizer = make_optimizer(config.training, steps_per_epoch=1000)
    state = parallel.spread(create_state(config, CLASSES, optimizer))
    step = parallel.train_step(config, optimizer)
    return _contender("dslstm_jax", step, state, parallel.place(batch), np.uint32(config.training.seed))


def _network_step(config: Config, batch: Batch) -> Contender:
    """The recognizer, its loss and the optimizer alone."""
    optimizer = make_optimizer(config.training, steps_per_epoch=1000)
    features = jax.jit(partial(features_for, config=config.recognizer))(batch.waveforms, batch.lengths)
    targets, weights = jax.nn.one_hot(batch.labels, CLASSES), jnp.asarray(batch.weights)

    def step(state: TrainState, features: Features) -> tuple[TrainState, jax.Array]:
        def mean_loss(params: Any) -> tuple[jax.Array, Any]:
            branches, updated = Recognizer(config.recognizer, CLASSES).apply(
                {**state.variables, "params": params}, features, train=True, mutable=["batch_stats"]
            )
            return cross_entropy(branches, targets, weights) / len(batch.lengths), updated.get("batch_stats", {})

        params = state.variables["params"]
        (loss, batch_stats), gradients = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, params)
        variables = {"params": optax.apply_updates(params, updates), "batch_stats": batch_stats}
        return TrainState(state.step + 1, variables, optimizer_state), loss

    state = create_state(config, CLASSES, optimizer)
    return _contender("dslstm_jax, features ready", jax.jit(step, donate_argnums=0), state, features)

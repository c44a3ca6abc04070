"""The recurrences at work: the layers that the recognizer is made of, beside the same in flax and PyTorch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from dslstm_jax.benchmark.measure import (
    LIMIT,
    Contender,
    compare_timings,
    compile_program,
    count_operations,
    measuring_notes,
    noise,
    race,
)
from dslstm_jax.benchmark.peers import Pass, ds_lstm_peers, lstm_peers
from dslstm_jax.benchmark.sweep import SweepConfig
from dslstm_jax.config import ModelConfig
from dslstm_jax.errors import ConfigError
from dslstm_jax.models.branches import Sequences, read_by_ds_lstm, read_by_lstm, stack_layers
from dslstm_jax.models.params import DSLSTMLayer, LSTMLayer
from dslstm_jax.recurrence.lstm import runs_here
from dslstm_jax.reporting.benchmark import Report, Row
from dslstm_jax.util.progress import progress_bar

WIDTHS = {"lstm": (39,), "ds_lstm": (496, 1008)}
"""Features of the input sequences in the paper's system: the MFCC, and the outputs of the two CNNs."""
SWEEP_SECONDS = 600.0
"""For the timing of all cases together, as far as three rounds of each allow it."""


class Layers(nn.Module):
    """Layers of the LSTM, or of the DS-LSTM where there is a second sequence, one on the other."""

    model: ModelConfig

    def setup(self) -> None:
        hidden = self.model.hidden
        self.lstm = stack_layers(self.model, lambda: LSTMLayer(hidden))
        self.ds_lstm = stack_layers(self.model, lambda: DSLSTMLayer(hidden))

    def __call__(self, *values: jax.Array, train: bool) -> jax.Array:
        sequences = Sequences(values, jnp.ones(values[0].shape[:2], bool))
        if len(values) == 1:
            return read_by_lstm(self.lstm, sequences, None, None, self.model, place=0)[0]
        return read_by_ds_lstm(self.ds_lstm, sequences, None, None, self.model, train)[0]


def benchmark_recurrence(sweep: SweepConfig, repeats: int) -> Report:
    """Times each combination of the sweep's values; of dtype and backend, what is swept is shown.

    Raises:
      ConfigError: none of the backends runs here.
    """
    backends = [backend for backend in sweep.backend if runs_here(backend)]
    absent = ", ".join(backend for backend in sweep.backend if backend not in backends)
    if not backends:
        raise ConfigError(f"sweep.backend: {absent} cannot run on this {jax.default_backend()}; add scan")
    swept = {name for name in ("dtype", "backend") if getattr(sweep, name) != getattr(SweepConfig(), name)}
    cases = list(product(sweep.cell, sweep.dtype, sweep.time, sweep.batch, sweep.hidden, sweep.layers, sweep.passes))
    rows: list[Row] = []
    with progress_bar(Console(stderr=True), "timing", len(cases)) as done:
        for cell, dtype, time, batch, hidden, layers, passes in cases:
            inputs = [noise(batch, time, width) for width in WIDTHS[cell]]
            model = ModelConfig(hidden=hidden, layers=layers, dtype=dtype)
            ours = []
            for backend in backends if cell == "lstm" else SweepConfig().backend:
                variant = replace(model, lstm_backend=backend)
                shown = {"backend": backend} if "backend" in swept else {}
                ours.append(replace(our_contender(inputs, variant, passes), options=shown))
            function, arguments = our_program(inputs, model, passes)  # of the scan, whose operations all show
            operations = count_operations(function.lower(*arguments))
            find_peers: Callable[..., list[Contender]] = lstm_peers if cell == "lstm" else ds_lstm_peers
            contenders = [*ours, *find_peers(*inputs, hidden, layers, passes, dtype)]
            sizes = {"batch": batch, "time": time, "hidden": hidden, "layers": layers}
            labels = {"cell": cell, "pass": passes, **sizes, **({"dtype": dtype} if "dtype" in swept else {})}
            units = {"sequences": batch, "frames": batch * time}
            timings = race(contenders, repeats, min(LIMIT, SWEEP_SECONDS / len(cases)))
            rows += compare_timings(labels, contenders, timings, units, operations=operations, dtype=dtype)
            jax.clear_caches()
            done()
    notes = [
        f"Inputs have {WIDTHS['lstm'][0]} features for the LSTM, {WIDTHS['ds_lstm'][0]} and {WIDTHS['ds_lstm'][1]} "
        f"for the DS-LSTM; {' or '.join(sweep.dtype)}; all frames valid. `train` is the gradient of the output's "
        "mean with respect to the weights. The operations of a case are those of our program."
    ]
    if "backend" in swept:
        notes.append("Where a case has several rows of ours, `ours is faster by` is against the first of them.")
    if absent:
        notes.append(f"Left out, for they cannot run on this {jax.default_backend()}: {absent}.")
    return Report("recurrence", (*notes, *measuring_notes(*sweep.dtype)), rows)


def our_program(inputs: Sequence[np.ndarray], model: ModelConfig, passes: Pass) -> tuple[Any, tuple[Any, ...]]:
    """What we ship as one jitted function over sequences [B, T, F], and its arguments."""
    module = Layers(model)
    arrays = [jnp.asarray(array, model.dtype) for array in inputs]
    variables = jax.jit(lambda *arrays: module.init(jax.random.key(0), *arrays, train=False))(*arrays)

    def forward(variables: Any, *arrays: jax.Array) -> Any:
        return module.apply(variables, *arrays, train=False)

    def mean(params: Any, others: Any, *arrays: jax.Array) -> Any:
        outputs, statistics = module.apply({"params": params, **others}, *arrays, train=True, mutable=["batch_stats"])
        return outputs.mean(), statistics

    def train(variables: Any, *arrays: jax.Array) -> Any:
        others = {name: tree for name, tree in variables.items() if name != "params"}
        return jax.grad(mean, has_aux=True)(variables["params"], others, *arrays)

    return jax.jit(train if passes == "train" else forward), (variables, *arrays)


def our_contender(inputs: Sequence[np.ndarray], model: ModelConfig, passes: Pass) -> Contender:
    """What we ship, compiled."""
    function, arguments = our_program(inputs, model, passes)
    program = compile_program(function, *arguments)
    return Contender("dslstm_jax", lambda: program.run(*arguments), program)

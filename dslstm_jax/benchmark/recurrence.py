"""The recurrences at work: the layers that the recognizer is made of, beside the same in flax and PyTorch."""

from collections.abc import Callable
from itertools import product
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dslstm_jax.benchmark.harness import Report, Row
from dslstm_jax.benchmark.measure import Contender, compare, compile_program, measuring_notes, noise, race
from dslstm_jax.benchmark.peers import Pass, ds_lstm_peers, lstm_peers
from dslstm_jax.config import ModelConfig, SweepConfig
from dslstm_jax.models.branches import ds_lstm_layers, lstm_layers

WIDTHS = {"lstm": (39,), "ds_lstm": (496, 1008)}
"""Features of the input sequences in the paper's system: the MFCC, and the outputs of the two CNNs."""


class Layers(nn.Module):
    """Layers of the LSTM, or of the DS-LSTM where there is a second sequence, one on the other."""

    hidden: int
    layers: int

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array | None = None, *, train: bool) -> jax.Array:
        mask, config = jnp.ones(x.shape[:2], bool), ModelConfig(layers=self.layers, hidden=self.hidden)
        if y is None:
            return lstm_layers("lstm", self.hidden, x, mask, None, config, place=0)
        return ds_lstm_layers(x, y, mask, None, config, train=train)


def benchmark_recurrence(sweep: SweepConfig, repeats: int) -> Report:
    """Times each combination of the sweep's values."""
    rows: list[Row] = []
    for cell, time, batch, hidden, layers, passes in product(
        sweep.cell, sweep.time, sweep.batch, sweep.hidden, sweep.layers, sweep.passes
    ):
        inputs = [noise(batch, time, width) for width in WIDTHS[cell]]
        ours = our_contender(inputs, hidden, layers, passes)
        find_peers: Callable[..., list[Contender]] = lstm_peers if cell == "lstm" else ds_lstm_peers
        contenders = [ours, *find_peers(*inputs, hidden, layers, passes)]
        labels = {"cell": cell, "pass": passes, "batch": batch, "time": time, "hidden": hidden, "layers": layers}
        units = {"sequences": batch, "frames": batch * time}
        timings = race(contenders, repeats)
        operations = ours.program.operations if ours.program else None
        rows += compare(labels, contenders, timings, units, operations=operations)
        jax.clear_caches()
    notes = (
        f"Inputs have {WIDTHS['lstm'][0]} features for the LSTM, {WIDTHS['ds_lstm'][0]} and {WIDTHS['ds_lstm'][1]} "
        "for the DS-LSTM; float32; all frames valid. `train` is the gradient of the output's mean with respect "
        "to the weights. The operations of a case are those of our program.",
    )
    return Report("recurrence", (*notes, *measuring_notes()), tuple(rows))


def our_contender(inputs: list[np.ndarray], hidden: int, layers: int, passes: Pass) -> Contender:
    """What we ship, as one compiled program over sequences [B, T, F]."""
    module = Layers(hidden, layers)
    arrays = [jnp.asarray(array) for array in inputs]
    variables = jax.jit(lambda *arrays: module.init(jax.random.key(0), *arrays, train=False))(*arrays)

    def forward(variables: Any, *arrays: jax.Array) -> Any:
        return module.apply(variables, *arrays, train=False)

    def mean(params: Any, others: Any, *arrays: jax.Array) -> Any:
        outputs, statistics = module.apply({"params": params, **others}, *arrays, train=True, mutable=["batch_stats"])
        return outputs.mean(), statistics

    def train(variables: Any, *arrays: jax.Array) -> Any:
        others = {name: tree for name, tree in variables.items() if name != "params"}
        return jax.grad(mean, has_aux=True)(variables["params"], others, *arrays)

    program = compile_program(jax.jit(train if passes == "train" else forward), variables, *arrays)
    return Contender("dslstm_jax", lambda: program.run(variables, *arrays), program)

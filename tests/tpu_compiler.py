"""Compiles for TPUs, in the paper's size, and prints JSON lines.

train: the train step (32 utterances on four v5e, both types) and predict. lstm: two layers of the plain LSTM over 400
frames on one v5e, by scan and by the Pallas kernels, forward and its gradient, in both types.
"""

import json
import os
import re
import sys
from dataclasses import replace
from itertools import product
from typing import Any

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing runs on a TPU here: others may compile too
}

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from dslstm_jax.benchmark.program import all_reduces, runs, trace_train_step
from dslstm_jax.config import Config
from dslstm_jax.models.recognizer import variable_shapes
from dslstm_jax.recurrence import LSTMWeights, lstm_stack
from dslstm_jax.serving.predictor import predict
from dslstm_jax.training.parallel import Parallel

devices = tuple(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)


def vector_memory(text: str) -> dict[str, list[int]]:
    """Bytes that each call of a Pallas kernel takes, by its name."""
    found: dict[str, list[int]] = {}
    for line in text.splitlines():
        if 'custom_call_target="tpu_custom_call"' in line:
            kernel = re.findall(r"lstm_\w+?ward", line)[0]
            used = re.findall(
                r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"0","size":"(\d+)"', line
            )
            found.setdefault(kernel, []).append(int(used[0]))
    return found


def report(name: str, traced: jax.stages.Traced) -> None:
    compiled = traced.lower(lowering_platforms=("tpu",)).compile()
    memory, costs, sums = compiled.memory_analysis(), compiled.cost_analysis(), all_reduces(runs(compiled.as_text()))
    found = {
        "program": name,
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "flops, loops once": costs["flops"],
        "bytes accessed": costs["bytes accessed"],
        "all-reduces": len(sums),
        "all-reduces run": sum(run.times for run in sums),
        "largest": max((run.instruction.bytes for run in sums), default=0),
        "VMEM of kernels": vector_memory(compiled.as_text()),
    }
    print(json.dumps(found), flush=True)


def place(tree: Any) -> Any:
    """Shapes of arrays on the first chip."""
    on_chip = SingleDeviceSharding(devices[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_chip), tree)


def train() -> None:
    config, shape = Config(), jax.ShapeDtypeStruct
    arguments = variable_shapes(config, 4), shape((8, 64_000), jnp.float32), shape((8,), jnp.int32)
    report("predict", predict.trace(*place(arguments), config=config))
    for dtype in ("float32", "bfloat16"):
        typed = replace(config, model=replace(config.model, dtype=dtype))
        traced = trace_train_step(typed, Parallel("shard_map", devices), rows=32, samples=64_000)
        report(f"train step, {dtype}", traced)


def lstm() -> None:
    batch, frames, features, size, shape = 32, 400, 39, 200, jax.ShapeDtypeStruct
    weights = [
        LSTMWeights(*(shape(s, jnp.float32) for s in ((width, 4 * size), (size, 4 * size), (4 * size,), (4 * size,))))
        for width in (features, size)
    ]
    jax.default_backend = lambda: "tpu"  # for which alone our kernels let themselves be asked for
    for dtype, backend in product(("float32", "bfloat16"), ("scan", "pallas_tpu")):

        def forward(weights: Any, x: Any, mask: Any, backend: Any = backend) -> Any:
            return lstm_stack(weights, x, mask, backend=backend)[0]

        def mean(*arguments: Any, forward: Any = forward) -> Any:
            return forward(*arguments).astype(jnp.float32).mean()

        arguments = place((weights, shape((batch, frames, features), dtype), shape((batch, frames), bool)))
        report(f"{backend}, {dtype}, forward", jax.jit(forward).trace(*arguments))
        report(f"{backend}, {dtype}, gradient", jax.jit(jax.grad(mean)).trace(*arguments))


{"train": train, "lstm": lstm}[sys.argv[1]]()

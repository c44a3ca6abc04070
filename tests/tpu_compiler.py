"""Compiles training (paper size, 32 utterances on four v5e, both types) and predict for TPUs; prints JSON lines."""

import json
import os
from dataclasses import replace

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
from dslstm_jax.serving.predictor import predict
from dslstm_jax.training.parallel import Parallel

devices = tuple(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)


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
    }
    print(json.dumps(found), flush=True)


config = Config()
on_chip = SingleDeviceSharding(devices[0])
place = lambda tree: jax.tree.map(  # noqa: E731
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_chip), tree
)
arguments = (
    variable_shapes(config, 4),
    jax.ShapeDtypeStruct((8, 64_000), jnp.float32),
    jax.ShapeDtypeStruct((8,), jnp.int32),
)
report("predict", predict.trace(*place(arguments), config=config))
for dtype in ("float32", "bfloat16"):
    typed = replace(config, model=replace(config.model, dtype=dtype))
    report(f"train step, {dtype}", trace_train_step(typed, Parallel("shard_map", devices), rows=32, samples=64_000))

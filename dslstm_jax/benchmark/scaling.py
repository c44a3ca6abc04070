"""What a training step would take on many chips: arithmetic on the compiled program and published figures.

Nothing here is measured.
"""

import importlib.util
import math
import os
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product

import jax

from dslstm_jax.benchmark.program import all_reduces, outputs, runs, trace_train_step
from dslstm_jax.config import Config
from dslstm_jax.errors import ConfigError
from dslstm_jax.models.recognizer import variable_shapes
from dslstm_jax.reporting.benchmark import Report, Row
from dslstm_jax.training.parallel import Parallel

CHIPS = (1, 4, 8, 32, 128, 256, 1024)
SECONDS = 4
"""Padded length of the utterances."""
CLASSES = 4


@dataclass(frozen=True)
class Work:
    """What one chip does in a step."""

    compiler: str
    """Whose program was read."""
    rows: float
    """Utterances on the chip."""
    flops: float
    """Of products and convolutions."""
    fixed_bytes: float
    """The step's arguments and results, which no smaller batch makes fewer."""
    bytes: float
    """Read from memory and written to it, `fixed_bytes` among them."""
    passes: int
    """How often loops go round: what must happen one after the other."""
    statistics: tuple[tuple[int, int], ...]
    """All-reduces of batch statistics: bytes and how often."""
    others: tuple[tuple[int, int], ...]
    """All-reduces of gradients and totals."""
    running_bytes: int
    """Of the running statistics, which are averaged once a step where batch statistics are local."""

    def with_rows(self, rows: float) -> "Work":
        """The same step with another number of utterances on the chip."""
        share = rows / self.rows
        moved = self.fixed_bytes + share * (self.bytes - self.fixed_bytes)
        return replace(self, rows=rows, flops=share * self.flops, bytes=moved)


@dataclass(frozen=True)
class Accelerator:
    """Published rates, and latencies that are assumed (docs/scaling.md)."""

    name: str
    flops: float
    """FLOP/s, bfloat16, dense."""
    memory: float
    """Bytes/s of the chip's memory."""
    group: int
    """Chips joined by the fast links."""
    torus: bool
    """Whether they form a torus of two dimensions; a switch otherwise."""
    inside: float
    """Bytes/s that a chip sends over the fast links."""
    outside: float
    """Bytes/s that a chip sends to other groups."""
    hop: float
    """Seconds from chip to neighbor, or through the switch and back with all that starting it takes. Assumed."""
    outside_hop: float
    """Seconds from group to group. Assumed."""
    per_pass: float
    """Seconds in which one pass of a recurrence's loop is started and ended. Assumed."""


V5E = Accelerator("TPU v5e", 197e12, 819e9, 256, True, 200e9, 3.125e9, 1e-6, 25e-6, 2e-6)
H100 = Accelerator("H100 SXM", 989e12, 3.35e12, 8, False, 450e9, 50e9, 10e-6, 5e-6, 10e-6)


def all_reduce_seconds(accelerator: Accelerator, size: float, chips: int) -> float:
    """Time of an all-reduce of `size` bytes: a ring among neighbors, then one among the groups for each chip's share.

    Every chip sends 2 (n - 1) / n of the array. A torus takes 2 x half its circumference along both axes in hops, a
    switch one; groups take 2 log2(groups).
    """
    if chips == 1:
        return 0.0
    group = min(chips, accelerator.group)
    groups = -(-chips // group)
    seconds = 2 * (group - 1) / group * size / accelerator.inside
    seconds += 2 * (groups - 1) / groups * size / group / accelerator.outside
    side = 1 << math.ceil(math.log2(group)) // 2
    hops = side // 2 * 2 + group // side // 2 * 2 if accelerator.torus else 1
    return seconds + hops * accelerator.hop + 2 * math.log2(groups) * accelerator.outside_hop


def compute_seconds(accelerator: Accelerator, work: Work) -> float:
    """Time of a step on one chip: what products or memory take, whichever is more, and the loops' latency."""
    rate_bound = max(work.flops / accelerator.flops, work.bytes / accelerator.memory)
    return rate_bound + work.passes * accelerator.per_pass


def step_row(accelerator: Accelerator, work: Work, scaling: str, batch: int, chips: int) -> Row:
    """The row of the table for `chips` chips: strong scaling is a batch for all together, weak a batch a chip."""
    rows = batch / chips if scaling == "strong" else batch
    compute = compute_seconds(accelerator, work.with_rows(rows))
    statistics, others = (
        sum(times * all_reduce_seconds(accelerator, size, chips) for size, times in reduced)
        for reduced in (work.statistics, work.others)
    )
    local = compute + others + work.running_bytes / accelerator.inside * (chips > 1)
    alone = compute_seconds(accelerator, work.with_rows(batch))
    ideal = alone / chips if scaling == "strong" else alone
    return {
        "chip": accelerator.name,
        "scaling": scaling,
        "chips": chips,
        "rows a chip": round(rows),
        "compute ms": 1e3 * compute,
        "gradients ms": 1e3 * others,
        "statistics ms": 1e3 * statistics,
        "utterances/s": rows * chips / (compute + others + statistics),
        "efficiency": ideal / (compute + others + statistics),
        "efficiency, local": ideal / local,
    }


def benchmark_scaling(config: Config) -> Report:
    """The table of docs/scaling.md.

    Args:
      config: what is trained; training.batch_size is the batch of all chips together under strong scaling, and of
        every chip under weak scaling.

    Raises:
      ConfigError: no compiler for TPUs, and fewer than two CPU devices.
    """
    work, batch = read_work(config), config.training.batch_size
    rows = [
        step_row(accelerator, work, scaling, batch, chips)
        for accelerator, scaling, chips in product((V5E, H100), ("strong", "weak"), CHIPS)
        if scaling == "weak" or chips <= batch
    ]
    return Report("scaling", _notes(work), rows)


def read_work(config: Config) -> Work:
    """Compiles the step and reads what it does: for a v5e by libtpu, where that is installed, else for CPUs.

    The number and size of the all-reduces are those that the compiler leaves after combining. FLOPs and passes are
    counted in the program as it is lowered for accelerators, each loop as often as it runs.

    Raises:
      ConfigError: no compiler for TPUs, and fewer than two CPU devices.
    """
    compiler, devices, rows = "four TPU v5e", _describe_v5e(), 8
    if not devices:
        # On a CPU some loops run over rows, and XLA counts a loop's body once: a single row leaves nothing out.
        compiler, devices, rows = "CPU", tuple(jax.devices()[:2]), 1
        if len(devices) < 2:
            raise ConfigError("one device sums nothing up; install libtpu, or set JAX_NUM_CPU_DEVICES=2")
    samples = SECONDS * config.features.sample_rate
    parallel = Parallel("shard_map", devices)
    traced = trace_train_step(config, parallel, rows=rows * len(devices), samples=samples, classes=CLASSES)
    for_accelerators = list(runs(traced.lower(lowering_platforms=("tpu",)).as_text(dialect="hlo")))
    compiled = traced.lower(lowering_platforms=("tpu" if compiler != "CPU" else "cpu",)).compile()
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    reduced: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    program = list(runs(compiled.as_text()))
    for run in all_reduces(program):
        sizes: Counter[bool] = Counter()  # a compiler may join statistics and gradients
        for part in outputs(run.instruction, program):
            sizes["Recognizer" in (part.operation or run.instruction.operation)] += part.bytes
        for of_statistics, size in sizes.items():
            reduced[of_statistics].append((size, run.times))
    running = variable_shapes(config.recognizer, CLASSES).get("batch_stats", {})
    return Work(
        compiler=compiler,
        rows=rows,
        flops=sum(run.flops * run.times for run in for_accelerators),
        fixed_bytes=memory.argument_size_in_bytes + memory.output_size_in_bytes,
        bytes=costs["bytes accessed"],
        passes=sum(run.times * run.trips for run in for_accelerators),
        statistics=tuple(reduced[True]),
        others=tuple(reduced[False]),
        running_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(running)),
    )


def _describe_v5e() -> tuple[jax.Device, ...]:
    """Four chips that libtpu compiles for without having them; none where it is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        return ()
    from jax.experimental import topologies

    # What libtpu would otherwise ask a cloud's metadata server.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    return tuple(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)


def _notes(work: Work) -> tuple[str, ...]:
    def described(reduced: tuple[tuple[int, int], ...]) -> str:
        times, total = sum(n for _, n in reduced), sum(size * n for size, n in reduced)
        return f"all-reduces at {len(reduced)} places, {times} a step, {total / 1e6:,.2f} MB"

    return (
        "Arithmetic, not measured.",
        f"Read from the program for {work.compiler}, {work.rows} utterances of {SECONDS} s on each chip: "
        f"{work.flops / 1e9:.3g} GFLOP, {work.bytes / 1e9:.3g} GB of memory traffic ({work.fixed_bytes / 1e6:.3g} MB "
        f"of it whatever the batch), {work.passes} passes of loops.",
        f"Gradients and totals: {described(work.others)}. Batch statistics: {described(work.statistics)}.",
        "`rows a chip` are utterances; `efficiency` is against as many chips as one; `local` is "
        "`--training.batch-statistics local`.",
    )

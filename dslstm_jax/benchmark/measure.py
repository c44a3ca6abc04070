"""Ours and its peers, timed in turns; what a compiled program needs, and what the machine could do."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from dslstm_jax.benchmark.program import runs
from dslstm_jax.reporting.benchmark import Row

GEMM_SIZE = 2048
"""Rows and columns of the matrices whose product gives the GEMM peak."""
COPY_VALUES = 1 << 25
"""Values of the array whose copy gives the copy peak; far more than a cache holds."""
LIMIT = 25.0
"""Seconds after which a comparison ends, once every contender was timed three times."""
ROUNDS = 3
PATIENCE = 4
"""Times that limit, after which one round is enough."""


class Timing(NamedTuple):
    """Seconds."""

    first: float
    """The first call, compilation included."""
    median: float
    p10: float
    p90: float
    best: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """The first call, and the statistics of the others."""
        p10, median, p90 = np.percentile(seconds[1:], [10, 50, 90])
        return cls(seconds[0], float(median), float(p10), float(p90), min(seconds[1:]))


@dataclass(frozen=True)
class CompiledProgram:
    """A compiled function, and what one call of it takes."""

    run: Callable[..., Any]
    compile_seconds: float
    """Tracing included."""
    operations: float
    """Floating-point operations of its products, convolutions and FFTs."""
    traffic: float
    """Bytes that it must move at least: arguments and outputs once, temporaries written and read."""
    memory: float
    """Bytes of arguments, outputs and temporaries, at their peak."""


def compile_program(function: Callable[..., Any], *arguments: Any) -> CompiledProgram:
    """Compiles what `jax.jit` or `jax.pmap` gave, for arguments like these."""
    jitted: Any = function if hasattr(function, "lower") else jax.jit(function)
    started = time.perf_counter()
    lowered = jitted.lower(*arguments)
    compiled = lowered.compile()
    seconds = time.perf_counter() - started
    found = compiled.memory_analysis()
    outside = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    temporary = found.temp_size_in_bytes
    operations = count_operations(lowered)
    return CompiledProgram(compiled, seconds, operations, outside + 2 * temporary, outside + temporary)


def count_operations(lowered: Any) -> float:
    """Of a lowered program's products, convolutions and FFTs; what cuDNN and TPU kernels do cannot be seen in it."""
    return float(sum(run.times * run.flops for run in runs(lowered.as_text(dialect="hlo"))))


class Peaks(NamedTuple):
    """What the machine does at its best, through JAX."""

    gemm: float
    """Floating-point operations a second, in a product of two large matrices."""
    copy: float
    """Bytes a second, read and written, in the copy of a large array."""


@cache
def measure_peaks(dtype: str = "float32") -> Peaks:
    """The best of several tries on all cores of the first device."""
    matrix = jnp.ones((GEMM_SIZE, GEMM_SIZE), dtype)
    values = jnp.ones((COPY_VALUES,), "float32")
    product, copy = jax.jit(jnp.matmul), jax.jit(jnp.negative)
    times = race([Contender("", lambda: product(matrix, matrix)), Contender("", lambda: copy(values))], 7)
    return Peaks(2 * GEMM_SIZE**3 / times[0].best, 2 * values.nbytes / times[1].best)


@dataclass(frozen=True)
class Contender:
    """One of those that do the same work."""

    name: str
    call: Callable[[], Any]
    program: CompiledProgram | None = None
    """Where it is one compiled JAX program."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What it was run with, as columns; those of the first contender are shown."""


def race(contenders: Sequence[Contender], repeats: int, limit: float = LIMIT) -> list[Timing]:
    """Times all contenders in turns, so that a disturbance of the machine meets them alike.

    Each is called once before; every second round goes backward, that none always runs in another's wake.

    Args:
      contenders: what is called; the arrays it returns are waited for.
      repeats: rounds; fewer, but not less than ROUNDS, if they last longer than the limit; one, if PATIENCE times it.
      limit: seconds.
    """
    seconds = [[_seconds(contender)] for contender in contenders]
    started = time.perf_counter()
    for turn in range(repeats):
        order = list(enumerate(contenders))
        for place, contender in order[::-1] if turn % 2 else order:
            seconds[place].append(_seconds(contender))
        if time.perf_counter() - started > limit * (1 if turn + 1 >= ROUNDS else PATIENCE):
            break
    return [Timing.of(found) for found in seconds]


def _seconds(contender: Contender) -> float:
    started = time.perf_counter()
    jax.block_until_ready(contender.call())
    return time.perf_counter() - started


def compare_timings(
    labels: Mapping[str, Any],
    contenders: Sequence[Contender],
    timings: Sequence[Timing],
    units: Mapping[str, float],
    *,
    operations: float | None = None,
    dtype: str = "float32",
) -> list[Row]:
    """One row a contender; the first is ours.

    Args:
      labels: columns that say which work was done.
      contenders: all did the same work.
      timings: of each.
      units: what one call gets done: {"sequences": 32} makes a column `sequences/s`.
      operations: of the work, where they are the same for all contenders; otherwise each program's own count.
      dtype: of the products, whose peak they are compared with.
    """
    peaks, ours = measure_peaks(dtype), timings[0].median
    rows: list[Row] = []
    for place, (contender, timing) in enumerate(zip(contenders, timings, strict=True)):
        program = contender.program
        done = operations or (program and program.operations)
        rate = done / timing.median if done else None
        moved = program.traffic / timing.median if program else None
        rows.append(
            {
                **labels,
                "implementation": contender.name,
                **{name: contender.options.get(name) for name in contenders[0].options},
                "median ms": 1e3 * timing.median,
                "p10 ms": 1e3 * timing.p10,
                "p90 ms": 1e3 * timing.p90,
                "ours is faster by": timing.median / ours if place else None,
                "compile s": program.compile_seconds if program else max(timing.first - timing.median, 0.0),
                **{f"{unit}/s": count / timing.median for unit, count in units.items()},
                "GFLOP/s": rate and rate / 1e9,
                "share of GEMM peak": rate and rate / peaks.gemm,
                "GB/s": moved and moved / 1e9,
                "share of copy peak": moved and moved / peaks.copy,
                "peak MB": program and program.memory / 1e6,
            }
        )
    return rows


def measuring_notes(*dtypes: str) -> tuple[str, ...]:
    """What the columns of `compare_timings` mean, for products in these types; float32 if none is given."""
    peaks = {dtype: measure_peaks(dtype) for dtype in dtypes or ("float32",)}
    products = ", ".join(f"{dtype} {found.gemm / 1e9:,.0f}" for dtype, found in peaks.items())
    copy = next(iter(peaks.values())).copy
    return (
        "All contenders of a case take turns in one process; every call is waited for. `ours is faster by` is the "
        "peer's median over ours. `compile s` is tracing and compiling for JAX, and what the first call took longer "
        "for others.",
        f"Peaks of this machine, through JAX: product of two matrices in {products} GFLOP/s, copy "
        f"{copy / 1e9:,.1f} GB/s. Operations are those of products, convolutions and FFTs, loops counted as "
        "often as they run. Bytes are the least a program must move: arguments and outputs once, temporaries "
        "written and read. `peak MB` is what the compiled program holds: arguments, outputs, temporaries.",
    )


def noise(*shape: int) -> np.ndarray:
    """Standard normal float32, the same at each call."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

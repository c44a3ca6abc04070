"""What every benchmark of ours against peers is made of: turns, ratios, counts of operations and bytes."""

import time
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from dslstm_jax.benchmark import measure
from dslstm_jax.benchmark.measure import CompiledProgram, Contender, Timing, compare_timings, compile_program, race


@pytest.fixture(autouse=True)
def small_peaks(monkeypatch):
    monkeypatch.setattr(measure, "GEMM_SIZE", 64)
    monkeypatch.setattr(measure, "COPY_VALUES", 1024)


def test_contenders_take_turns_forward_and_backward(monkeypatch):
    calls: list[str] = []
    contenders = [Contender(name, partial(calls.append, name)) for name in "abc"]
    assert len(race(contenders, 4)) == 3
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc" + "cba"
    calls.clear()
    monkeypatch.setattr(measure, "PATIENCE", 1e12)
    race(contenders, 100, limit=1e-9)
    assert len(calls) == 3 * (1 + measure.ROUNDS)
    calls.clear()
    monkeypatch.setattr(measure, "PATIENCE", 1)
    race(contenders, 100, limit=1e-9)
    assert len(calls) == 3 * (1 + 1)


def test_each_contender_gets_its_own_times():
    slow, fast = race([Contender("slow", lambda: time.sleep(0.03)), Contender("fast", lambda: None)], 3)
    assert slow.best >= 0.03 > fast.median
    assert slow.p10 <= slow.median <= slow.p90


def test_ratios_rates_and_shares():
    program = CompiledProgram(lambda: None, 2.0, operations=8e9, traffic=4e9, memory=5e6)
    timings = [Timing.of([9, 2, 2, 2]), Timing.of([7, 3, 4, 5])]
    contenders = [Contender("ours", lambda: None, program), Contender("peer", lambda: None)]
    ours, peer = compare_timings({"case": "x"}, contenders, timings, {"sequences": 32}, operations=8e9)
    assert ours["ours is faster by"] is None
    assert peer["ours is faster by"] == 2
    assert (ours["median ms"], peer["median ms"]) == (2000, 4000)
    assert (ours["compile s"], peer["compile s"]) == (2, 3)
    assert (ours["sequences/s"], peer["sequences/s"]) == (16, 8)
    assert (ours["GFLOP/s"], peer["GFLOP/s"]) == (4, 2)
    assert ours["GB/s"] == 2
    assert peer["GB/s"] is peer["peak MB"] is None
    assert ours["peak MB"] == 5
    peaks = measure.measure_peaks("float32")
    assert ours["share of GEMM peak"] == pytest.approx(4e9 / peaks.gemm)
    assert ours["share of copy peak"] == pytest.approx(2e9 / peaks.copy)
    assert ours["share of GEMM peak"] > 0
    without = compare_timings({}, contenders, timings, {})
    assert without[0]["GFLOP/s"] == 4
    assert without[1]["GFLOP/s"] is None


def operations(function, *shapes):
    return compile_program(jax.jit(function), *(jnp.ones(shape) for shape in shapes)).operations


def test_operations_are_counted_through_loops_and_gradients():
    assert operations(jnp.matmul, (3, 5), (5, 7)) == 2 * 3 * 5 * 7

    def loop(x, w):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, length=11)[0].sum()

    assert operations(jax.jit(loop), (3, 5), (5, 5)) == 11 * 2 * 3 * 5 * 5
    # Backward, each product has two of its size: for x and for w.
    assert operations(jax.grad(loop, argnums=(0, 1)), (3, 5), (5, 5)) == 3 * 11 * 2 * 3 * 5 * 5
    convolve = partial(jax.lax.conv, window_strides=(1, 1), padding="VALID")
    assert operations(convolve, (2, 3, 8, 8), (4, 3, 3, 3)) == 2 * (2 * 4 * 6 * 6) * 3 * 3 * 3
    assert operations(jnp.fft.rfft, (6, 8)) == 2.5 * 6 * 8 * 3
    # Only what this machine runs of what differs between machines.
    other = partial(jax.lax.platform_dependent, cpu=lambda x: x @ x, default=lambda x: x @ x @ x)
    assert operations(other, (5, 5)) == 2 * 5**3


def test_a_program_tells_what_it_needs():
    program = compile_program(jax.jit(lambda x, w: (x @ w) @ w), jnp.ones((256, 256)), jnp.ones((256, 256)))
    array = 4 * 256**2
    assert program.operations == 2 * 2 * 256**3
    assert 3 * array <= program.memory <= 6 * array
    assert program.traffic >= program.memory
    assert program.compile_seconds > 0

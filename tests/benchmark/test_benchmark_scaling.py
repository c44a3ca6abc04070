"""`dslstm benchmark scaling`: the reader of HLO on small programs, and the arithmetic on numbers done by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from tiny import MODEL, tiny_config

from dslstm_jax.benchmark.program import all_reduces, runs
from dslstm_jax.benchmark.scaling import (
    H100,
    V5E,
    Work,
    all_reduce_seconds,
    compute_seconds,
    read_work,
    step_row,
)
from dslstm_jax.models.recognizer import variable_shapes

WORK = Work(
    compiler="CPU",
    rows=2,
    flops=4e9,
    fixed_bytes=1e6,
    bytes=9e6,
    passes=10,
    statistics=((1000, 27),),
    others=((4_000_000, 1),),
    running_bytes=500,
)


def _program():
    """Seven passes of a product and a sum over two devices; then a sum of all, and a convolution."""

    def f(x, w, image):
        def body(h, _):
            h = jnp.tanh(h @ w)
            return h, jax.lax.psum(h.sum(0), "data")

        h, sums = jax.lax.scan(body, x, None, length=7)
        convolved = jax.lax.conv_general_dilated(image, jnp.ones((3, 2, 5, 6)), (1, 1), "VALID")
        return jax.lax.psum((h.sum(), w), "data"), sums, convolved

    mesh = Mesh(np.array(jax.devices()), ("data",))
    mapped = jax.shard_map(f, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)
    shapes = [(4, 8), (8, 8), (1, 2, 10, 12)]
    return jax.jit(mapped).trace(*[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes])


@pytest.mark.parametrize("compiled", [False, True])
def test_loops_count_as_often_as_they_run(compiled):
    program = _program_text(compiled)
    found = sorted((run.times, run.instruction.bytes) for run in all_reduces(runs(program)))
    assert sum(times * size for times, size in found) == 4 * (7 * 8 + 1 + 64)
    assert (7, 32) in found
    assert [run.trips for run in runs(program) if run.instruction.opcode == "while"] == [7]


def _program_text(compiled):
    lowered = _program().lower()
    return lowered.compile().as_text() if compiled else lowered.as_text(dialect="hlo")


def test_products_and_convolutions_count_their_multiplications_twice():
    by_opcode = {}
    for run in runs(_program_text(False)):
        by_opcode[run.instruction.opcode] = by_opcode.get(run.instruction.opcode, 0) + run.flops * run.times
    assert by_opcode["dot"] == 7 * 2 * (4 * 8) * 8
    assert by_opcode["convolution"] == 2 * (3 * 6 * 7) * (2 * 5 * 6)
    assert sum(by_opcode.values()) == by_opcode["dot"] + by_opcode["convolution"]


def test_a_loop_of_unknown_length_is_an_error():
    text = jax.jit(lambda x: jax.lax.while_loop(lambda v: v < x, lambda v: v + 1, x - 3)).lower(2.0)
    with pytest.raises(ValueError, match="its length does not show"):
        list(runs(text.as_text(dialect="hlo")))


@pytest.mark.parametrize(
    ("accelerator", "chips", "seconds"),
    [
        (V5E, 1, 0.0),
        (V5E, 4, 2 * 3 / 4 * 1e6 / 200e9 + 4e-6),  # 2 x 2: two hops on each axis
        (V5E, 256, 2 * 255 / 256 * 1e6 / 200e9 + 32e-6),  # 16 x 16
        (V5E, 1024, 2 * 255 / 256 * 1e6 / 200e9 + 2 * 3 / 4 * 1e6 / 256 / 3.125e9 + 32e-6 + 2 * 2 * 25e-6),
        (H100, 8, 2 * 7 / 8 * 1e6 / 450e9 + 10e-6),
        (H100, 32, 2 * 7 / 8 * 1e6 / 450e9 + 2 * 3 / 4 * 1e6 / 8 / 50e9 + 10e-6 + 2 * 2 * 5e-6),
    ],
)
def test_an_all_reduce_takes_bandwidth_and_hops(accelerator, chips, seconds):
    assert all_reduce_seconds(accelerator, 1e6, chips) == pytest.approx(seconds, rel=1e-9)


def test_a_step_is_bound_by_products_or_memory_and_by_its_loops():
    assert compute_seconds(V5E, WORK) == pytest.approx(4e9 / 197e12 + 10 * 2e-6)
    one = WORK.with_rows(1)
    assert (one.flops, one.bytes, one.fixed_bytes) == (2e9, 5e6, 1e6)
    slow_memory = Work(**{**vars(WORK), "bytes": 819e6})
    assert compute_seconds(V5E, slow_memory) == pytest.approx(1e-3 + 10 * 2e-6)


def test_a_row_shares_the_batch_or_repeats_it():
    strong, weak = (step_row(H100, WORK, scaling, 16, 4) for scaling in ("strong", "weak"))
    assert (strong["rows a chip"], weak["rows a chip"]) == (4, 16)
    assert strong["statistics ms"] == pytest.approx(27e3 * all_reduce_seconds(H100, 1000, 4))
    assert strong["gradients ms"] == pytest.approx(1e3 * all_reduce_seconds(H100, 4e6, 4))
    total = sum(weak[name] for name in ("compute ms", "gradients ms", "statistics ms"))
    assert weak["utterances/s"] == pytest.approx(64e3 / total)
    assert weak["efficiency"] == pytest.approx(weak["compute ms"] / total)
    assert weak["efficiency"] < weak["efficiency, local"] < 1
    assert step_row(H100, WORK, "weak", 16, 1)["efficiency"] == 1


@pytest.mark.slow
def test_the_work_is_read_from_the_program_that_trains(monkeypatch):
    monkeypatch.setattr("dslstm_jax.benchmark.scaling._describe_v5e", tuple)
    config = tiny_config("unused", model=replace(MODEL, layers=2))
    work = read_work(config)
    assert work.compiler == "CPU"
    # Gradients, loss, utterances and a confusion matrix of four classes; all in one place or in several.
    assert sum(size * times for size, times in work.others) == 4 * (_gradients(config) + 2 + 16)
    assert {times for _, times in work.statistics} == {1, 6}
    assert work.flops > 2 * work.rows * 398 * 2 * MODEL.mfcc_hidden * 4 * MODEL.mfcc_hidden
    assert work.passes >= 2 * 399 + 4 * 6  # one loop for both layers, the second a frame behind
    assert 0 < work.fixed_bytes < work.bytes


def _gradients(config):
    """Values of the gradients that differ: an LSTM's two biases have the same, those of convolutions have zeros."""
    params = variable_shapes(config, 4)["params"]
    named = {jax.tree_util.keystr(path): leaf.size for path, leaf in jax.tree.leaves_with_path(params)}
    return sum(
        size
        for name, size in named.items()
        if "recurrent_bias" not in name and not ("convolution" in name and "bias" in name)
    )

"""What `dslstm benchmark recurrence` sweeps besides sizes: dtype and backend."""

from dataclasses import replace

import pytest

from dslstm_jax.benchmark import measure, peers, recurrence
from dslstm_jax.benchmark.recurrence import benchmark_recurrence
from dslstm_jax.benchmark.sweep import SweepConfig
from dslstm_jax.errors import ConfigError

SMALL = {"passes": ("train",), "batch": (2,), "time": (9,), "hidden": (5,), "layers": (1,)}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(measure, "GEMM_SIZE", 64)
    monkeypatch.setattr(measure, "COPY_VALUES", 1024)
    monkeypatch.setattr(peers, "installed", lambda *_: False)


def test_types_and_backends_are_columns_when_they_are_swept():
    forward = SMALL | {"passes": ("forward",)}
    sweep = SweepConfig(**forward, dtype=("float32", "bfloat16"), backend=("scan", "cudnn", "pallas_tpu"))
    report = benchmark_recurrence(sweep, 3)
    columns = list(report.rows[0])
    assert columns[6:9] == ["dtype", "implementation", "backend"]
    assert all(list(row) == columns for row in report.rows)
    found = [tuple(row[name] for name in ("cell", *columns[6:9])) for row in report.rows]
    ours = lambda cell, dtype: [(cell, dtype, "dslstm_jax", "scan")]  # noqa: E731
    flax = lambda dtype: [("lstm", dtype, f"flax {cell}", None) for cell in ("LSTMCell", "OptimizedLSTMCell")]  # noqa: E731
    expected = [*ours("lstm", "float32"), *flax("float32"), *ours("lstm", "bfloat16"), *flax("bfloat16")]
    assert found == [*expected, *ours("ds_lstm", "float32"), *ours("ds_lstm", "bfloat16")]
    assert "Left out, for they cannot run on this cpu: cudnn, pallas_tpu." in report.notes
    assert report.rows[1]["ours is faster by"] == report.rows[1]["median ms"] / report.rows[0]["median ms"]


def test_nothing_is_shown_that_is_not_swept():
    report = benchmark_recurrence(SweepConfig(**SMALL, cell=("lstm",)), 3)
    assert not {"dtype", "backend"} & set(report.rows[0])
    assert not any("Left out" in note for note in report.notes)


def test_inputs_are_of_the_swept_type(monkeypatch):
    seen = []
    monkeypatch.setattr(
        recurrence, "compile_program", lambda function, *arguments: seen.append((function, arguments))
    )
    inputs = [measure.noise(2, 9, 4)]
    recurrence.our_contender(inputs, recurrence.ModelConfig(hidden=5, layers=1, dtype="bfloat16"), "forward")
    ((function, arguments),) = seen
    assert arguments[1].dtype == "bfloat16"
    program = function.lower(*arguments).as_text(dialect="hlo")
    assert [run.trips for run in measure.runs(program) if run.trips] == [9]


def test_operations_of_other_backends_are_those_of_the_scan(monkeypatch):
    model = recurrence.ModelConfig(hidden=5, layers=1)
    scan = recurrence.our_contender([measure.noise(2, 9, 39)], model, "train")
    kernel = replace(scan, program=replace(scan.program, operations=7.0))
    monkeypatch.setattr(recurrence, "our_contender", lambda *_: kernel)
    monkeypatch.setattr(recurrence, "runs_here", lambda _: True)
    row = benchmark_recurrence(SweepConfig(**SMALL, cell=("lstm",), backend=("pallas_tpu",)), 3).rows[0]
    assert row["backend"] == "pallas_tpu"
    assert row["GFLOP/s"] * row["median ms"] * 1e6 == pytest.approx(scan.program.operations)


def test_a_sweep_of_what_is_not_here_is_one_error():
    with pytest.raises(ConfigError, match=r"sweep\.backend: cudnn, pallas_tpu cannot run on this cpu; add scan"):
        benchmark_recurrence(SweepConfig(**SMALL, backend=("cudnn", "pallas_tpu")), 3)

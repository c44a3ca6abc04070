"""`dslstm benchmark recurrence|features|train|predict`, each from end to end at small sizes."""

import json
from dataclasses import replace

import pytest
from tiny import tiny_config, write_tones

from dslstm_jax.benchmark import features, measure, peers, predict
from dslstm_jax.benchmark.sweep import SweepConfig
from dslstm_jax.cli import entry, main
from dslstm_jax.cli.benchmark import Benchmark
from dslstm_jax.config import ModelConfig
from dslstm_jax.errors import ConfigError


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "GEMM_SIZE", 64)
    monkeypatch.setattr(measure, "COPY_VALUES", 1024)
    monkeypatch.setattr(features, "SECONDS", (1, 2))
    monkeypatch.setattr(features, "UTTERANCES", 6)
    monkeypatch.setattr(predict, "COLD_STARTS", 1)
    monkeypatch.setattr(entry, "_parse", _with_tiny_config(entry._parse, write_tones(tmp_path / "tones")))


def _with_tiny_config(parse, tones):
    def parsed(command, argv):
        arguments = parse(command, argv)
        assert isinstance(arguments, Benchmark)
        return replace(arguments, config=tiny_config(tones))

    return parsed


SWEEP = ["--sweep.batch", "2", "--sweep.time", "3", "4", "--sweep.hidden", "5", "--sweep.layers", "1"]
SWEEP += ["--sweep.passes", "train"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("what", ["recurrence", "features", "train", pytest.param("predict", marks=pytest.mark.long)])
def test_every_command_writes_rows_picture_and_page(what, tmp_path, capsys, monkeypatch):
    if what == "recurrence":
        monkeypatch.setattr(peers, "installed", lambda *_: False)  # the next test runs PyTorch's
    page, rows, picture = tmp_path / "PAGE.md", tmp_path / "rows.json", tmp_path / "plots" / "picture.png"
    page.write_text(f"before <!-- begin: benchmark {what} --><!-- end: benchmark {what} --> after")
    places = ["--json", str(rows), "--update", str(page), "--plot", str(picture)]
    assert main(["benchmark", what, "--repeats", "3", *places, *(SWEEP if what == "recurrence" else [])]) == 0
    found = json.loads(rows.read_text())
    assert found["environment"]["packages"]["jax"]
    assert found["environment"]["cores"] >= 1
    assert {"dslstm_jax"} <= {row["implementation"] for row in found["rows"]}
    for row in found["rows"]:
        assert 0 < row["p10 ms"] <= row["median ms"] <= row["p90 ms"]
        if row["implementation"] == "dslstm_jax":
            assert row["share of GEMM peak"] > 0
            assert row["share of copy peak"] > 0
            assert row["peak MB"] > 0
            assert row["compile s"] > 0
    expected = {"recurrence": 4, "features": 3, "train": 2, "predict": 3}[what]
    assert len([row for row in found["rows"] if row["implementation"].startswith("dslstm_jax")]) == expected
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "| implementation |" in page.read_text()
    assert page.read_text().endswith(" after")
    assert "| implementation |" in capsys.readouterr().out


def test_operations_on_padding_do_not_count(tones):
    short, long = (measure.noise(size) for size in (16_000, 64_000))
    padded, full = (
        features.our_contender(waveforms, tiny_config(tones), 2).program
        for waveforms in ([short, long], [long, long])
    )
    assert padded.operations / full.operations == pytest.approx(5 / 8)


def test_batches_of_one_length_share_their_program(tones):
    once, twice = (features.our_contender([measure.noise(16_000)] * count, tiny_config(tones), 2) for count in (2, 4))
    assert twice.program.operations == 2 * once.program.operations
    assert twice.program.traffic == 2 * once.program.traffic
    assert twice.program.memory == once.program.memory
    assert len(twice.call()) == 2 * len(once.call())


@pytest.mark.usefixtures("small")
def test_pytorchs_loops_run_beside_ours():
    pytest.importorskip("torch")
    from dslstm_jax.benchmark.recurrence import our_contender

    inputs = [measure.noise(2, 3, 4), measure.noise(2, 3, 6)]
    for passes in ("forward", "train"):
        found = [
            our_contender(inputs, ModelConfig(hidden=5, layers=1), passes),
            *peers.ds_lstm_peers(*inputs, 5, 1, passes)[:2],
        ]
        found += peers.lstm_peers(inputs[0], 5, 1, passes)[2:]
        names = ["dslstm_jax", "PyTorch loop", "PyTorch loop, hoisted", "torch.nn.LSTM"]
        assert [contender.name for contender in found] == names
        assert all(timing.median > 0 for timing in measure.race(found, 3))


def test_an_empty_or_senseless_sweep_is_named(capsys):
    assert main(["benchmark", "recurrence", "--sweep.time", "0"]) == 2
    assert "sweep.time is (0,); its counts must be at least 1" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"sweep\.batch is empty"):
        SweepConfig(batch=())

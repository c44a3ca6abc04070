"""`dslstm benchmark data`: the same recordings in three forms, read by the pipeline that training uses."""

import json

import pytest
from tiny import tiny_config

from dslstm_jax.benchmark import data
from dslstm_jax.benchmark.data import benchmark_data
from dslstm_jax.cli import main
from dslstm_jax.config import DataConfig
from dslstm_jax.data.pipeline import Loader
from dslstm_jax.reporting.benchmark import Report


def test_the_three_forms_are_read_as_training_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SECONDS", (0.3, 0.5))
    monkeypatch.setattr(data, "UTTERANCES", 12)
    monkeypatch.setattr(data, "STEPS", 2)
    read, whole = [], Loader.batches

    def watched(loader, *args, **kwargs):
        read.append(loader)
        return whole(loader, *args, **kwargs)

    monkeypatch.setattr(Loader, "batches", watched)
    report = benchmark_data(tiny_config("unused", data=DataConfig(max_lengths=1)), tmp_path)
    assert [row["recordings"] for row in report.rows] == ["48 kHz WAV", "16 kHz WAV", "ArrayRecord"]
    for row in report.rows:
        assert row["utterances/s"] > 0
        assert row["reading is faster by"] == pytest.approx(row["step ms"] / row["reading ms"])
        assert 0 <= row["waited ms"] < row["both ms"]
    loaders = {id(loader): loader for loader in read}.values()
    assert len(loaders) == 3
    assert len({tuple(sorted(loader.dataset.lengths)) for loader in loaders}) == 1
    assert len({loader.padded_lengths for loader in loaders}) == 1


def test_the_command_prints_and_writes_the_report(tmp_path, monkeypatch, capsys):
    def report(config, _):
        return Report("data", ("A note.",), ({"x": config.training.batch_size},))

    monkeypatch.setattr(data, "benchmark_data", report)
    page = tmp_path / "BENCHMARKS.md"
    page.write_text("<!-- begin: benchmark data --><!-- end: benchmark data -->")
    assert main(["benchmark", "data", "--json", str(tmp_path / "a.json"), "--update", str(page)]) == 0
    assert capsys.readouterr().out == "| x |\n| ---: |\n| 32 |\nA note.\n"
    assert json.loads((tmp_path / "a.json").read_text())["rows"] == [{"x": 32}]
    assert "| 32 |" in page.read_text()

"""A benchmark is published: warm timings, JSON with the machine, and a block of a Markdown file that is its own."""

import json
import re
import time

import pytest

from dslstm_jax.benchmark.measure import Contender, race
from dslstm_jax.errors import RunError
from dslstm_jax.reporting.benchmark import Report, publish

REPORT = Report(
    "data", ("A note.",), ({"recordings": "WAV", "ms": 1.23456, "of": None}, {"recordings": "x", "ms": 1e4, "of": 2})
)
PAGE = "# Before\n\n<!-- begin: benchmark data -->\nold\n<!-- end: benchmark data -->\n\n## After\n"


def test_the_first_call_is_kept_apart():
    calls = []

    def call():
        calls.append(1)
        time.sleep(0.2 if len(calls) == 1 else 0.01)

    (timing,) = race([Contender("", call)], repeats=5)
    assert len(calls) == 6
    assert timing.first > 0.2
    assert 0.01 <= timing.p10 <= timing.median <= timing.p90 < 0.2


def test_json_holds_the_rows_and_the_machine(tmp_path):
    publish(REPORT, tmp_path / "out.json", None)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["rows"] == list(REPORT.rows)
    assert {"command", "commit", "devices", "packages", "processor", "python"} <= found["environment"].keys()


def test_only_its_own_block_is_rewritten(tmp_path):
    page = tmp_path / "BENCHMARKS.md"
    page.write_text(PAGE)
    for _ in range(2):
        publish(REPORT, None, page)
        text = page.read_text()
        assert text.startswith("# Before\n\n<!-- begin: benchmark data -->\n\n`dslstm")
        assert re.search(r"` at ([0-9a-f]{7}(-dirty)?|an unknown commit); .+, \d+ cores?, devices: cpu; ", text)
        assert text.endswith("A note.\n\n<!-- end: benchmark data -->\n\n## After\n")
        assert "old" not in text
        assert "| recordings | ms | of |\n| --- | ---: | ---: |\n| WAV | 1.23 |  |\n| x | 10 000 | 2 |" in text


def test_a_page_without_the_block_is_an_error(tmp_path):
    page = tmp_path / "BENCHMARKS.md"
    page.write_text("# Nothing\n")
    with pytest.raises(RunError, match="no block for it; put the lines <!-- begin: benchmark data --> and"):
        publish(REPORT, None, page)
    assert page.read_text() == "# Nothing\n"

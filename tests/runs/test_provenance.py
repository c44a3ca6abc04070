"""What is kept with every figure."""

import platform
import re
from pathlib import Path

import pytest

from dslstm_jax.runs import provenance as environment
from dslstm_jax.runs.provenance import describe_environment, describe_machine

ROOT = Path(__file__).parents[2]
EPYC = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC
stepping\t: 1
"""


def test_it_says_what_a_figure_depends_on():
    found = describe_environment()
    if (ROOT / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found["commit"])
    else:
        assert found["commit"] is None
    assert found["packages"]["jax"]
    assert 1 <= found["cores"] <= 4096
    assert describe_machine({**found, "processor": "abacus"}).startswith(f"abacus, {found['cores']} core")


def test_a_machine_in_words():
    machine = {"processor": "abacus", "cores": 2, "devices": ["TPU v4", "TPU v4"]}
    assert describe_machine(machine) == "abacus, 2 cores, devices: TPU v4"
    assert describe_machine({**machine, "cores": 1}) == "abacus, 1 core, devices: TPU v4"


@pytest.mark.parametrize(
    ("told", "processor"),
    [
        (EPYC, "AMD EPYC (family 26, model 2)"),
        ("model name\t: POWER9\n", "POWER9"),
        ("CPU part\t: 0xd0c\n", "another"),
        (None, "another"),
    ],
)
def test_processors_of_one_name_are_told_apart(monkeypatch, tmp_path, told, processor):
    monkeypatch.setattr(platform, "processor", lambda: "another")
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told)
    assert environment._processor(tmp_path / "cpuinfo") == processor

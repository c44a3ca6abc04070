"""The checks that a fork's GitHub runs are those of this machine."""

import os
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["run", "newest"])
def test_the_workflow_runs_what_is_run_here(name):
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert [step["run"] for step in jobs[name]["steps"] if "run" in step] == [f"bash .ci/{name}"]
    assert os.access(ROOT / ".ci" / name, os.X_OK)


def test_run_is_the_readmes_command():
    """Which .ci/run reads from the line under the marker and the fence."""
    lines = (ROOT / "README.md").read_text().splitlines()
    marker = lines.index("<!-- command: test -->")
    assert lines[marker + 1] == "```bash"
    assert lines[marker + 2].startswith('pip install -e ".[dev]" && ruff check')
    assert "readme_command test" in (ROOT / ".ci" / "run").read_text()

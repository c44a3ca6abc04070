"""The README's first command, as a stranger types it."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def readme_command(name: str) -> str:
    """The code block under `<!-- command: NAME -->`."""
    found = re.search(rf"<!-- command: {name} -->\n```bash\n(.*)\n```", (ROOT / "README.md").read_text())
    assert found
    return found[1]


@pytest.mark.slow
def test_quickstart_trains_and_its_last_lines_work(tmp_path):
    command = readme_command("quickstart").split(" && ")[-1]
    assert command.startswith("dslstm train configs/quickstart.py --workdir runs/quickstart")
    run = tmp_path / "run"
    arguments = command.replace("runs/quickstart", str(run)).split()[1:]
    started = time.monotonic()
    dslstm = [sys.executable, "-m", "dslstm_jax"]
    environment = {
        name: value for name, value in os.environ.items() if name != "XLA_FLAGS"
    }  # conftest's is for tests
    found = subprocess.run(
        [*dslstm, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    seconds = time.monotonic() - started
    lines = found.stdout.splitlines()
    print(f"quickstart took {seconds:.0f} s and ended with:", *lines[-10:], sep="\n")
    accuracy = re.fullmatch(r"test WA=(\S+) UA=(\S+) \(speaker5 fold 0 of seed 0, 4 unseen speakers, .*\)", lines[-1])
    assert accuracy
    assert float(accuracy[2]) >= 0.85
    assert f"run folder: {run}" in lines
    hint = next(line for line in lines if line.startswith("try: "))
    answer = subprocess.run(
        [*dslstm, *hint.removeprefix("try: dslstm ").split()], capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines()[1].split()[1] in ("happy", "neutral", "angry", "sad")
    assert seconds <= 180

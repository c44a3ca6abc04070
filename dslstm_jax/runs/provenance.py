"""What else a figure depends on: the machine, the versions, the commit and the command."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax


def describe_environment() -> dict[str, Any]:
    """Versions, devices, processor, cores, commit and command of this process.

    Seeds repeat a run digit for digit on the same processor and as many cores; on another one sums round otherwise.
    """
    packages = ("dslstm-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "soxr")
    return {
        "command": sys.argv,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": _cores(),
        "devices": [device.device_kind for device in jax.devices()],
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


def describe_machine(environment: Mapping[str, Any]) -> str:
    """Its processor and devices in words, such as `AMD EPYC (family 26, model 2), 2 cores, devices: cpu`."""
    devices = ", ".join(dict.fromkeys(environment["devices"]))
    cores = environment["cores"]
    return f"{environment['processor']}, {cores} core{'s' * (cores > 1)}, devices: {devices}"


def _commit() -> str | None:
    """The commit of this code, with -dirty where it was changed; None where it is not run from a repository."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie inside another repository
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor(told: Path = Path("/proc/cpuinfo")) -> str:
    """Its name; with family and model where Linux tells them, for clouds give one name to several generations."""
    try:
        lines = told.read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", lines, re.MULTILINE))
    if "model name" not in found:
        return platform.processor()
    if "cpu family" not in found:
        return found["model name"]
    return f"{found['model name']} (family {found['cpu family']}, model {found['model']})"


def _cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

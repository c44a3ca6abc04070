"""JAX on two CPU devices, each program compiled once, and one trained run that several tests look at."""

import fcntl
import gc
import importlib.metadata
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

_programs = tempfile.TemporaryDirectory()
# In the environment, so that the processes that tests start share them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "PYTEST_XDIST_WORKER" not in os.environ:  # which shares the programs of the process that started it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
# Later jaxlibs have one kind of emitters, and end at a flag that they do not know.
_plain = (
    "--xla_cpu_use_fusion_emitters=false --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
) * importlib.metadata.version("jaxlib").startswith("0.10.")
os.environ |= {
    # Most of the tests' time goes into compiling, most of that into LLVM's optimizer, and most of the rest into the
    # emitters of fused loops; the plain ones take a third of the time. A program in one part takes less than one in
    # parts, which idle cores would compile at once. test_quickstart.py runs without these flags.
    "XLA_FLAGS": f"--xla_backend_optimization_level=0 {_plain}",
    "JAX_NUM_CPU_DEVICES": "2",
    "OMP_NUM_THREADS": "1",  # pytest's workers have a core each, and threads that wait for others turn in circles
    "PJRT_NPROC": "16",  # with as many threads as cores, devices can wait for each other forever
    # An array meets another of its own rank and type, or the code says how.
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}

gc.set_threshold(100_000, 50, 50)  # JAX makes many objects that live; to look through them takes a tenth of the time

MUCH = 3 * 2**30
"""Bytes that a process of pytest may keep from module to module."""


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """What was compiled for one module serves the next, until it takes gigabytes; the large programs are on disk."""
    yield
    memory = Path("/proc/self/statm")
    if memory.exists() and int(memory.read_text().split()[1]) * resource.getpagesize() > MUCH:
        import jax

        jax.clear_caches()
        gc.collect()


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first of xdist's workers makes and the others wait for."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def tones(tmp_path_factory):
    """The folder of a small corpus of tones."""
    from tiny import write_tones

    return made_once(tmp_path_factory, "tones", lambda folder: write_tones(folder / "tones")) / "tones"


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tones):
    """A run folder that `dslstm train` made from the tones."""
    from tiny import tiny_config, write_config

    from dslstm_jax.cli import main

    def train(folder: Path) -> None:
        config = write_config(folder / "tiny.py", tiny_config(tones))
        assert main(["train", str(config), "--workdir", str(folder / "run")]) == 0

    return made_once(tmp_path_factory, "trained", train) / "run"

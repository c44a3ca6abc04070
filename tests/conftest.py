"""JAX on two CPU devices, each program compiled once, and one trained run that several tests look at."""

import os
import tempfile

import pytest

_programs = tempfile.TemporaryDirectory()
# In the environment, so that the processes that tests start share them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "PYTEST_XDIST_WORKER" not in os.environ:  # which shares the programs of the process that started it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
os.environ |= {
    # Most of the tests' time goes into compiling, and most of that into LLVM's optimizer.
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "JAX_NUM_CPU_DEVICES": "2",
    "PJRT_NPROC": "16",  # with as many threads as cores, devices can wait for each other forever
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@pytest.fixture(scope="session")
def tones(tmp_path_factory):
    """The folder of a small corpus of tones."""
    from tiny import write_tones

    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tones):
    """A run folder that `dslstm train` made from the tones."""
    from tiny import tiny_config, write_config

    from dslstm_jax.cli import main

    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder / "tiny.py", tiny_config(tones))
    assert main(["train", str(config), "--workdir", str(folder / "run")]) == 0
    return folder / "run"

"""One device, pmap, shard_map, two processes: the same steps, but for rounding."""

import json
import os
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from tiny import FEATURES

from dslstm_jax.config import Config, ModelConfig, TrainingConfig
from dslstm_jax.data.batches import Batch
from dslstm_jax.errors import ConfigError
from dslstm_jax.training.devices import ParallelConfig
from dslstm_jax.training.parallel import make_parallel, start_processes
from dslstm_jax.training.step import create_state

WORKER = Path(__file__).parents[1] / "parallel_worker.py"


def start(tones, output, devices, *saved, **parallel):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    command = [
        sys.executable,
        str(WORKER),
        str(tones),
        str(output),
        str(devices),
        json.dumps(parallel),
        *map(str, saved),
    ]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    for process in processes:
        _, said = process.communicate(timeout=500)
        assert process.returncode == 0, said


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def single(tones, tmp_path_factory):
    output = tmp_path_factory.mktemp("single") / "out.npz"
    finish(start(tones, output, 1, mode="single"))
    return dict(np.load(output))


def assert_same(output, single):
    found = dict(np.load(output))
    assert found.keys() == single.keys()
    np.testing.assert_allclose(found["losses"], single["losses"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found["confusion"], single["confusion"])
    for name in found.keys() - {"losses", "confusion"}:
        np.testing.assert_allclose(found[name], single[name], rtol=1e-3, atol=2e-4, err_msg=name)
    return np.abs(found["losses"] - single["losses"]).max()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pmap", pytest.param("shard_map", marks=pytest.mark.long)])
def test_four_devices_take_the_steps_of_one(tones, tmp_path, single, mode):
    """Theirs are cut out of what lies on the devices, those of one are read from files; so below."""
    finish(start(tones, tmp_path / "out.npz", 4, mode=mode, keep="device"))
    print(f"{mode}, 4 devices: losses of ten steps within {assert_same(tmp_path / 'out.npz', single):.1e}")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", pytest.param("pmap", marks=pytest.mark.long)])
def test_two_processes_of_two_devices_take_the_steps_of_one(tones, tmp_path, single, mode):
    coordinator = f"127.0.0.1:{free_port()}"
    shared = {"mode": mode, "coordinator": coordinator, "processes": 2, "keep": "device"}
    finish(*[start(tones, tmp_path / "out.npz", 2, process=process, **shared) for process in (0, 1)])
    print(f"2 processes, {mode}: losses of ten steps within {assert_same(tmp_path / 'out.npz', single):.1e}")


@pytest.mark.long
def test_what_four_devices_saved_goes_on_on_one_and_on_two_processes(tones, tmp_path, single):
    """Each is told of the state only what the checkpoint says."""
    finish(start(tones, tmp_path / "first.npz", 4, tmp_path / "four", mode="shard_map"))
    for name in ("one", "two"):
        shutil.copytree(tmp_path / "four", tmp_path / name)
    shared = {"coordinator": f"127.0.0.1:{free_port()}", "processes": 2}
    processes = [
        start(tones, tmp_path / "two.npz", 2, tmp_path / "two", process=process, **shared) for process in (0, 1)
    ]
    finish(start(tones, tmp_path / "one.npz", 1, tmp_path / "one", mode="single"), *processes)
    for name, expected in {
        "first": single["losses"][:5],
        "one": single["losses"][5:],
        "two": single["losses"][5:],
    }.items():
        found = np.load(tmp_path / f"{name}.npz")["losses"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        print(f"saved on 4 devices, {name}: five losses within {np.abs(found - expected).max():.1e}")


def test_auto_takes_pmap_for_the_devices_of_one_process():
    assert len(jax.devices()) == 2
    assert make_parallel(ParallelConfig()).mode == "pmap"
    one = make_parallel(ParallelConfig(mode="single"), TrainingConfig(batch_size=3))
    assert (one.mode, len(one.devices), one.share) == ("single", 1, (0, 1))


def test_rows_that_cannot_be_shared_are_an_error():
    with pytest.raises(ConfigError, match=r"training\.batch_size: 5 rows cannot be shared by 2 devices"):
        make_parallel(ParallelConfig(mode="shard_map"), TrainingConfig(batch_size=5))
    with pytest.raises(ConfigError, match="6 rows cannot be shared by 2 devices in 2 parts; make it a multiple of 4"):
        make_parallel(ParallelConfig(mode="shard_map"), TrainingConfig(batch_size=6, accumulate=2))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"processes": 2}, "needs --parallel.coordinator"),
        ({"coordinator": "127.0.0.1:1", "processes": 2}, "--parallel.process I"),
    ],
)
def test_half_a_process_is_an_error(settings, words):
    with pytest.raises(ConfigError, match=words):
        start_processes(ParallelConfig(**settings))


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_two_devices_whose_rows_weigh_differently_take_the_step_of_one(mode):
    """The first has three utterances, the second one, and padding of NaN."""
    training = TrainingConfig(batch_size=6, class_weights="balanced", label_smoothing=0.1)
    config = Config(features=FEATURES, model=ModelConfig("none", mfcc_hidden=6, layers=1), training=training)
    generator = np.random.default_rng(0)
    waveforms, lengths = np.full((6, 4000), np.nan, np.float32), np.array([4000, 3000, 3500, 2500, 0, 0], np.int32)
    for row, length in enumerate(lengths):
        waveforms[row, :length] = 0.1 * generator.normal(size=length)
    weights = np.array([3.0, 0.5, 0.5, 2.0, 0.0, 0.0], np.float32)
    batch = Batch(waveforms, lengths, np.array([0, 1, 1, 2, 99, 99], np.int32), weights, np.arange(6, dtype=np.int32))
    ends = []
    for ways in (make_parallel(ParallelConfig(mode=one), training) for one in ("single", mode)):
        state = ways.spread(create_state(config, 3, optax.sgd(1.0)))
        learn = ways.train_step(config, optax.sgd(1.0))
        ends.append(ways.gather(learn(state, ways.place(batch), np.uint32(0))))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), ends[1], ends[0])
    assert ends[1][1].utterances == 4


@pytest.mark.parametrize("mode", ["single", "pmap", "shard_map"])
def test_what_is_spread_can_be_gathered(mode):
    ways = make_parallel(ParallelConfig(mode=mode))
    tree = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.int32(4)}
    same = jax.pmap(lambda leaf: leaf) if mode == "pmap" else jax.jit(lambda leaf: leaf)
    gathered = ways.gather(same(ways.spread(tree)))
    jax.tree.map(np.testing.assert_array_equal, gathered, tree)

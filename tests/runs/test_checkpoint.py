"""Checkpoints: none is lost by a kill, a full disk or a flipped bit, and each comes back exactly, on any devices."""

import hashlib
import itertools
import json
import math
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dslstm_jax.config import TrainingConfig
from dslstm_jax.errors import RunError
from dslstm_jax.ops.metrics import Totals
from dslstm_jax.runs import checkpoint
from dslstm_jax.runs import checksums as digests
from dslstm_jax.runs.checkpoint import Checkpoints
from dslstm_jax.runs.checksums import find_fault
from dslstm_jax.runs.state import Progress, TrainState
from dslstm_jax.training.step import make_optimizer

OPTIMIZER = make_optimizer(TrainingConfig(), steps_per_epoch=1)
THIRD = Totals(np.float64(1) / 3, np.float64(7), np.arange(4).reshape(2, 2) / np.float64(7))
no_warning = partial(pytest.fail, pytrace=False)


def state(step: int, rows: int = 3) -> TrainState:
    """Another at each step."""
    key = jax.random.key(step)
    variables = {"params": {"w": jax.random.normal(key, (rows, 2))}, "batch_stats": {"mean": jnp.full(2, -step / 7)}}
    gradients = jax.tree.map(jnp.sin, variables["params"])
    _, optimizer = OPTIMIZER.update(gradients, OPTIMIZER.init(variables["params"]))
    return TrainState(jnp.asarray(step, jnp.int32), variables, optimizer)


def records(epochs: int):
    return [{"epoch": epoch, "train_loss": 1 / (3 + epoch)} for epoch in range(1, epochs + 1)]


def save(folder, *scores: float | None):
    """A checkpoint a score; an epoch ends at each that is not None."""
    epochs = 0
    with Checkpoints(folder) as checkpoints:
        for step, score in enumerate(scores, start=1):
            epochs += score is not None
            checkpoints.save(state(step), Progress(epochs + 1, 0, None, records(epochs)), score)


def names(folder):
    return {path.name for path in folder.iterdir()}


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def assert_equal(found, expected):
    def check(ours, theirs):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))

    jax.tree.map(check, found, expected)


def latest(folder, warn=no_warning, **options):
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore_latest(state(0), warn=warn, **options)
        if found is not None:
            assert_equal(found[0], state(int(found[0].step)))
        return found and int(found[0].step)


def best(folder, **options):
    """The step and the epoch of the best."""
    variables, epoch = Checkpoints(folder).restore_best(state(0).variables, **options)
    score = [
        step for step in range(99) if np.array_equal(state(step).variables["params"]["w"], variables["params"]["w"])
    ]
    return *score, epoch


def test_the_two_newest_and_the_two_best_are_kept(tmp_path):
    folder = tmp_path / "c"
    save(folder, 0.2, 0.9, 0.5, 0.8, 0.3, None, None)
    assert names(folder) == {"2", "4", "6", "7"}
    assert best(folder) == (2, 2)
    with Checkpoints(folder) as checkpoints:  # opened anew: the scores come from the disk
        found, progress = checkpoints.restore_latest(state(0), warn=no_warning)
        assert_equal(found, state(7))
        assert progress.records == records(5)
        checkpoints.save(state(8), Progress(7, 0, None, records(6)), 0.95)
    assert names(folder) == {"2", "7", "8"}
    assert best(folder) == (8, 6)


def test_of_equal_scores_the_latest_counts(tmp_path):
    save(tmp_path / "c", 0.3, 0.9, 0.9, 0.1)
    assert best(tmp_path / "c") == (3, 3)
    assert best(tmp_path / "c", last=True) == (4, 4)


def test_a_score_that_is_not_a_number_is_never_the_best(tmp_path):
    save(tmp_path / "c", 0.3, math.nan, 0.1, math.nan)
    assert best(tmp_path / "c") == (1, 1)


def test_progress_comes_back_to_the_last_bit(tmp_path):
    odd = [{"epoch": 1, "a": 0.1 + 0.2, "b": math.pi * 1e-300, "c": math.inf, "d": 1 / 3, "e": None}]
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state(5), Progress(2, 3, THIRD, odd))
        found, progress = checkpoints.restore_latest(state(0), warn=no_warning)
    assert_equal(found, state(5))
    assert (progress.epoch, progress.batches, progress.records) == (2, 3, odd)
    assert_equal(progress.totals, THIRD)


def test_nothing_saved_yet(tmp_path):
    assert latest(tmp_path / "c") is None
    with pytest.raises(RunError, match=r"holds no checkpoint.*--resume"):
        best(tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_the_middle_of_an_epoch_is_the_latest_but_never_the_best(tmp_path):
    save(tmp_path / "c", None, None, None)
    assert latest(tmp_path / "c") == 3
    with pytest.raises(RunError, match=r"holds no checkpoint.*--resume"):
        best(tmp_path / "c")


def test_the_end_of_an_epoch_takes_the_place_of_its_last_step(tmp_path):
    save(tmp_path / "c", None, None)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.restore_latest(state(0), warn=no_warning)
        checkpoints.save(state(2), Progress(2, 0, None, records(1)), 0.5)
    assert names(tmp_path / "c") == {"1", "2"}
    assert best(tmp_path / "c") == (2, 1)


def test_variables_from_elsewhere_are_the_best_of_epoch_0(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save_variables(state(4).variables)
    assert best(tmp_path / "c") == (4, 0)


def test_a_state_may_be_donated_once_it_is_saved(tmp_path):
    grow = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    big = state(1, rows=500_000)
    kept = jax.tree.map(lambda leaf: np.array(leaf), big)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(big, Progress())
        for _ in range(20):
            big = grow(big)
        jax.block_until_ready(big)
    found, _ = Checkpoints(tmp_path / "c").restore_latest(kept, warn=no_warning)
    assert_equal(found, kept)


def test_averaged_weights_predict_and_the_others_go_on(tmp_path):
    averaged = state(1).replace(average=state(2).variables)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(averaged, Progress(), 0.5)
        found, _ = checkpoints.restore_latest(state(0).replace(average=state(0).variables), warn=no_warning)
        assert_equal(found, averaged)
        assert_equal(checkpoints.restore_best(state(0).variables)[0], state(2).variables)


def test_another_model_is_one_clear_error(tmp_path):
    save(tmp_path / "c", 0.3)
    wider = {"params": {"w": jnp.zeros((5, 2))}, "batch_stats": {"mean": jnp.zeros(2)}}
    with pytest.raises(RunError, match=r"c/1 cannot be restored: .*\(5, 2\)") as caught:
        Checkpoints(tmp_path / "c").restore_best(wider)
    assert "\n" not in str(caught.value)
    assert latest(tmp_path / "c") == 1  # it was not taken for a damaged one


def test_the_digests_are_those_of_sha256sum_and_of_all_files(tmp_path):
    save(tmp_path / "c", 0.3)
    folder = tmp_path / "c" / "1"
    listed = [line.split("  ") for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert [folder / name for _, name in listed] == [path for path in files(folder) if path.name != "SHA256SUMS"]
    for digest, name in listed:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


# What can happen to the files.


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Checkpoints 1, 2 and 3; 1 is the best."""
    folder = tmp_path_factory.mktemp("three") / "c"
    save(folder, 0.9, 0.5, 0.4)
    return folder


def copy(three, tmp_path):
    return Path(shutil.copytree(three, tmp_path / "c", dirs_exist_ok=True))


def flip(path: Path, position: int | None = None):
    """Flips one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    path.write_bytes(bytes(data))


def test_one_flipped_bit_in_any_file_of_the_newest_is_noticed(three, tmp_path):
    damaged = [path.relative_to(three) for path in files(three / "3")]
    assert len(damaged) > 20
    for path in damaged:
        folder = copy(three, tmp_path)
        flip(folder / path)
        lines: list[str] = []
        assert latest(folder, lines.append) == 2
        assert len(lines) == 1
        assert "checkpoint 3 is damaged" in lines[0]
        assert "going on from checkpoint 2" in lines[0]
        assert "\n" not in lines[0]
        assert names(folder) == {"1", "2", "3.damaged"}
        shutil.rmtree(folder)


def test_each_byte_of_the_digests_counts(three, tmp_path):
    folder = copy(three, tmp_path) / "3"
    listed = folder / "SHA256SUMS"
    data = listed.read_bytes()
    assert find_fault(folder) is None
    end = data.index(b"\n")
    others = [
        data[:position] + bytes([data[position] ^ 7]) + data[position + 1 :] for position in (0, 64, 65, 66, end, -2)
    ]
    for other in (b"", data[: end + 1], data[end + 1 :], data[:-1] + b"\r", data[:-1], data + b"\n", *others):
        listed.write_bytes(other)
        assert "is damaged" in find_fault(folder)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda folder: (folder / "variables" / "manifest.ocdbt").unlink(), "variables/manifest.ocdbt is missing"),
        (lambda folder: shutil.rmtree(folder / "optimizer"), "optimizer/.* is missing"),
        (lambda folder: (folder / "progress" / "metadata").write_bytes(b""), "progress/metadata does not match"),
        (lambda folder: (folder / "progress" / "new").write_bytes(b""), "progress/new does not match"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "was never finished"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_saving_goes_on(three, tmp_path, harm, why):
    folder = copy(three, tmp_path)
    harm(folder / "3")
    lines: list[str] = []
    with Checkpoints(folder) as checkpoints:
        found, progress = checkpoints.restore_latest(state(0), warn=lines.append)
        assert_equal(found, state(2))
        checkpoints.save(state(3), Progress(4, 0, None, [*progress.records, records(3)[-1]]), 0.4)
    (line,) = lines
    assert line.startswith("checkpoint 3 ")
    assert line.endswith("; going on from checkpoint 2")
    assert re.search(why, line)
    assert latest(folder) == 3
    assert names(folder) == {"1", "2", "3", "3.damaged"}


def test_hidden_files_that_file_systems_leave_behind_are_no_damage(three, tmp_path):
    folder = copy(three, tmp_path)
    (folder / "3" / "variables" / ".nfs0001").write_text("x")
    (folder / ".DS_Store").write_text("x")
    assert latest(folder) == 3


def test_several_damaged_ones_are_passed_over_in_one_line(three, tmp_path):
    folder = copy(three, tmp_path)
    flip(folder / "3" / "_CHECKPOINT_METADATA")
    flip(folder / "2" / "_CHECKPOINT_METADATA")
    lines: list[str] = []
    assert latest(folder, lines.append) == 1
    assert len(lines) == 1
    assert "checkpoint 3 is damaged" in lines[0]
    assert "checkpoint 2 is damaged" in lines[0]


def test_where_none_is_whole_nothing_is_touched(three, tmp_path):
    folder = copy(three, tmp_path)
    for step in "123":
        flip(folder / step / "optimizer" / "_METADATA")
    for _ in range(2):
        with pytest.raises(RunError, match=r"checkpoint 3 is damaged.*checkpoint 1 is.*--workdir") as caught:
            latest(folder)
        assert "\n" not in str(caught.value)
    assert names(folder) == {"1", "2", "3"}


def test_a_first_save_that_was_cut_short_is_as_good_as_none(three, tmp_path):
    folder = copy(three, tmp_path)
    for step in "123":
        (folder / step / "SHA256SUMS").unlink()
    with pytest.raises(RunError, match="holds no checkpoint"):
        best(folder)
    lines: list[str] = []
    assert latest(folder, lines.append) is None
    assert len(lines) == 1
    assert lines[0].endswith("; starting anew")


def test_a_damaged_best_is_one_clear_error_and_resuming_goes_on_without_it(three, tmp_path):
    folder = copy(three, tmp_path)
    flip(max(files(folder / "1" / "variables"), key=lambda path: path.stat().st_size))
    with pytest.raises(RunError, match=r"checkpoint 1 is damaged: variables/.*--resume") as caught:
        best(folder)
    assert "\n" not in str(caught.value)
    assert names(folder) == {"1", "2", "3"}
    lines: list[str] = []
    assert latest(folder, lines.append) == 3
    assert "checkpoint 1 is damaged" in lines[0]
    assert best(folder) == (2, 2)


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "metrics" / "metrics").write_text(json.dumps({checkpoint.SCORE: 0.1})),
        lambda folder: (folder / "metrics" / "metrics").unlink(),
        lambda folder: flip(folder / "SHA256SUMS", (folder / "SHA256SUMS").read_bytes().index(b"metrics/metrics")),
    ],
    ids=["changed", "missing", "not listed"],
)
def test_a_damaged_score_does_not_let_another_epoch_win(three, tmp_path, harm):
    folder = copy(three, tmp_path)
    harm(folder / "1")
    with pytest.raises(RunError, match="checkpoint 1 is damaged: metrics/metrics"):
        best(folder)


def test_reading_the_best_leaves_a_save_in_progress_alone(three, tmp_path):
    folder = copy(three, tmp_path)
    saving = folder / "9.orbax-checkpoint-tmp"
    (saving / "variables").mkdir(parents=True)
    (folder / ".deleted").mkdir()
    before = sorted(folder.rglob("*"))
    assert best(folder) == (1, 1)
    assert sorted(folder.rglob("*")) == before
    with Checkpoints(folder) as checkpoints:  # the next run clears it away
        checkpoints.save(state(4), Progress())
    assert names(folder) == {"1", "2", "3", "4"}


# What can happen during a save.


def raising(error):
    def instead(*_):
        raise error

    return instead


def raising_behind(error):
    """Where Orbax writes JSON in the background."""

    async def instead(*_):
        raise error

    return instead


@pytest.mark.parametrize(
    "then",
    [
        lambda checkpoints: checkpoints.wait(),
        lambda checkpoints: checkpoints.close(),
        lambda checkpoints: checkpoints.save(state(9), Progress()),
        lambda checkpoints: checkpoints.restore_latest(state(0), warn=no_warning),
        lambda checkpoints: checkpoints.restore_best(state(0).variables),
    ],
    ids=["wait", "close", "save", "restore_latest", "restore_best"],
)
def test_a_save_that_fails_is_one_clear_error_wherever_it_is_awaited(tmp_path, monkeypatch, capfd, caplog, then):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state(1), Progress())
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(ocp.JsonCheckpointHandler, "_save_fn", raising_behind(OSError(5, "Input/output error")))
            checkpoints.save(state(2), Progress())
            with pytest.raises(RunError, match=r"checkpoint 2 cannot be saved: .*Input/output error") as caught:
                then(checkpoints)
    assert "checkpoint 1 is intact" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert latest(tmp_path / "c") == 1
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_an_interrupted_block_that_cannot_be_saved_says_so(tmp_path, monkeypatch):
    def interrupted():
        with Checkpoints(tmp_path / "c") as checkpoints:
            checkpoints.save(state(1), Progress())
            raise KeyboardInterrupt

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "_save_fn", raising_behind(OSError(28, "No space left on device")))
    with pytest.raises(RunError, match="no space left; there is none before it; make room"):
        interrupted()


def test_no_digests_no_checkpoint_and_the_best_before_is_still_there(tmp_path, monkeypatch):
    save(tmp_path / "c", 0.9, 0.2, 0.3)
    with Checkpoints(tmp_path / "c") as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(digests, "write_text", raising(RunError("cannot write: No space left on device")))
            checkpoints.save(state(4), Progress(5, 0, None, records(4)), 0.95)
            with pytest.raises(RunError, match="checkpoint 4 cannot be saved: no space left; checkpoint 3 is intact"):
                checkpoints.wait()
        assert names(tmp_path / "c") >= {"1", "3", "4"}
        assert best(tmp_path / "c") == (1, 1)
        checkpoints.save(state(5), Progress())
    assert names(tmp_path / "c") == {"1", "3", "4.damaged", "5"}
    assert latest(tmp_path / "c") == 5


def test_an_old_checkpoint_goes_at_once(tmp_path, monkeypatch):
    """Deleting it file by file could be cut short, and what is left would look damaged."""
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    save(tmp_path / "c", None, None, None)
    assert names(tmp_path / "c") == {".deleted", "2", "3"}
    assert find_fault(tmp_path / "c" / ".deleted" / "1") is None


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "c").write_text("a file is in its place")
    with pytest.raises(RunError, match="checkpoint 1 cannot be saved"), Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state(1), Progress())


@pytest.mark.parametrize("kilobytes", [150, 300, 450])
def test_a_full_disk_leaves_the_checkpoint_before_intact(tmp_path, kilobytes):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        saved = 0
        with Checkpoints(disk / "c") as checkpoints:
            try:
                while True:
                    checkpoints.save(state(saved + 1, rows=(saved + 1) * 2000), Progress())
                    checkpoints.wait()
                    saved += 1
            except RunError as error:
                message = str(error)
        assert f"checkpoint {saved + 1} cannot be saved: no space left; " in message
        assert "\n" not in message
        if saved:
            assert f"checkpoint {saved} is intact" in message
            found, _ = Checkpoints(disk / "c").restore_latest(state(0, rows=saved * 2000), warn=no_warning)
            assert_equal(found, state(saved, rows=saved * 2000))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# Other devices, other processes.


def everywhere():
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec())


def test_saved_on_two_devices_and_restored_on_one_and_back(tmp_path):
    assert jax.device_count() == 2
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(jax.device_put(state(1), everywhere()), Progress(), 0.5)
        one, _ = checkpoints.restore_latest(state(0), warn=no_warning)
        assert {leaf.device for leaf in jax.tree.leaves(one)} == {jax.devices()[0]}
        checkpoints.save(one.replace(step=one.step + 1), Progress())
        two, _ = checkpoints.restore_latest(state(0), warn=no_warning, sharding=everywhere())
        assert {leaf.sharding for leaf in jax.tree.leaves(two)} == {everywhere()}
        assert_equal(two, state(1).replace(step=jnp.asarray(2)))
        variables, _ = checkpoints.restore_best(state(0).variables, sharding=everywhere())
        assert {leaf.sharding for leaf in jax.tree.leaves(variables)} == {everywhere()}


def go_on(folder: str, devices: int, processes: int, index: int, port: int, expected: int, warnings: int):
    """One process of a run: finds checkpoint `expected` (0: none), and saves the two after it."""
    if processes > 1:
        jax.distributed.initialize(
            f"127.0.0.1:{port}",
            num_processes=processes,
            process_id=index,
            cluster_detection_method="deactivate",
            initialization_timeout=60,
            heartbeat_timeout_seconds=20,
            shutdown_timeout_seconds=20,
        )
    assert jax.device_count() == devices * processes
    sharding = everywhere()
    lines: list[str] = []
    with Checkpoints(Path(folder)) as checkpoints:
        found = checkpoints.restore_latest(state(0), warn=lines.append, sharding=sharding)
        assert (found is None) == (expected == 0)
        if found is not None:
            assert {leaf.sharding for leaf in jax.tree.leaves(found[0])} == {sharding}
            assert_equal(jax.tree.map(lambda leaf: leaf.addressable_data(0), found[0]), state(expected))
            variables, epoch = checkpoints.restore_best(state(0).variables)
            assert_equal(variables, state(expected).variables)
            assert epoch == expected
        for step in (expected + 1, expected + 2):
            spread = jax.tree.map(
                partial(jax.make_array_from_process_local_data, sharding), jax.tree.map(np.asarray, state(step))
            )
            checkpoints.save(spread, Progress(step + 1, 0, None, records(step)), step / 99)
    assert len(lines) == (warnings if index == 0 else 0)
    if processes > 1:
        jax.distributed.shutdown()


def python(code: str, devices: int):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH", ""))),
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PJRT_NPROC": "16",  # else a machine of few cores can deadlock
    }
    return subprocess.Popen([sys.executable, "-c", f"from test_checkpoint import *\n{code}"], env=environment)


def run_on(folder, devices: int, processes: int, expected: int, warnings: int = 0):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [(str(folder), devices, processes, index, port, expected, warnings) for index in range(processes)]
    started = [python(f"go_on(*{values})", devices) for values in arguments]
    try:
        assert [process.wait(timeout=120) for process in started] == [0] * processes
    finally:
        for process in started:
            process.kill()


@pytest.mark.long
def test_devices_and_processes_may_change_from_run_to_run(tmp_path):
    run_on(tmp_path, devices=4, processes=1, expected=0)
    run_on(tmp_path, devices=1, processes=1, expected=2)
    run_on(tmp_path, devices=2, processes=2, expected=4)
    assert any("process_1" in str(path) for path in files(tmp_path / "6"))  # both wrote
    assert latest(tmp_path) == 6
    run_on(tmp_path, devices=1, processes=1, expected=6)
    flip(max(files(tmp_path / "8"), key=lambda path: path.stat().st_size))
    run_on(tmp_path, devices=1, processes=2, expected=7, warnings=1)
    assert latest(tmp_path) == 9


# Kills.


def score_of(step: int) -> float | None:
    """An epoch ends at every third step."""
    return None if step % 3 else random.Random(step).random()


def save_without_end(folder: Path, tell: int):
    """Checks what it finds, then saves as fast as it can; tells where it begins, and of each step finished."""
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore_latest(state(0), warn=str)
        step = 0
        if found is not None:
            step = int(found[0].step)
            assert_equal(found[0], state(step))
            assert found[1].records == records(step // 3)
            assert_equal(found[1].totals, THIRD)
        ends = range(3, step + 1, 3)
        if ends:
            variables, epoch = checkpoints.restore_best(state(0).variables)
            expected = max(ends, key=score_of)
            assert_equal(variables, state(expected).variables)
            assert epoch == expected // 3
        os.write(tell, f"{step}\n".encode())
        for following in itertools.count(step + 1):
            progress = Progress(following // 3 + 1, following % 3, THIRD, records(following // 3))
            checkpoints.save(state(following), progress, score_of(following))
            os.write(tell, f"{following - 1}\n".encode())


def kill_again_and_again(folder: Path, kills: int, seed: int):
    """In a process that has imported all and started nothing, so that its children are quick to start."""
    generator = random.Random(seed)
    finished = 0
    for kill in range(kills):
        hear, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                save_without_end(folder, tell)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        os.close(tell)
        with os.fdopen(hear) as lines:
            found = int(lines.readline() or -1)
            assert found >= finished, f"checkpoint {finished} was finished, and {found} came back"
            told = [found]
            if kill % 2:  # not before a new step is finished, on however slow a machine
                told += [int(lines.readline()), int(lines.readline())]
            select.select([lines], [], [], 60)
            time.sleep(generator.uniform(0, 0.5))
            os.kill(child, signal.SIGKILL)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
            finished = max([*told, *map(int, lines.read().split("\n")[:-1])])
    print(finished)


@pytest.mark.parametrize("kills", [pytest.param(6, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.long)])
def test_kills_at_random_moments_lose_nothing(tmp_path, kills):
    code = f"kill_again_and_again(Path({str(tmp_path / 'c')!r}), kills={kills}, seed=0)"
    assert python(code, devices=1).wait(timeout=300) == 0
    assert latest(tmp_path / "c", warn=str) >= kills // 2

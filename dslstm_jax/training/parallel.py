"""Where a step runs: the only module that says pmap, shard_map, mesh or jax.distributed.

The steps of step.py are written for one device and its rows of the batch; what crosses devices goes over the axis
"data". Here they are run on one device, on all devices of this process (pmap), or on all devices of all processes
(shard_map); the figures are the same but for rounding.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Literal, TypeVar

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array, Float

from dslstm_jax.config import Config, TrainingConfig
from dslstm_jax.data.pipeline import Batch
from dslstm_jax.errors import ConfigError, DslstmError, first_line
from dslstm_jax.models.recognizer import Variables
from dslstm_jax.training.devices import TIMEOUT, ParallelConfig
from dslstm_jax.training.step import Totals, TrainState, eval_step, predict_step, train_step

AXIS = "data"

T = TypeVar("T")


def start_processes(config: ParallelConfig) -> None:
    """Joins the other processes of the run, if there are any; before anything is computed.

    Raises:
      ConfigError: the coordinator cannot be reached, or it is unclear who this process is.
    """
    if config.coordinator is None:
        if config.processes is not None or config.process is not None:
            raise ConfigError("parallel.processes needs --parallel.coordinator HOST:PORT, or auto on a cluster")
        return
    found = config.coordinator == "auto"
    if not found and (config.processes is None or config.process is None):
        raise ConfigError(
            "parallel.coordinator needs --parallel.processes N and --parallel.process I; on SLURM, a TPU pod or "
            "Kubernetes, --parallel.coordinator auto finds them"
        )
    try:
        if found:
            jax.distributed.initialize(initialization_timeout=TIMEOUT)
        else:
            jax.distributed.initialize(
                config.coordinator,
                config.processes,
                config.process,
                initialization_timeout=TIMEOUT,
                cluster_detection_method="deactivate",
            )
    except Exception as error:  # the runtime raises many kinds
        reason = first_line(error)
        raise ConfigError(f"parallel.coordinator {config.coordinator}: {reason}") from error


@contextmanager
def joined_processes(config: ParallelConfig) -> Iterator[None]:
    """`start_processes`, for a whole command: if it fails, this process ends at once.

    The runtime would wait for the other processes, which wait for this one, for five minutes.
    """
    start_processes(config)
    try:
        yield
    except BaseException as error:
        if jax.distributed.is_initialized():
            codes = {DslstmError: 2, KeyboardInterrupt: 130}
            atexit.register(_end, next((code for kind, code in codes.items() if isinstance(error, kind)), 1))
        raise


def _end(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@dataclass(frozen=True)
class Parallel:
    """The devices of a run, and how a step is run on them."""

    mode: Literal["single", "pmap", "shard_map"]
    devices: tuple[jax.Device, ...]
    """All devices of all processes; of one alone in mode single."""

    @property
    def share(self) -> tuple[int, int]:
        """This process and the number of processes."""
        return (0, 1) if self.mode == "single" else (jax.process_index(), jax.process_count())

    @property
    def leads(self) -> bool:
        """Whether this process writes what only one may write."""
        return self.share[0] == 0

    @contextmanager
    def told_to_stop(self) -> Iterator[Callable[[], bool]]:
        """Yields what is to be asked at each step, by all processes alike: whether SIGTERM came. They all get the
        same answer at the same step."""
        came: list[int] = []
        if self.share[1] > 1:  # the runtime catches the signal, and agrees on a step: it says yes at that one alone
            steps = count(1)

            def agreed() -> bool:
                step = next(steps)
                if multihost_utils.reached_preemption_sync_point(step):
                    came.append(step)
                return bool(came)

            yield agreed
            return
        if threading.current_thread() is not threading.main_thread():  # which alone may catch signals
            yield lambda: False
            return
        before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
        try:
            yield lambda: bool(came)
        finally:
            signal.signal(signal.SIGTERM, before)

    @property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,), axis_types=(AxisType.Auto,))

    @property
    def everywhere(self) -> Sharding:
        """The same array on every device."""
        if self.mode == "single":
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self._mesh, PartitionSpec())

    @property
    def _local(self) -> int:
        return len(self.devices) // self.share[1]

    def place(self, batch: Batch) -> Batch:
        """This process's rows of a batch on its devices."""
        if self.mode == "single":
            return jax.device_put(batch, self.devices[0])
        if self.mode == "pmap":
            local = [device for device in self.devices if device.process_index == jax.process_index()]
            rows = jax.tree.map(lambda leaf: leaf.reshape(self._local, -1, *leaf.shape[1:]), batch)
            mesh = Mesh(np.array(local), (AXIS,), axis_types=(AxisType.Auto,))
            return jax.device_put(rows, NamedSharding(mesh, PartitionSpec(AXIS)))
        by_rows = NamedSharding(self._mesh, PartitionSpec(AXIS))
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(by_rows, leaf), batch)

    def spread(self, tree: T) -> T:
        """A tree of one device's arrays, the same in every process, as the steps take it."""
        if self.mode == "single":
            return jax.device_put(tree, self.devices[0])
        if self.mode == "pmap":
            return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (self._local, *np.shape(leaf))).copy(), tree)
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(self.everywhere, np.asarray(leaf)), tree
        )

    def copy(self, tree: T) -> T:
        """A tree of the host's arrays, the same in every process, whole on every device."""
        if self.share[1] == 1:
            return jax.device_put(tree, self.everywhere)
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(self.everywhere, leaf), tree)

    def gather(self, tree: T) -> T:
        """What the steps give, as arrays that are whole on every device: to be saved or looked at."""
        if self.mode != "pmap":
            return tree
        one = jax.tree.map(lambda leaf: leaf.addressable_data(0).reshape(leaf.shape[1:]), tree)
        if self.share[1] == 1:
            return one
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(self.everywhere, np.asarray(leaf)), one
        )

    def train_step(
        self, config: Config, optimizer: optax.GradientTransformation
    ) -> Callable[[TrainState, Batch, np.uint32], tuple[TrainState, Totals]]:
        """`step.train_step` on all devices; the state it is given is used up. The seed comes last."""
        return self._run(partial(train_step, config=config, optimizer=optimizer), with_seed=True)

    def eval_step(self, config: Config) -> Callable[[Variables, Batch], Totals]:
        """`step.eval_step` on all devices."""
        return self._run(partial(eval_step, config=config))

    def predict_step(self, config: Config) -> Callable[[Variables, Batch], tuple[Totals, Float[Array, "B C"]]]:
        """`step.predict_step` on all devices."""
        return self._run(partial(predict_step, config=config))

    def _run(self, step: Callable[..., Any], *, with_seed: bool = False) -> Callable[..., Any]:
        """The step of (replicated, batch), or in training of (state, batch, seed), whose state is used up."""
        used_up = (0,) if with_seed else ()
        if self.mode == "single":
            return jax.jit(step, donate_argnums=used_up)
        step = partial(step, axis_name=AXIS)
        if self.mode == "pmap":
            in_axes = (0, 0, None) if with_seed else (0, 0)
            return jax.pmap(step, axis_name=AXIS, in_axes=in_axes, donate_argnums=used_up)
        # check_vma=False: gradients stay local until the step adds them up, as under pmap.
        spread = jax.shard_map(
            step,
            mesh=self._mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS), *([PartitionSpec()] if with_seed else [])),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        return jax.jit(spread, donate_argnums=used_up)

    def wait(self, name: str) -> None:
        """Returns when all processes are here."""
        if self.share[1] > 1:
            multihost_utils.sync_global_devices(name)


def make_parallel(config: ParallelConfig, training: TrainingConfig | None = None) -> Parallel:
    """The devices that this run uses.

    Args:
      config: `auto` takes one device if there is one, pmap for several of one process, shard_map across processes.
      training: where it is to train; the devices share the rows of each part of a batch.

    Raises:
      ConfigError: rows that cannot be shared evenly; one device for several processes.
    """
    processes, devices = jax.process_count(), tuple(jax.devices())
    mode = config.mode
    if mode == "auto":
        mode = "shard_map" if processes > 1 else "pmap" if len(devices) > 1 else "single"
    if mode == "single":
        if processes > 1:
            raise ConfigError(f"parallel.mode single: there are {processes} processes; use shard_map or pmap")
        return Parallel(mode, devices[:1])
    shares = len(devices) * training.accumulate if training else 1
    if training and training.batch_size % shares:
        parts = f" in {training.accumulate} parts" if training.accumulate > 1 else ""
        raise ConfigError(
            f"training.batch_size: {training.batch_size} rows cannot be shared by {len(devices)} devices{parts}; "
            f"make it a multiple of {shares}, or use --parallel.mode single"
        )
    return Parallel(mode, devices)

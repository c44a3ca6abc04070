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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from dslstm_jax.config import Config, RecognizerConfig, TrainingConfig
from dslstm_jax.data.batches import Batch
from dslstm_jax.errors import ConfigError, DslstmError, first_line
from dslstm_jax.training.devices import TIMEOUT, ParallelConfig
from dslstm_jax.training.step import AnyOptimizer, StepConfig, eval_step, predict_step, train_step

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
    if jax.distributed.is_initialized():  # by an earlier call of this process
        return
    own = (config.coordinator, config.processes, config.process)
    named: dict[str, Any] = {"initialization_timeout": TIMEOUT}
    if not found:
        names = ("coordinator_address", "num_processes", "process_id")
        named |= {**dict(zip(names, own, strict=True)), "cluster_detection_method": "deactivate"}
    try:
        jax.distributed.initialize(**named)
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


def _named(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step of (settings, axis or mesh, *arrays), under its own name, by which traces and profiles show it."""

    def on_axis(settings: Sequence[tuple[str, Any]], axis: str | None, *arrays: Any) -> Any:
        return step(*arrays, **dict(settings), axis_name=axis)

    def run(settings: Sequence[tuple[str, Any]], where: str | Mesh | None, *arrays: Any) -> Any:
        if not isinstance(where, Mesh):
            return on_axis(settings, where, *arrays)
        # check_vma=False: gradients stay local until the step adds them up, as under pmap.
        spread = jax.shard_map(
            partial(on_axis, settings, AXIS),
            mesh=where,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS), *[PartitionSpec()] * (len(arrays) - 2)),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        return spread(*arrays)

    run.__name__ = run.__qualname__ = step.__name__
    return run


_STEPS = {step: _named(step) for step in (train_step, eval_step, predict_step)}
"""jit and pmap compile each of them once for the same settings, whichever run asks for it."""


@dataclass(frozen=True)
class DeviceStep:
    """A step as jit or pmap run it, which compile it once for the same fixed arguments."""

    function: Any
    fixed: tuple[Any, ...]

    def __call__(self, *arrays: Any) -> Any:
        return self.function(*self.fixed, *arrays)

    def trace(self, *arrays: Any) -> jax.stages.Traced:
        """For arrays like these, or their shapes."""
        traced: jax.stages.Traced = self.function.trace(*self.fixed, *arrays)
        return traced

    def lower(self, *arrays: Any) -> jax.stages.Lowered:
        """For arrays like these, or their shapes."""
        lowered: jax.stages.Lowered = self.function.lower(*self.fixed, *arrays)
        return lowered


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
    def is_main(self) -> bool:
        """Whether this process writes what only one may write."""
        return self.share[0] == 0

    @contextmanager
    def watch_preemption(self) -> Iterator[Callable[[], bool]]:
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
        return self.copy(jax.tree.map(np.asarray, tree))

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
        return one if self.share[1] == 1 else self.copy(jax.tree.map(np.asarray, one))

    def train_step(self, config: Config, optimizer: AnyOptimizer) -> DeviceStep:
        """`step.train_step` on all devices; the state it is given is used up. The seed comes last."""
        return self._run(train_step, 3, used_up=True, config=StepConfig.of(config), optimizer=optimizer)

    def eval_step(self, config: RecognizerConfig) -> DeviceStep:
        """`step.eval_step` on all devices."""
        return self._run(eval_step, 2, config=config)

    def predict_step(self, config: RecognizerConfig) -> DeviceStep:
        """`step.predict_step` on all devices."""
        return self._run(predict_step, 2, config=config)

    def _run(self, step: Callable[..., Any], arrays: int, *, used_up: bool = False, **settings: Any) -> DeviceStep:
        """The step as a function of its `arrays`: (replicated, batch), or in training (state, batch, seed)."""
        static, donated = (0, 1), (2,) if used_up else ()
        if self.mode == "pmap":
            in_axes = (None, None, 0, 0, *(None,) * (arrays - 2))
            run: Any = jax.pmap(
                _STEPS[step],
                axis_name=AXIS,
                in_axes=in_axes,
                static_broadcasted_argnums=static,
                donate_argnums=donated,
            )
        else:
            run = jax.jit(_STEPS[step], static_argnums=static, donate_argnums=donated)
        where = {"single": None, "pmap": AXIS, "shard_map": self._mesh}[self.mode]
        return DeviceStep(run, (tuple(settings.items()), where))

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

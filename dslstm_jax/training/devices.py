"""On which devices a run computes; no jax here, so that the command line can offer it at once."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ParallelConfig:
    """On which devices a run computes. It is no part of a run's config: a run may go on elsewhere."""

    mode: Literal["auto", "single", "pmap", "shard_map"] = "auto"
    """Which devices compute; auto: what fits. single: one device; pmap: all devices of a process; shard_map: those of
    all processes."""
    coordinator: str | None = None
    """HOST:PORT of process 0 of several; auto: ask the cluster. The clusters are SLURM, TPU and Kubernetes."""
    processes: int | None = None
    """Number of processes."""
    process: int | None = None
    """Which one this is, from 0."""


TIMEOUT = 300
"""Seconds to wait for the other processes to start."""

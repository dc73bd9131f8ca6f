"""Which backend runs units: started by its name, with as many workers as there are GPUs or cores."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from loco_core.errors import SpecError

if TYPE_CHECKING:
    from orchestrator.scheduler.protocol import Backend
    from orchestrator.worker import WorkerSettings


def backend_maker(
    kind: str,
    workers: int | None = None,
    threads: int | None = None,
    address: str | None = None,
    priority: float | None = None,
) -> Callable[[WorkerSettings], Backend]:
    """Returns what starts a backend.

    Args:
        kind: ``ray`` for actors of Ray, ``inline`` for one worker in this process.
        workers: how many workers; None is one per GPU, or one per core; on a cluster as many as it can hold.
        threads: CPU threads per worker; None shares the cores among the workers.
        address: a running Ray cluster to join; None starts one here.
        priority: weight of the run's share of a cluster, where others sweep on it, too; None is 1.

    Raises:
        SpecError: these do not go together.
    """
    if priority is not None and address is None:
        raise SpecError("--priority: nobody shares a Ray that is started here; expected it with --address")
    cores = len(os.sched_getaffinity(0))
    if kind == "inline":
        if workers not in (None, 1):
            raise SpecError(f"--workers {workers}: the inline backend has one worker; use --backend ray for more")
        if address is not None:
            raise SpecError("--address: the inline backend joins no cluster; use --backend ray")

        def inline(settings: WorkerSettings) -> Backend:
            from orchestrator.backends.inline import InlineBackend

            return InlineBackend(settings, threads=threads or cores)

        return inline
    if kind != "ray":
        raise SpecError(f'no backend "{kind}"; expected ray or inline')

    def ray(settings: WorkerSettings) -> Backend:
        from orchestrator.backends.ray.backend import RayBackend

        # Workers of one thread: on two cores 1.3 times as fast as one worker of two threads (bundled model, batches of
        # 62). What cores another machine has is not known here.
        if address is not None:
            shared = priority or 1.0
            return RayBackend(settings, workers=workers, threads=threads or 1, address=address, priority=shared)
        count = worker_count(workers)
        return RayBackend(settings, workers=count, threads=threads or max(1, cores // count))

    return ray


def worker_count(workers: int | None) -> int:
    """Returns how many workers a run on Ray has: as many as were asked for, or one per GPU, or one per core."""
    return workers or local_gpus() or len(os.sched_getaffinity(0))


def local_gpus() -> int:
    """Returns how many NVIDIA GPUs the driver shows; torch would take seconds to say so."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))

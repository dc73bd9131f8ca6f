"""Workers as Ray actors: on this machine, or on a cluster that is joined.

An actor is a process that carries no model until it runs, so that pending actors are nothing but demand, which is what
makes a cluster's autoscaler grow. Ray restarts and retries nothing: the scheduler does, knowing what a unit costs.
"""

from __future__ import annotations

import atexit
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray._private import worker as ray_worker
from ray._private.state import state as cluster_state
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayError

from loco_core.masking import own_secrets
from orchestrator.backends.ray.actor import Place, WorkerActor, is_failed
from orchestrator.backends.ray.connection import (
    Head,
    admitted,
    leave_at_once,
    loopback,
    own_logging,
    own_signals,
    unobserved,
)
from orchestrator.backends.ray.demand import Demand, lacking, refusal, room, selected
from orchestrator.backends.ray.local import OwnFolder, own_token
from orchestrator.backends.ray.sharing import Sharing
from orchestrator.scheduler.host import one_line
from orchestrator.scheduler.needs import WorkerNeeds
from orchestrator.scheduler.protocol import (
    Attempt,
    BackendError,
    BackendEvent,
    BindFailed,
    LossReason,
    MakeWorker,
    Unit,
    UnitDone,
    UnitReport,
    WorkerBound,
    WorkerDraining,
    WorkerLost,
    WorkerReady,
    WorkerRefused,
)

OBJECT_STORE_BYTES = 200_000_000
"""Of a Ray started here: units and reports are small, results never pass through Ray."""
DRAIN_POLL_SECONDS = 2.0
DEMAND_POLL_SECONDS = 5.0
ROOM_POLL_SECONDS = 5.0
LOG_TAIL_LINES = 8
LOG_TAIL_BYTES = 32_768


@dataclass(frozen=True)
class _Call:
    """A call to an actor that has not returned."""

    number: int
    worker: str
    kind: Literal["place", "bind", "run"]
    dispatched: tuple[Unit, Attempt] | None = None


class RayBackend:
    """Runs units in Ray actors.

    Args:
        make_worker: loads a model, in the actor's process.
        workers: number of actors that there may be at once; None, on a cluster only, is as many as it can hold.
        threads: CPU threads, and Ray CPUs, of each.
        address: HOST:PORT of a Ray cluster to join, or ``auto`` for the one this process runs in; None starts a Ray of
            its own on this machine, listening on loopback only, that ends with this process, whatever ``RAY_ADDRESS``
            says.
        gpus: logical GPUs of a Ray of its own; None counts those of the machine.
        priority: weight of this run's share of a cluster that others sweep on, too.

    Raises:
        BackendError: Ray does not start, or the cluster cannot be joined.
    """

    isolated = True

    def __init__(
        self,
        make_worker: MakeWorker,
        *,
        workers: int | None,
        threads: int,
        address: str | None = None,
        gpus: int | None = None,
        priority: float = 1.0,
    ) -> None:
        self._make_worker = make_worker
        self._workers = workers
        self._threads = threads
        self._actors: dict[str, Any] = {}
        self._places: dict[str, Place] = {}
        self._calls: dict[Any, _Call] = {}
        self._heard: Counter[str] = Counter()
        self._numbers = 0
        self._draining: set[str] = set()
        self._next_drain_poll = 0.0
        self._asked: dict[str, tuple[Demand, float]] = {}
        self._granted: dict[str, Demand] = {}
        self._refused: list[WorkerRefused] = []
        self._next_demand_poll = 0.0
        self._room, self._next_room_poll = 1, 0.0
        self._sharing: Sharing | None = None
        self._share: int | None = None
        self._head: Head | None = None
        self._folder: OwnFolder | None = None
        logging.getLogger("ray").setLevel(logging.ERROR)
        # Ray prints every death on the driver's terminal; ours are in the reports of the units.
        ray_worker._worker_logs_enabled = False
        if address is None:
            self._start(gpus)
        else:
            self._join(address)
            self._sharing = Sharing(priority)
        self._actor_class = ray.remote(WorkerActor)

    @property
    def workers(self) -> int:
        """How many actors there may be at once, as far as it was told."""
        return room(self._threads)[0] if self._workers is None else self._workers

    def most(self, asked: int | None, left: int) -> int:
        """Returns how many there may be: at most what was asked for, the cluster holds, and others leave.

        A Ray of its own has room for as many as it was started for.
        """
        wanted = self._workers if asked is None else asked
        if self._sharing is None:
            return min(wanted or 0, self._workers or 0)
        if time.monotonic() >= self._next_room_poll and (self._head is None or self._head.answers()):
            self._next_room_poll = time.monotonic() + ROOM_POLL_SECONDS
            self._room, capacity, size = room(self._threads)
            self._share = self._sharing.workers(min(left, self._room if wanted is None else wanted), capacity, size)
        wanted = self._room if wanted is None else wanted
        return wanted if self._share is None else min(wanted, self._share)

    @property
    def logs(self) -> Path:
        """Folder with the log files of the actors on this machine."""
        return Path(ray_worker._global_node.get_logs_dir_path())

    def start_worker(self, worker: str, needs: WorkerNeeds, avoid: frozenset[str]) -> None:
        """Asks for an actor; refuses what the Ray on this machine can never give."""
        if self._head is not None:
            self._head.wait()
        gpus = int(ray.cluster_resources().get("GPU", 0))
        labels = needs.labels
        if self._folder is None:
            labels += selected(needs.accelerators, avoid)
        elif why := lacking(needs, gpus) or ("there is one machine" if avoid else ""):
            self._refused.append(WorkerRefused(worker, why))
            return
        demand = Demand(self._threads, min(gpus, 1) if needs.gpus is None else needs.gpus, labels)
        self._asked[worker] = demand, time.monotonic()
        actor = self._actor_class.options(
            num_cpus=demand.cpus,
            num_gpus=demand.gpus,
            label_selector=dict(demand.labels) or None,
            max_restarts=0,
            max_task_retries=0,
        ).remote(worker, self._make_worker, self._threads)
        self._actors[worker] = actor
        self._call(actor.place.remote(own_secrets(), demand.gpus), worker, "place")

    def bind(self, worker: str, model: str) -> None:
        """Makes an actor load a model."""
        self._call(self._actors[worker].bind.remote(model), worker, "bind")

    def dispatch(self, worker: str, unit: Unit, attempt: Attempt) -> None:
        """Queues a unit at an actor."""
        ref = self._actors[worker].run.remote(unit, attempt, self._heard[worker])
        self._call(ref, worker, "run", (unit, attempt))

    def kill(self, worker: str) -> None:
        """Kills an actor's process, or takes back the request for one."""
        actor = self._actors.pop(worker, None)
        self._places.pop(worker, None)
        self._asked.pop(worker, None)
        self._granted.pop(worker, None)
        self._heard.pop(worker, None)
        self._calls = {ref: call for ref, call in self._calls.items() if call.worker != worker}
        if actor is not None:
            ray.kill(actor, no_restart=True)

    def poll(self, timeout: float) -> Sequence[BackendEvent]:
        """Returns what calls have returned and which machines are about to go.

        Raises:
            BackendError: Ray itself is gone.
        """
        try:
            if self._refused:
                refused, self._refused = self._refused, []
                return refused
            if self._calls:
                ray.wait(self._oldest(), timeout=timeout)
            else:
                time.sleep(timeout)
            if self._head is None or self._head.answers():
                return [*self._impossible(), *self._drain_notices(), *self._returned()]
            return [*self._returned()]
        except RayError as error:
            raise BackendError(f"Ray is gone: {one_line(error)}; the same command resumes") from error

    def shutdown(self) -> None:
        """Kills all actors and leaves Ray; one that was started here ends, and its folder goes."""
        if self._head is not None and self._head.gone:
            # Whatever is asked of Ray now waits until Ray ends this process, its own shutdown at exit included.
            atexit.register(leave_at_once)
            return
        if ray.is_initialized():
            if self._sharing is not None:
                self._sharing.leave()
            for worker in list(self._actors):
                self.kill(worker)
            ray.shutdown()
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def _start(self, gpus: int | None) -> None:
        self._folder = OwnFolder()
        try:
            with own_signals(), loopback(), unobserved(), own_token():
                ray.init(
                    address="local",
                    num_cpus=(self._workers or 1) * self._threads,
                    num_gpus=gpus,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    # Ray's own choice, 15, starves the workers on a machine that does anything else.
                    _system_config={"worker_niceness": 0, "enable_metrics_collection": False},
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=str(self._folder.ray),
                )
        except Exception as error:
            self.shutdown()
            raise BackendError(
                f"Ray does not start on this machine: {one_line(error)}; --backend inline needs no Ray"
            ) from error

    def _join(self, address: str) -> None:
        with admitted(address) as found:
            try:
                with own_signals(), own_logging():
                    # One JSON object a line in the logs of the workers.
                    ray.init(
                        address=found, log_to_driver=False, logging_level=logging.ERROR,
                        logging_config=ray.LoggingConfig(encoding="JSON", additional_log_standard_attrs=["name"]),
                    )  # fmt: skip
            except Exception as error:
                raise BackendError(f"cannot join the Ray cluster at {found}: {one_line(error)}") from error
        self._head = Head(ray.get_runtime_context().gcs_address)

    def _call(
        self,
        ref: Any,
        worker: str,
        kind: Literal["place", "bind", "run"],
        dispatched: tuple[Unit, Attempt] | None = None,
    ) -> None:
        self._numbers += 1
        self._calls[ref] = _Call(self._numbers, worker, kind, dispatched)

    def _impossible(self) -> Iterator[BackendEvent]:
        """Ends the wait for workers that cannot come; where one is that was asked for alike, another may be."""
        now = time.monotonic()
        if now < self._next_demand_poll:
            return
        self._next_demand_poll = now + DEMAND_POLL_SECONDS
        granted = set(self._granted.values())
        waiting = {demand: since for demand, since in reversed(self._asked.values()) if demand not in granted}
        for demand, since in waiting.items():
            if (why := refusal(demand, now - since)) is not None:
                for worker in [name for name, (asked, _) in self._asked.items() if asked == demand]:
                    self.kill(worker)
                    yield WorkerRefused(worker, f"{why}; ask for less, or add nodes: the same command resumes")

    def _drain_notices(self) -> Iterator[BackendEvent]:
        if time.monotonic() < self._next_drain_poll:
            return
        self._next_drain_poll = time.monotonic() + DRAIN_POLL_SECONDS
        nodes = set(cluster_state.get_draining_nodes())
        for worker, place in self._places.items():
            if place.node.name in nodes and worker not in self._draining:
                self._draining.add(worker)
                yield WorkerDraining(worker)

    def _oldest(self) -> list[Any]:
        """Returns the first call to every actor, before which no other returns: a queue may hold a hundred."""
        found: dict[str, Any] = {}
        for ref, call in self._calls.items():
            found.setdefault(call.worker, ref)
        return list(found.values())

    def _returned(self) -> Iterator[BackendEvent]:
        """What has returned, in the order of the calls, so that a report is seen before the death that followed it."""
        while waiting := self._oldest():
            ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
            if not ready:
                return
            for ref in sorted(ready, key=lambda ref: self._calls[ref].number):
                call = self._calls.pop(ref, None)
                if call is not None:
                    yield self._event(ref, call)

    def _event(self, ref: Any, call: _Call) -> BackendEvent:
        try:
            value = ray.get(ref)
        except RayActorError as error:
            lost = WorkerLost(call.worker, _reason(error), self._obituary(call.worker, error))
            self.kill(call.worker)
            return lost
        except RayError as error:
            # The call itself failed: what it carries, or its answer, does not pickle or does not load over there.
            return self._uncallable(call, error)
        if call.kind == "place":
            self._places[call.worker] = value
            demand = self._asked.pop(call.worker)[0]
            self._granted[call.worker] = demand
            return WorkerReady(call.worker, value.node, demand.gpus, value.seconds)
        if call.kind == "run":
            if is_failed(value):
                self._hear(call.worker)
            return UnitDone(call.worker, value)
        return WorkerBound(call.worker, value) if isinstance(value, str) else BindFailed(call.worker, *value)

    def _hear(self, worker: str) -> None:
        """Takes note of a failed report, and queues anew, in order, what the actor does not run until it knows that."""
        self._heard[worker] += 1
        queued = [(ref, call.dispatched) for ref, call in self._calls.items() if call.worker == worker]
        for ref, dispatched in queued:
            if dispatched is not None:
                del self._calls[ref]
                self.dispatch(worker, *dispatched)

    def _uncallable(self, call: _Call, error: RayError) -> BackendEvent:
        kind, message = type(error).__name__, one_line(error)
        if call.dispatched is not None:
            unit, attempt = call.dispatched
            report = UnitReport(
                unit.unit_id, attempt.number, "failed", error_type=kind, error=message, worker=call.worker
            )
            return UnitDone(call.worker, report)
        if call.kind == "bind":
            return BindFailed(call.worker, kind, message)
        self.kill(call.worker)
        return WorkerLost(call.worker, "died", message)

    def _obituary(self, worker: str, error: RayActorError) -> str:
        """What Ray says about a death, in one line, and the end of what the process wrote."""
        text = f"{worker}: {one_line(error)}"
        place = self._places.get(worker)
        if place is None:
            return text
        tail = [
            line.strip()
            for path in self.logs.glob(f"worker-{place.worker_id}-*.err")
            for line in _tail(path).splitlines()
            # Ray's own marks, and the log of what went well.
            if line.strip() and not line.startswith((":", "{"))
        ]
        return f"{text} | log: {one_line(' / '.join(tail[-LOG_TAIL_LINES:]))}" if tail else text


def _tail(path: Path) -> str:
    """Returns the end of a log, however long it is."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace")


def _reason(error: RayActorError) -> LossReason:
    if error.preempted:
        return "preempted"
    if isinstance(error, ActorUnavailableError) or (
        isinstance(error, ActorDiedError) and "node has died" in str(error)
    ):
        return "unreachable"
    return "died"

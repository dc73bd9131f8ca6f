"""Where a model cannot run, for now or for good: GPUs that are too small, and machines where it did not load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.scheduler.needs import GpuKind, Node, WorkerNeeds
from orchestrator.scheduler.protocol import OUT_OF_MEMORY, BindFailed

Group = tuple[WorkerNeeds, str]
"""What a worker is, that runs a model, and the model."""

MAX_TRIES = 3
"""Loads of a model that may fail in a row on a machine, where there is no other machine."""
MOST_TRIES = 8
"""The same where there are other machines, but none becomes free."""
TRIAL_WORKERS = 3
"""How many load at once a model that has not loaded yet, but failed to."""
FIRST_PAUSE, PAUSE_FACTOR, LONGEST_PAUSE = 2.0, 4.0, 600.0
"""Seconds after which a model is loaded again on a machine where it failed, and how these grow."""
REFUSAL_SECONDS = 300.0
"""After how long a worker is asked for again that no machine could hold: machines may have joined."""
ELSEWHERE_SECONDS = 1800.0
"""How long another machine is waited for where a model fails on all that are known, and nobody says that none comes."""


@dataclass
class _Failed:
    count: int
    until: float


class Suitability:
    """Remembers what machines there are, and which of them did not do for which model.

    One machine may have GPUs of several types, each of which is a node here.

    Attributes:
        now: seconds, on a clock that never goes back.
    """

    def __init__(self) -> None:
        """Starts without knowledge."""
        self.now = 0.0
        self._nodes: dict[int | None, set[Node]] = {}
        self._failed: dict[Group, dict[Node, _Failed]] = {}
        self._loaded: set[Group] = set()
        self._short: Counter[tuple[Group, GpuKind]] = Counter()
        self._ran: set[tuple[Group, GpuKind]] = set()
        self._small: dict[Group, set[GpuKind]] = {}
        self._load_errors: dict[Group, BindFailed] = {}
        self._memory_errors: dict[Group, BindFailed] = {}
        self._left: dict[Group, float] = {}
        self._refused: dict[WorkerNeeds, tuple[frozenset[str], float, str]] = {}

    def see(self, node: Node, needs: WorkerNeeds) -> None:
        """Takes note of what a worker that was asked for with some needs found."""
        self._nodes.setdefault(needs.gpus, set()).add(node)

    def lose(self, name: str) -> None:
        """Takes note that a machine is gone."""
        for gpus, nodes in self._nodes.items():
            self._nodes[gpus] = {node for node in nodes if node.name != name}

    def _known(self, group: Group) -> set[Node]:
        return self._nodes.get(group[0].gpus, set())

    def suits(self, node: Node, group: Group) -> bool:
        """Tells whether a machine will do for a model now."""
        return self._fits(node, group) and self._pause(node, group) <= 0

    def _fits(self, node: Node, group: Group) -> bool:
        return group[0].fit(node) and node.kind not in self._small.get(group, ())

    def _pause(self, node: Node, group: Group) -> float:
        failed = self._failed.get(group, {}).get(node)
        return 0.0 if failed is None else failed.until - self.now

    def paused(self, group: Group) -> bool:
        """Tells whether a model waits on a machine that may be tried again."""
        return any(self._pause(node, group) > 0 for node in self._failed.get(group, ()))

    def avoided(self, groups: Collection[Group]) -> frozenset[str]:
        """Returns the machines that will do for none of some models now, which are asked for alike."""
        known = {node for group in groups for node in self._known(group)}
        suited = {node.name for node in known if any(self.suits(node, group) for group in groups)}
        return frozenset(node.name for node in known) - suited

    def fits_somewhere(self, group: Group) -> bool:
        """Tells whether a machine that is known is large enough for a model."""
        return any(self._fits(node, group) for node in self._known(group))

    def untried(self, node: Node, group: Group) -> bool:
        """Tells whether a model that failed to load elsewhere may do so on a machine."""
        return group in self._load_errors and self._fits(node, group) and node not in self._failed.get(group, ())

    def on_trial(self, group: Group) -> bool:
        """Tells whether a model has only failed to load so far."""
        return group in self._failed and group not in self._loaded

    def loaded(self, node: Node, group: Group) -> None:
        """Takes note that a model did load."""
        self._loaded.add(group)
        self._load_errors.pop(group, None)
        self._failed.get(group, {}).pop(node, None)

    def load_failed(self, node: Node, group: Group, failure: BindFailed) -> None:
        """Takes note that a model did not load; of workers of one machine that fail together one counts."""
        self.leave(group)
        self._load_errors[group] = failure
        failed = self._failed.setdefault(group, {}).setdefault(node, _Failed(0, self.now))
        if failed.until > self.now:
            return
        failed.count += 1
        pause = min(FIRST_PAUSE * PAUSE_FACTOR ** (failed.count - 1), LONGEST_PAUSE)
        failed.until = self.now + pause
        if failure.error_type == OUT_OF_MEMORY:
            self.ran_out(node, group, 1, failure)

    def ran_out(self, node: Node, group: Group, workers: int, failure: BindFailed) -> bool:
        """Takes note that a model ran out of memory; tells whether a type of GPU that never ran it is too small.

        Args:
            node: where it ran.
            group: the model.
            workers: number of workers that run it on such GPUs.
            failure: what was said.
        """
        key = group, node.kind
        self._short[key] += 1
        if key in self._ran or self._short[key] < MAX_TRIES * workers:
            return False
        self._small.setdefault(group, set()).add(node.kind)
        self._memory_errors[group] = failure
        return True

    def ran(self, node: Node, group: Group) -> None:
        """Takes note that a unit did not run out of memory."""
        self._ran.add((group, node.kind))
        small = self._small.get(group, set())
        if node.kind in small:
            small.discard(node.kind)
            self._memory_errors.pop(group)

    def leave(self, group: Group) -> None:
        """Takes note that a worker has a model no more."""
        self._left[group] = self.now

    def has_run(self, node: Node, group: Group) -> bool:
        """Tells whether units of a model ran on such GPUs."""
        return (group, node.kind) in self._ran

    def needs_more(self, group: Group, failure: BindFailed) -> None:
        """Takes note that there is a group for units that ran out of memory, which may find no machine."""
        self._memory_errors[group] = failure

    def failure(self, group: Group) -> BindFailed | None:
        """Returns why a model may be hopeless; None where nothing speaks for that."""
        return self._memory_errors.get(group) or self._load_errors.get(group)

    def refuse(self, request: WorkerNeeds, avoid: frozenset[str], error: str) -> None:
        """Takes note that no machine can hold a worker, but perhaps those that it was to avoid."""
        self._refused[request] = avoid, self.now + REFUSAL_SECONDS, error

    def refusal(self, request: WorkerNeeds, avoid: frozenset[str]) -> str | None:
        """Says why there is no use in asking for a worker; None where there may be.

        Args:
            request: what it needs.
            avoid: machines that it may not be on.
        """
        if "" in avoid:
            return "there is no other machine"
        refused, until, error = self._refused.get(request, (frozenset(), 0.0, ""))
        return error if self.now < until and refused <= avoid else None

    def hopeless(self, group: Group, avoid: frozenset[str], held: Collection[Node], since: float) -> bool:
        """Tells whether a model has failed wherever it could be tried; asked while no worker has it.

        Args:
            group: the model.
            avoid: machines that a worker for it would have to avoid now.
            held: where workers are.
            since: when such a worker was asked for.
        """
        failed = self._failed.get(group, {})
        fit = {node for node in self._known(group) if self._fits(node, group)}
        untried = fit - failed.keys()
        if not untried.isdisjoint(held):
            return False
        if not untried and group not in self._loaded and any(f.count >= MOST_TRIES for f in failed.values()):
            return True
        tried = {node for node, f in failed.items() if f.count >= MAX_TRIES}
        waited = self.now - max(since, self._left.get(group, 0.0))
        nobody_comes = waited > ELSEWHERE_SECONDS or self.refusal(group[0].request, avoid) is not None
        return fit <= tried | untried and nobody_comes

    def kinds(self) -> list[str]:
        """Returns the types of GPU that are known."""
        return sorted({str(node) for nodes in self._nodes.values() for node in nodes})

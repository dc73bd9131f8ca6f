"""Asks every node of a Ray cluster what `orchestrator.backends.node_check` looks at, one task per node."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from loco_core.masking import hide, mask_everything, own_secrets
from orchestrator.backends.node_check import Finding, NodeCheck
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.scheduler.host import one_line

ANSWER_SECONDS = 180.0


class _Checker:
    """A process on the node that is looked at."""

    def check(self, check: NodeCheck, node: str, secrets: Mapping[str, str]) -> tuple[Finding, ...]:
        mask_everything()
        os.environ.update(secrets)
        hide(secrets.values())
        return check(node)


def check_nodes(check: NodeCheck, address: str | None) -> tuple[Finding, ...]:
    """Looks at every node that is up.

    Args:
        check: what is looked at.
        address: HOST:PORT of a Ray cluster, or ``auto``; None starts a Ray on this machine.

    Raises:
        BackendError: Ray does not start, or the cluster cannot be joined.
    """
    backend = RayBackend(str, workers=1, threads=1, address=address)  # type: ignore[arg-type]
    try:
        asked: dict[Any, str] = {}
        for node in (node for node in ray.nodes() if node["Alive"]):
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            actor = ray.remote(_Checker).options(num_cpus=0, scheduling_strategy=where).remote()
            name = f"{node['NodeManagerAddress']} {node['NodeID'][:6]}"
            own = check.of_node(int(node["Resources"].get("GPU", 0)))
            asked[actor.check.remote(own, name, own_secrets())] = name
        ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
        return tuple(finding for ref, name in asked.items() for finding in _answer(ref, name))
    finally:
        backend.shutdown()


def _answer(ref: Any, name: str) -> tuple[Finding, ...]:
    try:
        found: tuple[Finding, ...] = ray.get(ref, timeout=0)
    except RayError as error:
        return (Finding(name, "task", "problem", f"no answer: {one_line(error)}"),)
    return found

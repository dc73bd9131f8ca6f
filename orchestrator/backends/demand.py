"""Why a worker that was asked for will never come, if so: Ray itself lets an impossible request wait for ever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import AutoscalingState, GetClusterStatusReply

JOIN_SECONDS = 45.0
"""How long nodes of a cluster that does not grow by itself may take to join it."""
JUDGE_SECONDS = 10.0
"""How long an autoscaler may take to see a request; measured, it answers within two of its rounds of 5 s."""
RPC_SECONDS = 10
OPERATORS = ("!", "in(", "!in(")


@dataclass(frozen=True)
class Demand:
    """What one worker asks a node for.

    Attributes:
        cpus: logical CPUs.
        gpus: whole GPUs.
        labels: label selector, by Ray's rules.
    """

    cpus: int
    gpus: int
    labels: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Names it in a message."""
        labels = "".join(f", {name}={value}" for name, value in self.labels)
        return f"{self.cpus} CPUs and {self.gpus} GPUs{labels}"


def refusal(demand: Demand, waited: float) -> str | None:
    """Says why no node will ever hold a worker; None while one does, or may yet come.

    Args:
        demand: of the worker.
        waited: seconds since it was asked for.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if waited < JUDGE_SECONDS or any(_holds(node["Resources"], node.get("Labels") or {}, demand) for node in nodes):
        return None
    state = _autoscaling()
    if state is None:
        if waited < JOIN_SECONDS:
            return None
        return f"no node of the cluster has {demand} for a worker ({_largest(nodes)}), and no autoscaler adds any"
    for request in state.infeasible_resource_requests:
        asked = dict(request.resources_bundle)
        if asked.get("CPU", 0) == demand.cpus and asked.get("GPU", 0) == demand.gpus:
            return f"no node type of the cluster has {demand} for a worker ({_largest(nodes)} now)"
    return None


def _holds(resources: Mapping[str, float], labels: Mapping[str, str], demand: Demand) -> bool:
    # Of a selector with an operator Ray alone knows what it matches.
    plain = [(name, value) for name, value in demand.labels if not value.startswith(OPERATORS)]
    return (
        resources.get("CPU", 0) >= demand.cpus
        and resources.get("GPU", 0) >= demand.gpus
        and all(labels.get(name) == value for name, value in plain)
    )


def _largest(nodes: list[dict[str, Mapping[str, float]]]) -> str:
    cpus, gpus = (max((node["Resources"].get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU"))
    return f"at most {cpus:.0f} CPUs and {gpus:.0f} GPUs"


def _autoscaling() -> AutoscalingState | None:
    """Returns what the autoscaler last reported; None where there is none."""
    reply = GetClusterStatusReply()
    client = GcsClient(ray.get_runtime_context().gcs_address)
    reply.ParseFromString(client.get_cluster_status(timeout_s=RPC_SECONDS))
    state = reply.autoscaling_state
    return state if state.autoscaler_state_version else None

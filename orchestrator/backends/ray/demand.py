"""Why a worker that was asked for will never come, if so: Ray itself lets an impossible request wait for ever."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.autoscaler._private.util import format_readonly_node_type
from ray.core.generated.autoscaler_pb2 import AutoscalingState, GetClusterStatusReply, ResourceRequest
from ray.exceptions import RpcError
from ray.experimental.internal_kv import _internal_kv_get

from orchestrator.scheduler.needs import WorkerNeeds
from orchestrator.scheduler.protocol import BackendError

PATIENCE_SECONDS = 40.0
"""How long nodes may take to join, or to be asked for, before a request is judged."""
PATIENCE = "LOCO_NODE_PATIENCE"
"""Variable with other seconds, for clusters whose nodes come late and that no autoscaler asks for them."""
RPC_SECONDS = 10
NODES_AHEAD = 64
"""Workers that wait for nodes at once, where it is left to an autoscaler how many nodes there are."""
ACCELERATOR, NODE = "ray.io/accelerator-type", "ray.io/node-id"
"""Labels that Ray gives every node."""


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
        labels = "".join(f", {name}={value}" for name, value in self.labels if name != NODE)
        return f"{self.cpus} CPUs and {self.gpus} GPUs{labels}"


def selected(accelerators: Iterable[str], avoid: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Returns the label selector of nodes with some GPU, but not some nodes.

    Args:
        accelerators: types of GPU; any will do where there is none.
        avoid: ids of nodes.
    """
    # Ray calls an A100 so whatever its memory; a node's own label may say more.
    types = dict.fromkeys(name for given in accelerators for name in (given, re.sub(r"-\d+G$", "", given)))
    found = [(ACCELERATOR, f"in({','.join(types)})")] if types else []
    return (*found, *((NODE, f"!in({','.join(names)})") for names in [sorted(avoid)] if names))


def room(cpus: int) -> tuple[int, int, int]:
    """Returns how many workers a cluster holds, whoever else is on it: one per GPU, or where there is none by CPUs.

    With it come its GPUs, or CPUs, and how many of those a worker takes. Where an autoscaler adds nodes, there may be
    more, by as many as it should add at once: how many it may add it keeps to itself, and workers that never come
    cost nothing.

    Args:
        cpus: logical CPUs per worker.
    """
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    size = 1 if gpus else cpus
    capacity = gpus or int(resources.get("CPU", 0))
    try:
        grows = _autoscaling() is not None or _grows(_internal_kv_get(DEBUG_AUTOSCALING_STATUS))
    except RpcError:
        grows = False
    capacity += NODES_AHEAD * size * grows
    return max(1, capacity // size), capacity, size


def refusal(demand: Demand, waited: float) -> str | None:
    """Says why no node will ever hold a worker; None while one does, or may yet come.

    Args:
        demand: demand of the worker.
        waited: seconds since it was asked for.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if waited < _patience() or any(_holds(node["Resources"], node.get("Labels") or {}, demand) for node in nodes):
        return None
    try:
        state = _autoscaling()
    except RpcError:
        # A head that is busy is no reason.
        return None
    there = f"there are at most {_largest(nodes)} on a node"
    if state is None:
        if _grows(_internal_kv_get(DEBUG_AUTOSCALING_STATUS)):
            # The autoscaler before the present one does not say what it cannot give.
            return None
        return f"no node of the cluster has {demand} for a worker ({there}), and no autoscaler adds any; {_later()}"
    # While nodes are on their way all that exceeds the cluster's limit is listed as well.
    if state.pending_instances or state.pending_instance_requests:
        return None
    if any(_is(request, demand) for request in state.infeasible_resource_requests):
        return f"no node type of the cluster has {demand} for a worker ({there} now); {_later()}"
    return None


def _patience() -> float:
    given = os.environ.get(PATIENCE, "")
    try:
        return float(given) if given else PATIENCE_SECONDS
    except ValueError:
        raise BackendError(f"{PATIENCE} is {given!r}; expected seconds, such as 600") from None


def _later() -> str:
    return f"where nodes come after {_patience():.0f} s, set {PATIENCE} to more seconds"


def _grows(report: bytes | None) -> bool:
    """Tells whether an autoscaler of the older kind adds nodes.

    On a cluster started by hand one reports what is there, adds nothing, and makes up a type of its own for every node.

    Args:
        report: text that it wrote; None where there is none.
    """
    if not report:
        return False
    try:
        kinds = dict(json.loads(report)["autoscaler_report"]["node_type_mapping"])
    except (ValueError, KeyError, TypeError):
        # It has not looked yet.
        return True
    return not kinds or any(kind != format_readonly_node_type(node) for node, kind in kinds.items())


def _is(request: ResourceRequest, demand: Demand) -> bool:
    """Tells whether a request is that of a worker, not another job's."""
    asked = {name: amount for name, amount in request.resources_bundle.items() if amount}
    wanted = {name: float(amount) for name, amount in (("CPU", demand.cpus), ("GPU", demand.gpus)) if amount}
    labels = {item.label_key for selector in request.label_selectors for item in selector.label_constraints}
    return asked == wanted and labels == {name for name, _ in demand.labels}


def _holds(resources: Mapping[str, float], labels: Mapping[str, str], demand: Demand) -> bool:
    return (
        resources.get("CPU", 0) >= demand.cpus
        and resources.get("GPU", 0) >= demand.gpus
        and all(_matches(value, labels.get(name)) for name, value in demand.labels)
    )


def _matches(selector: str, label: str | None) -> bool:
    """Tells whether a label is what a selector says: VALUE, in(A,B), or not that: !VALUE, !in(A,B)."""
    wanted = selector.removeprefix("!")
    values = wanted[3:-1].split(",") if wanted.startswith("in(") else [wanted]
    return (label in [value.strip() for value in values]) != selector.startswith("!")


def _largest(nodes: list[dict[str, Mapping[str, float]]]) -> str:
    cpus, gpus = (max((node["Resources"].get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU"))
    return f"{cpus:.0f} CPUs and {gpus:.0f} GPUs"


def _autoscaling() -> AutoscalingState | None:
    """Returns what the autoscaler last reported; None where there is none."""
    reply = GetClusterStatusReply()
    client = GcsClient(ray.get_runtime_context().gcs_address)
    reply.ParseFromString(client.get_cluster_status(timeout_s=RPC_SECONDS))
    state = reply.autoscaling_state
    return state if state.autoscaler_state_version else None


def lacking(needs: WorkerNeeds, gpus: int) -> str:
    """Says what a worker needs that this machine can never give; empty where it can."""
    if (needs.gpus or 0) > gpus:
        return f"a worker needs {needs.gpus} GPUs and this machine has {gpus}; ask for fewer, or --address"
    if needs.labels:
        labels = ", ".join(f"{key}={value}" for key, value in needs.labels)
        return f"a worker needs a machine labelled {labels}, which only a cluster has; join one with --address"
    return ""

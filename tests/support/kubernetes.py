"""What a Kubernetes with KubeRay would refuse of a RayJob: unknown keys, wrong types, and KubeRay's own rules."""

from __future__ import annotations

from typing import Any

import jsonschema
import kubernetes_validate
from packaging.version import Version

KUBERNETES = "1.31"


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "additionalProperties": False, "required": required.split(),
    }  # fmt: skip


_TEXT, _YES, _COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
_LABEL = {"type": "string", "pattern": r"^([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?$"}
_TEXTS, _LABELS, _POD = ({"type": "object", "additionalProperties": each} for each in (_TEXT, _LABEL, {}))
_HEAD = _object("template", rayStartParams=_TEXTS, labels=_LABELS, resources=_TEXTS, serviceType=_TEXT, template=_POD)
_GROUP = _object(
    "groupName minReplicas maxReplicas template",
    groupName=_LABEL, replicas=_COUNT, minReplicas=_COUNT, maxReplicas=_COUNT, rayStartParams=_TEXTS, labels=_LABELS,
    resources=_TEXTS, idleTimeoutSeconds=_COUNT, numOfHosts=_COUNT, template=_POD,
)  # fmt: skip
_CLUSTER = _object(
    "headGroupSpec",
    rayVersion=_TEXT,
    enableInTreeAutoscaling=_YES,
    autoscalerOptions=_object(version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=_COUNT),
    authOptions=_object(mode={"enum": ["disabled", "token"]}),
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _GROUP},
)
RAYJOB = _object(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=_object(generateName=_TEXT, name=_TEXT, namespace=_TEXT, labels=_LABELS),
    spec=_object(
        entrypoint=_TEXT, runtimeEnvYAML=_TEXT, backoffLimit=_COUNT, shutdownAfterJobFinishes=_YES,
        ttlSecondsAfterFinished=_COUNT, activeDeadlineSeconds={"type": "integer", "minimum": 1}, suspend=_YES,
        rayClusterSpec=_CLUSTER,
    ),
)  # fmt: skip
"""Those keys of KubeRay's API (ray.io/v1) that a sweep may need, with their types."""


def check(item: dict[str, Any]) -> None:
    """Fails where Kubernetes or KubeRay would refuse an object."""
    if item["kind"] != "RayJob":
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
        return
    jsonschema.validate(item, RAYJOB)
    spec = item["spec"]
    cluster = spec["rayClusterSpec"]
    groups = cluster["workerGroupSpecs"]
    for template in (cluster["headGroupSpec"]["template"], *(group["template"] for group in groups)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert template["spec"]["containers"]
    assert len({group["groupName"] for group in groups}) == len(groups)
    assert all(group["minReplicas"] <= group["maxReplicas"] for group in groups)
    if cluster.get("authOptions", {}).get("mode") == "token":
        assert Version(cluster["rayVersion"]) >= Version("2.52.0")
    if spec.get("ttlSecondsAfterFinished"):
        assert spec["shutdownAfterJobFinishes"]
    # Metadata is part of the names of pods, and Kueue takes no job that grows.
    assert len(item["metadata"]["generateName"]) <= 42
    if "kueue.x-k8s.io/queue-name" in item["metadata"]["labels"]:
        assert not cluster.get("enableInTreeAutoscaling")
        assert all(group["replicas"] == group["maxReplicas"] for group in groups)
        assert len(groups) <= 7

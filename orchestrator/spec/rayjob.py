"""The model behind ``cluster: {rayjob: ..}``: what a RayJob of KubeRay asks Kubernetes for."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from orchestrator.spec.accelerators import Accelerator
from orchestrator.spec.rules import Strict, Text, spelled

Labels = dict[str, Annotated[str, StringConstraints(max_length=63)]]
MountPath = Annotated[str, spelled(r"^/[^\x00-\x1f\x7f:]*$", "a full path, such as /mnt/data", longest=1000)]
Dns = Annotated[
    str,
    spelled(r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", "lower-case letters, digits, - and ., such as team-a", longest=253),
]
Namespace = Annotated[
    str, spelled(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "lower-case letters, digits and -, such as my-team", longest=63)
]


class RayJobSpec(Strict):
    """A KubeRay RayJob."""

    image: Text = Field(
        description="Container image with Python, Ray and the project's dependencies.",
        examples=["my-registry/loco-sweep:latest"],
    )
    namespace: Namespace = Field("default", description="Kubernetes namespace of the RayJob.", examples=["research"])
    head_cpus: Annotated[int, Field(ge=1)] = Field(2, description="CPU cores of the head's pod.", examples=[4])
    head_memory: Text = Field(
        "8Gi", description="Memory of the head's pod, as a Kubernetes quantity.", examples=["16Gi"]
    )
    worker_memory: Text = Field(
        "32Gi", description="Memory of a worker's pod, as a Kubernetes quantity.", examples=["64Gi"]
    )
    secret: Text | None = Field(
        None,
        description="Name of a Kubernetes secret whose keys become environment variables, such as S3 credentials. "
        "Default: none.",
        examples=["loco-sweep-s3"],
    )
    service_account: Dns | None = Field(
        None,
        description="Kubernetes service account of the pods, such as one that may read a bucket. Default: the "
        "namespace's.",
        examples=["loco-sweep"],
    )
    node_selector: Labels = Field(
        default_factory=dict,
        description="Labels of the nodes that the workers' pods go to.",
        examples=[{"node-pool": "gpu"}],
    )
    accelerators: dict[Accelerator, Labels] = Field(
        default_factory=dict,
        description="Per type of GPU that a model asks for (`worker.accelerators`): labels of the nodes that have it.",
        examples=[{"H100": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}}],
    )
    tolerations: tuple[dict[str, Any], ...] = Field(
        (),
        description="Taints of nodes that the workers' pods tolerate, as in a pod. Default: none.",
        examples=[[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]],
    )
    volumes: dict[MountPath, dict[str, Any]] = Field(
        default_factory=dict,
        description="Volumes of all pods: per path at which one is mounted its source, as in a pod.",
        examples=[{"/data": {"persistentVolumeClaim": {"claimName": "data"}}}],
    )
    queue: Dns | None = Field(
        None,
        description="Local queue of Kueue that admits the RayJob. Kueue takes none that grows: all `workers.max` pods "
        "are asked for at once. Default: none.",
        examples=["team-a"],
    )
    labels: Labels = Field(
        default_factory=dict,
        description="Further labels of the RayJob, such as those of another queue.",
        examples=[{"team": "vision"}],
    )
    ttl_seconds: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Seconds that the cluster of the RayJob, with its workers' logs, is kept after the end of the job.",
        examples=[3600],
    )

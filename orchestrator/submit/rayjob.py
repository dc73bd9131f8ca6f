"""A RayJob of KubeRay: rendered as a manifest, handed to kubectl."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import yaml

from loco_core.errors import ClusterError
from orchestrator.spec.cluster import RayJobSpec
from orchestrator.submit.bundle import SWEEP, command, runtime_env, traveling
from orchestrator.submit.cluster_file import LoadedCluster

LABEL = "loco-sweep"
FOLDER = "/etc/loco-sweep"
OVER = ("SUCCEEDED", "FAILED", "STOPPED")
POLL_SECONDS = 5.0


def label(cluster: LoadedCluster) -> str:
    """Returns the label that all objects of a sweep carry: of its name what Kubernetes allows, and a hash of it.

    KubeRay refuses names of RayJobs that do not begin with a letter or are longer than 47 characters; Kubernetes adds
    six to this one.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", cluster.spec.name.lower()).strip("-")[:24].strip("-")
    return f"s-{slug}-{cluster.key}".replace("--", "-")


def manifest(cluster: LoadedCluster, *, again: bool = False) -> str:
    """Returns a ConfigMap with the sweep and a RayJob that runs it, as YAML.

    The image must hold the project (``loco-sweep init kuberay`` writes a Dockerfile): a RayJob takes no files along.

    Args:
        cluster: of a file with ``cluster: {rayjob: ..}``.
        again: whether failed cells are computed again.
    """
    return yaml.safe_dump_all(_objects(cluster, again=again), sort_keys=False, width=1000)


def _objects(cluster: LoadedCluster, *, again: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    spec, job = cluster.spec, cluster.spec.cluster.rayjob
    assert job is not None
    name = label(cluster)
    labels = {LABEL: name}
    sweep = traveling(cluster, FOLDER).model_dump_json(exclude_unset=True)
    code = {path.name: path.read_text(encoding="utf-8") for path in cluster.code.values()}
    config = {
        "apiVersion": "v1", "kind": "ConfigMap", "data": {SWEEP: sweep, **code},
        "metadata": {"name": f"{name}-sweep", "namespace": job.namespace, "labels": labels},
    }  # fmt: skip
    mounts = {"volumeMounts": [{"name": "sweep", "mountPath": FOLDER, "readOnly": True}]}
    volumes = {"volumes": [{"name": "sweep", "configMap": {"name": f"{name}-sweep"}}]}
    head = _pod(job, "ray-head", {"cpu": str(job.head_cpus), "memory": job.head_memory}, mounts, volumes)
    needs = {"cpu": str(spec.workers.cpus), "memory": job.worker_memory}
    if gpus := cluster.gpus:
        needs["nvidia.com/gpu"] = str(gpus)
    selector = {"nodeSelector": job.node_selector} if job.node_selector else {}
    rayjob = {
        "apiVersion": "ray.io/v1", "kind": "RayJob",
        "metadata": {"generateName": f"{name}-", "namespace": job.namespace, "labels": labels},
        "spec": {
            "entrypoint": command(cluster, f"{FOLDER}/{SWEEP}", again=again),
            "runtimeEnvYAML": yaml.safe_dump(runtime_env(cluster), sort_keys=False),
            # A driver that ends with failed cells counts as failed here, and would be run again for nothing.
            "backoffLimit": 0,
            "shutdownAfterJobFinishes": True,
            "rayClusterSpec": {
                "enableInTreeAutoscaling": True,
                # KubeRay makes a token and gives it to all of its pods; without one every pod near could run code here.
                "authOptions": {"mode": "token"},
                # Logical GPUs of the head are none: the driver runs there.
                "headGroupSpec": {"rayStartParams": {"num-gpus": "0"}, "template": head},
                "workerGroupSpecs": [
                    {
                        "groupName": "workers", "replicas": spec.workers.min, "minReplicas": spec.workers.min,
                        "maxReplicas": spec.workers.max, "rayStartParams": {},
                        "template": _pod(job, "ray-worker", needs, mounts, {**volumes, **selector}),
                    }
                ],
            },
        },
    }  # fmt: skip
    return config, rayjob


def _pod(
    job: RayJobSpec, name: str, needs: dict[str, str], container: dict[str, Any], pod: dict[str, Any]
) -> dict[str, Any]:
    secret = {"envFrom": [{"secretRef": {"name": job.secret}}]} if job.secret else {}
    resources = {"limits": needs, "requests": needs}
    return {
        "spec": {
            "containers": [{"name": name, "image": job.image, "resources": resources, **secret, **container}],
            **pod,
        }
    }


def create(cluster: LoadedCluster, *, again: bool = False) -> str:
    """Creates the RayJob; returns its name.

    Raises:
        ClusterError: kubectl is missing, or refuses it, or one of this sweep is at work.
    """
    running = [name for name, state in states(cluster) if state not in OVER]
    if running:
        raise ClusterError(
            f"the RayJob {running[-1]} of {cluster.spec.name} is at work; `loco-sweep logs` follows it, "
            "`loco-sweep cancel` deletes it"
        )
    config, job = (json.dumps(item) for item in _objects(cluster, again=again))
    # Not by kubectl itself, which keeps a copy in an annotation that must be small.
    _kubectl(cluster, ["apply", "--server-side", "--force-conflicts", "-f", "-"], config)
    return _kubectl(cluster, ["create", "-o", "name", "-f", "-"], job).strip()


def states(cluster: LoadedCluster) -> list[tuple[str, str]]:
    """Returns name and state of every RayJob of a sweep, the oldest first."""
    listed = json.loads(_kubectl(cluster, ["get", "rayjobs", "-l", f"{LABEL}={label(cluster)}", "-o", "json"]))["items"]
    listed.sort(key=lambda item: item["metadata"]["creationTimestamp"])
    return [(item["metadata"]["name"], _state(item.get("status", {}))) for item in listed]


def _state(status: Mapping[str, str]) -> str:
    # A RayJob whose cluster cannot be had fails without a job.
    return "FAILED" if status.get("jobDeploymentStatus") == "Failed" else status.get("jobStatus") or "PENDING"


def delete(cluster: LoadedCluster) -> None:
    """Deletes the RayJobs of a sweep with their clusters; what is committed stays."""
    _kubectl(cluster, ["delete", "rayjobs", "-l", f"{LABEL}={label(cluster)}"])


def logs(cluster: LoadedCluster, *, follow: bool) -> str:
    """Lets kubectl print what the newest RayJob prints; with ``follow`` until it is over. Returns its state.

    Raises:
        ClusterError: there is no RayJob.
    """
    while True:
        found = states(cluster)
        if not found:
            raise ClusterError(f"no RayJob of {cluster.spec.name}; `loco-sweep submit` makes one")
        name, state = found[-1]
        # Before its cluster is up there is nothing to print.
        if state != "PENDING":
            words = ["logs", "--tail=-1", *(["-f"] if follow else []), "-l", f"job-name={name}"]
            subprocess.run(_words(cluster, words), check=False)
        if not follow or state in OVER:
            return state
        time.sleep(POLL_SECONDS)


def _kubectl(cluster: LoadedCluster, words: list[str], text: str | None = None) -> str:
    done = subprocess.run(_words(cluster, words), input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ClusterError(f"kubectl {words[0]}: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return done.stdout


def _words(cluster: LoadedCluster, words: list[str]) -> list[str]:
    if shutil.which("kubectl") is None:
        raise ClusterError("kubectl is not installed; `loco-sweep submit --dry-run` prints what it would be given")
    job = cluster.spec.cluster.rayjob
    assert job is not None
    return ["kubectl", "--namespace", job.namespace, *words]

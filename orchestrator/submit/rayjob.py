"""A RayJob of KubeRay: rendered as a manifest, handed to kubectl."""

from __future__ import annotations

import base64
import json
import logging
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import yaml

from loco_core.errors import ClusterError
from orchestrator.spec.accelerators import ACCELERATOR_LABEL
from orchestrator.spec.cluster import MAX_WORKERS, CacheSpec
from orchestrator.spec.rayjob import RayJobSpec
from orchestrator.submit.bundle import SWEEP, command, runtime_env, traveling
from orchestrator.submit.cluster_file import LoadedCluster
from orchestrator.submit.jobs import last_line
from orchestrator.submit.secrets import Secrets

logger = logging.getLogger(__name__)
LABEL = "loco-sweep"
FOLDER = "/etc/loco-sweep"
OVER = ("SUCCEEDED", "FAILED", "STOPPED")
POLL_SECONDS = 5.0
SCRIPT = "run.sh"
RAY_GROUP = 1000
"""A group that pods are given; the user of Ray's own images has the same number."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_ENDED = "the driver ended with exit code "
_DRIVER = """\
# The driver of the RayJob. To KubeRay every exit code but 0 is a failure: 3 says that the sweep is done and some cells
# have failed, which `loco-sweep status` shows. Other codes above 4 say that the driver died before its last word.
left={retries}
while :; do
  {command}
  code=$?
  [ $code -gt 4 ] || echo "{ended}$code"
  case $code in
    3) exit 0 ;;
    0 | 1 | 2 | 4) exit $code ;;
  esac
  [ $left -gt 0 ] || exit $code
  left=$((left - 1))
  echo "the driver died (exit code $code); starting it again"
done
"""
SLACK_SECONDS = 1800
"""What a job has beside the hours of its budget, for running units to finish and nodes to come."""


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
        cluster: content of a file with ``cluster: {rayjob: ..}``.
        again: whether failed cells are computed again.
    """
    names = ", ".join(cluster.spec.secrets)
    note = (
        f"# `submit` also makes a secret that is not printed, {secret_name(cluster)}, with {names}.\n" if names else ""
    )
    # Anew from JSON: YAML would refer from one pod to another for what they have in common.
    objects = json.loads(json.dumps(_objects(cluster, again=again)))
    return note + yaml.safe_dump_all(objects, sort_keys=False, width=1000)


def _objects(cluster: LoadedCluster, *, again: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    spec, job = cluster.spec, cluster.spec.cluster.rayjob
    assert job is not None
    name = label(cluster)
    labels = {**job.labels, LABEL: name}
    sweep = traveling(cluster, FOLDER).model_dump_json(exclude_unset=True)
    code = {path.name: path.read_text(encoding="utf-8") for path in cluster.code.values()}
    # In a file: on its way KubeRay and Ray quote an entrypoint by different rules.
    driver = _DRIVER.format(
        ended=_ENDED, retries=spec.retries.driver, command=command(cluster, f"{FOLDER}/{SWEEP}", again=again)
    )
    config = {
        "apiVersion": "v1", "kind": "ConfigMap", "data": {SWEEP: sweep, SCRIPT: driver, **code},
        "metadata": {"name": f"{name}-sweep", "namespace": job.namespace, "labels": labels},
    }  # fmt: skip
    queue = {QUEUE_LABEL: job.queue} if job.queue else {}
    head = _pod(cluster, "ray-head", {"cpu": str(job.head_cpus), "memory": job.head_memory}, {})
    rayjob = {
        "apiVersion": "ray.io/v1", "kind": "RayJob",
        "metadata": {"generateName": f"{name}-", "namespace": job.namespace, "labels": {**labels, **queue}},
        "spec": {
            "entrypoint": f"sh {FOLDER}/{SCRIPT}",
            "runtimeEnvYAML": yaml.safe_dump(runtime_env(cluster), sort_keys=False),
            # Its script starts the driver again, on the cluster that is up; KubeRay would make another cluster.
            "backoffLimit": 0,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": job.ttl_seconds,
            **_deadline(cluster),
            "rayClusterSpec": {
                # Without it KubeRay refuses a token.
                "rayVersion": version("ray"),
                # Only the newer autoscaler knows labels.
                **({} if job.queue else {"enableInTreeAutoscaling": True, "autoscalerOptions": {"version": "v2"}}),
                # KubeRay makes a token and gives it to all of its pods; without one every pod near could run code here.
                "authOptions": {"mode": "token"},
                # Logical GPUs of the head are none: the driver runs there.
                "headGroupSpec": {"rayStartParams": {"num-gpus": "0"}, "template": head},
                "workerGroupSpecs": _groups(cluster, job),
            },
        },
    }  # fmt: skip
    return config, rayjob


def _groups(cluster: LoadedCluster, job: RayJobSpec) -> list[dict[str, Any]]:
    """Returns a group of workers per need of a model: what a pod has, and the labels by which Ray finds it."""
    workers, groups = cluster.spec.workers, dict[str, dict[str, Any]]()
    for model in cluster.sweep.models:
        wanted = {name: text for name, text in model.worker.label_selector.items() if _LABEL_VALUE.fullmatch(text)}
        for kind in model.worker.accelerators or (None,):
            found = wanted if kind is None else {**wanted, ACCELERATOR_LABEL: kind}
            needs = {"cpu": str(workers.cpus), "memory": job.worker_memory}
            needs |= {"nvidia.com/gpu": str(model.worker.gpus)} if model.worker.gpus else {}
            where = {**job.node_selector, **({} if kind is None else job.accelerators[kind])}
            pod: dict[str, Any] = {"nodeSelector": where} if where else {}
            pod |= {"tolerations": list(job.tolerations)} if job.tolerations else {}
            template = _pod(cluster, "ray-worker", needs, pod)
            group = {"rayStartParams": {}, **({"labels": found} if found else {}), "template": template}
            groups.setdefault(json.dumps(group, sort_keys=True), group)
    # Kueue admits what does not grow.
    most = MAX_WORKERS if workers.max == "auto" else workers.max
    least = most if job.queue else workers.min
    return [
        {
            "groupName": "workers" if number == 0 else f"workers-{number + 1}",
            "replicas": least if number == 0 else 0,
            "minReplicas": least if number == 0 else 0,
            "maxReplicas": most,
            **group,
        }
        for number, group in enumerate(groups.values())
    ]


def _cache(cache: CacheSpec) -> dict[str, Any]:
    if cache.claim is not None:
        return {"persistentVolumeClaim": {"claimName": cache.claim}}
    return {"hostPath": {"path": cache.path, "type": "DirectoryOrCreate"}}


def secret_name(cluster: LoadedCluster) -> str:
    """Returns the name of the Kubernetes secret with the secrets of a sweep."""
    return f"{label(cluster)}-secrets"


def _put_secrets(cluster: LoadedCluster, secrets: Secrets, owner: dict[str, Any] | None = None) -> None:
    """Makes or renews the Kubernetes secret; with a RayJob for an owner it goes when that does."""
    job = cluster.spec.cluster.rayjob
    assert job is not None
    metadata: dict[str, Any] = {
        "name": secret_name(cluster), "namespace": job.namespace, "labels": {LABEL: label(cluster)},
    }  # fmt: skip
    if owner is not None:
        about = {key: owner[key] for key in ("apiVersion", "kind")}
        metadata["ownerReferences"] = [{**about, **{key: owner["metadata"][key] for key in ("name", "uid")}}]
    # Of `stringData` Kubernetes would keep the names that are no longer given.
    data = {name: base64.b64encode(value.encode()).decode() for name, value in secrets.values.items()}
    item = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
    # Over its input: what a command is called with, all users of the machine see.
    _kubectl(cluster, ["apply", "--server-side", "--force-conflicts", "-f", "-"], json.dumps(item))


def _deadline(cluster: LoadedCluster) -> dict[str, int]:
    """Returns when KubeRay ends the job: where the driver, which ends it earlier, is stuck or waits for nodes."""
    budget = cluster.spec.budget
    if budget is None or budget.hours is None:
        return {}
    return {"activeDeadlineSeconds": int(3600 * budget.hours) + SLACK_SECONDS}


def _pod(cluster: LoadedCluster, name: str, needs: dict[str, str], more: dict[str, Any]) -> dict[str, Any]:
    spec, job = cluster.spec, cluster.spec.cluster.rayjob
    assert job is not None
    mounts: list[dict[str, Any]] = [{"name": "sweep", "mountPath": FOLDER, "readOnly": True}]
    volumes: list[dict[str, Any]] = [{"name": "sweep", "configMap": {"name": f"{label(cluster)}-sweep"}}]
    if spec.cache.path is not None:
        mounts.append({"name": "cache", "mountPath": spec.cache.path})
        volumes.append({"name": "cache", **_cache(spec.cache)})
    for number, (path, source) in enumerate(job.volumes.items(), 1):
        mounts.append({"name": f"volume-{number}", "mountPath": path})
        volumes.append({"name": f"volume-{number}", **source})
    container: dict[str, Any] = {
        "name": name, "image": job.image, "resources": {"limits": needs, "requests": needs}, "volumeMounts": mounts,
    }  # fmt: skip
    secrets = [job.secret, secret_name(cluster) if spec.secrets else None]
    if given := [{"secretRef": {"name": secret}} for secret in secrets if secret]:
        container["envFrom"] = given
    account = {"serviceAccountName": job.service_account} if job.service_account else {}
    return {"spec": {**account, **_writable(cluster), "containers": [container], "volumes": volumes, **more}}


def _writable(cluster: LoadedCluster) -> dict[str, Any]:
    """Returns what lets a pod write to its cache, whose folder belongs to root at first; the pod need not be root."""
    cache, job = cluster.spec.cache, cluster.spec.cluster.rayjob
    assert job is not None
    if cache.path is None:
        return {}
    if cache.claim is not None:
        return {"securityContext": {"fsGroup": RAY_GROUP, "fsGroupChangePolicy": "OnRootMismatch"}}
    container = {
        "name": "cache", "image": job.image, "command": ["chmod", "1777", cache.path],
        "securityContext": {"runAsUser": 0}, "volumeMounts": [{"name": "cache", "mountPath": cache.path}],
    }  # fmt: skip
    return {"initContainers": [container]}


def create(cluster: LoadedCluster, secrets: Secrets, *, again: bool = False) -> str:
    """Creates the RayJob; returns its name.

    Args:
        cluster: content of a file with ``cluster: {rayjob: ..}``.
        secrets: what its pods find in their environment.
        again: whether failed cells are computed again.

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
    if not secrets.values:
        return _kubectl(cluster, ["create", "-o", "name", "-f", "-"], job).strip()
    _put_secrets(cluster, secrets)
    try:
        owner = json.loads(_kubectl(cluster, ["create", "-o", "json", "-f", "-"], job))
    except ClusterError:
        # Nobody would remove it any more.
        _kubectl(cluster, ["delete", "secret", secret_name(cluster), "--ignore-not-found"])
        raise
    try:
        _put_secrets(cluster, secrets, owner)
    except ClusterError as error:
        logger.warning(
            "the RayJob %s is created, but the secret %s will stay when it is deleted: %s; `kubectl --namespace %s "
            "delete secret %s` removes it then",
            owner["metadata"]["name"], secret_name(cluster), error, _namespace(cluster), secret_name(cluster),
        )  # fmt: skip
    return f"rayjob.ray.io/{owner['metadata']['name']}"


def states(cluster: LoadedCluster) -> list[tuple[str, str]]:
    """Returns name and state of every RayJob of a sweep, the oldest first."""
    listed = json.loads(_kubectl(cluster, ["get", "rayjobs", "-l", f"{LABEL}={label(cluster)}", "-o", "json"]))["items"]
    listed.sort(key=lambda item: item["metadata"]["creationTimestamp"])
    return [(item["metadata"]["name"], _state(item.get("status", {}))) for item in listed]


def _state(status: Mapping[str, str]) -> str:
    # A RayJob whose cluster cannot be had fails without a job.
    return "FAILED" if status.get("jobDeploymentStatus") == "Failed" else status.get("jobStatus") or "PENDING"


def delete(cluster: LoadedCluster) -> None:
    """Deletes the RayJobs of a sweep with their clusters; what is committed stays.

    Raises:
        ClusterError: none is at work.
    """
    found = states(cluster)
    if not found:
        raise ClusterError(f"no RayJob of {cluster.spec.name}; there is nothing to cancel")
    if all(state in OVER for _, state in found):
        name, state = found[-1]
        raise ClusterError(f"the RayJob {name} is over ({state.lower()}); there is nothing to cancel")
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


def driver_code(cluster: LoadedCluster) -> int | None:
    """Returns the exit code of the driver of the newest RayJob, from the end of its log; None where it has not said it.

    Raises:
        ClusterError: kubectl fails.
    """
    name, _ = states(cluster)[-1]
    lines = _kubectl(cluster, ["logs", "--tail=20", "-l", f"job-name={name}"]).splitlines()
    codes = [line.removeprefix(_ENDED) for line in lines if line.startswith(_ENDED)]
    return int(codes[-1]) if codes and codes[-1].isdecimal() else None


def _kubectl(cluster: LoadedCluster, words: list[str], text: str | None = None) -> str:
    done = subprocess.run(_words(cluster, words), input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"kubectl {words[0]}: {last_line(done.stderr) or f'exit code {done.returncode}'}")
    return done.stdout


def _words(cluster: LoadedCluster, words: list[str]) -> list[str]:
    if shutil.which("kubectl") is None:
        raise ClusterError("kubectl is not installed; `loco-sweep submit --dry-run` prints what it would be given")
    return ["kubectl", "--namespace", _namespace(cluster), *words]


def _namespace(cluster: LoadedCluster) -> str:
    job = cluster.spec.cluster.rayjob
    assert job is not None
    return job.namespace

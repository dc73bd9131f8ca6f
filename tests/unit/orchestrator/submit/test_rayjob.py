"""What is asked of KubeRay for a cluster file; no Kubernetes is there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from loco_core.errors import SpecError
from orchestrator.cli.init import Kind
from orchestrator.submit import load_cluster
from orchestrator.submit.rayjob import manifest
from tests.support.kubernetes import check
from tests.support.sweeps import Command

SWEEP = """\
name: small
models: {models}
attributes: [style/van-gogh]
scorer: toy-clip
"""
CLUSTER = """\
name: first one
sweep: sweep.yaml
results: {results}
workers: {{gpus: 1, cpus: 4, min: 1, max: 8}}
cluster: {{rayjob: {{image: me, {more}}}}}
"""
MIXED = "[{id: sd15, worker: {accelerators: [L4, A10G]}}, {id: sdxl, worker: {gpus: 2, label_selector: {zone: a}}}]"
NODES = "accelerators: {L4: {gpu: l4}, A10G: {gpu: a10}}"


def _written(folder: Path, more: str = "", models: str = "[sd15]", results: str = "s3://bucket/first") -> Path:
    (folder / "sweep.yaml").write_text(SWEEP.format(models=models))
    (folder / "cluster.yaml").write_text(CLUSTER.format(results=results, more=more))
    return folder / "cluster.yaml"


def _objects(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    config, job = yaml.safe_load_all(manifest(load_cluster(path)))
    check(config)
    check(job)
    return config, job


def _pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_kuberay_takes_all_that_a_file_may_ask_for(tmp_path: Path) -> None:
    more = (
        "namespace: lab, secret: s3, service_account: sweeps, node_selector: {pool: gpu}, labels: {team: vision}, "
        "tolerations: [{key: gpu, operator: Exists}], ttl_seconds: 60, "
        "volumes: {/data: {persistentVolumeClaim: {claimName: data}}}"
    )
    _, job = _objects(_written(tmp_path, more, results="/data/first"))
    head, worker = _pods(job)
    for pod in (head, worker):
        assert pod["serviceAccountName"] == "sweeps"
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[mounts["/data"]]["persistentVolumeClaim"] == {"claimName": "data"}
    assert (worker["nodeSelector"], worker["tolerations"]) == ({"pool": "gpu"}, [{"key": "gpu", "operator": "Exists"}])
    # The head has no GPU, and needs no node that has one.
    assert not {"nodeSelector", "tolerations"} & set(head)
    assert job["metadata"]["labels"]["team"] == "vision"
    assert job["spec"]["ttlSecondsAfterFinished"] == 60


def test_pods_that_are_not_root_may_write_to_the_cache(tmp_path: Path) -> None:
    path = _written(tmp_path)
    text = path.read_text()
    path.write_text(f"{text}cache: {{path: /mnt/hub}}\n")
    for pod in _pods(_objects(path)[1]):
        (first,) = pod["initContainers"]
        assert (first["command"], first["securityContext"]) == (["chmod", "1777", "/mnt/hub"], {"runAsUser": 0})
        assert first["volumeMounts"] == [{"name": "cache", "mountPath": "/mnt/hub"}]
    path.write_text(f"{text}cache: {{path: /mnt/hub, claim: hub}}\n")
    for pod in _pods(_objects(path)[1]):
        assert pod["securityContext"]["fsGroup"] == 1000
        assert "initContainers" not in pod


def test_kuberay_refuses_a_key_that_it_does_not_know(tmp_path: Path) -> None:
    _, job = _objects(_written(tmp_path))
    job["spec"]["rayClusterSpec"]["rayVersoin"] = "2.60.0"
    with pytest.raises(jsonschema.ValidationError, match="rayVersoin"):
        check(job)


def test_every_need_of_a_model_has_a_group_of_workers(tmp_path: Path) -> None:
    _, job = _objects(_written(tmp_path, NODES, MIXED))
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    found = [
        (
            group["labels"],
            group["template"]["spec"].get("nodeSelector"),
            group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"],
        )
        for group in groups
    ]
    kind = "ray.io/accelerator-type"
    assert found == [
        ({kind: "L4"}, {"gpu": "l4"}, "1"),
        ({kind: "A10G"}, {"gpu": "a10"}, "1"),
        ({"zone": "a"}, None, "2"),
    ]
    # So many are kept up in all, not of each.
    assert sum(group["minReplicas"] for group in groups) == 1


def test_a_queue_of_kueue_gets_a_job_that_does_not_grow(tmp_path: Path) -> None:
    _, job = _objects(_written(tmp_path, "queue: team-a"))
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == 8
    with pytest.raises(SpecError, match=r"workers.max is auto; Kueue admits all"):
        load_cluster(tmp_path / "cluster.yaml", ("workers.max=auto",))


def test_a_job_without_a_number_of_workers_may_grow_as_far_as_the_cluster_does(tmp_path: Path) -> None:
    path = _written(tmp_path)
    path.write_text(path.read_text().replace("max: 8", "max: auto"))
    config, job = _objects(path)
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["maxReplicas"] == 100_000
    assert "--workers" not in str(config)


@pytest.mark.parametrize(
    ("more", "models", "results", "message"),
    [
        ("", MIXED, "s3://b/f", "rayjob.accelerators: model sd15 asks for L4; expected the labels of its nodes"),
        (f"queue: a, {NODES}", MIXED, "s3://b/f", "rayjob.queue: models need different workers"),
        ("", "[sd15]", "/shared/first", "results: pods do not find /shared/first; expected s3://"),
        ("volumes: {data: {}}", "[sd15]", "s3://b/f", "cluster.rayjob.volumes.* is wrong"),
    ],
)
def test_what_no_pod_could_find_is_refused_with_its_place(
    tmp_path: Path, more: str, models: str, results: str, message: str
) -> None:
    with pytest.raises(SpecError, match=rf"cluster.yaml:\d+:\d+: .*{message}"):
        load_cluster(_written(tmp_path, more, models, results))


@pytest.mark.parametrize(
    ("codes", "starts", "code"),
    [([0], 1, 0), ([3], 1, 0), ([1], 1, 1), ([4], 1, 4), ([137, 0], 2, 0), ([137, 137, 137, 137], 4, 137)],
)
def test_a_driver_that_died_is_started_again_and_one_with_failed_cells_has_succeeded(
    tmp_path: Path, codes: list[int], starts: int, code: int
) -> None:
    config, job = _objects(_written(tmp_path))
    assert job["spec"]["entrypoint"] == "sh /etc/loco-sweep/run.sh"
    (tmp_path / "run.sh").write_text(config["data"]["run.sh"])
    (tmp_path / "python").write_text(
        '#!/bin/sh\necho "$*" >>calls\nread -r code <codes\nsed -i 1d codes\nexit "$code"\n'
    )
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "codes").write_text("".join(f"{each}\n" for each in codes))
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "run.sh"], cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True, check=False
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("the driver ended with exit code ")]
    assert said == [f"the driver ended with exit code {each}" for each in codes if each <= 4]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert (done.returncode, len(calls)) == (code, starts)
    assert " run /etc/loco-sweep/submitted.yaml --results s3://bucket/first --address auto" in calls[0]


def test_the_file_of_init_is_one_that_kuberay_takes(command: Command, tmp_path: Path) -> None:
    command("init", Kind.KUBERAY, "--folder", tmp_path)
    _objects(tmp_path / "cluster.yaml")

"""Ray's launcher with the files of ``init aws``, on a cloud that is a server on loopback: from nothing to nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
import yaml
from moto.server import ThreadedMotoServer

from orchestrator.submit import launcher
from tests.support.sweeps import Command

PROFILE, REGION = "loco-sweep-s3", "us-west-2"
# What would be run on the machines is noted, and not run: it begins with `ray stop`.
SHIM = """\
#!/bin/sh
echo "$(basename "$0") $*" >>{log}
case "$*" in
  *Config.Env*) echo '["HOME=/home/ray"]' ;;
  *State.Running*) echo true ;;
esac
"""


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """EC2 and IAM on loopback, and a home folder with a token; yields the client of EC2."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # Servers of one process have one memory.
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=30).raise_for_status()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ssh", "rsync", "scp"):
        (programs / name).write_text(SHIM.format(log=tmp_path / "said"))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    (tmp_path / "tmp").mkdir()
    variables = {
        "HOME": str(tmp_path),
        # Ray keeps what it has found out about a cluster among the temporary files.
        "TMPDIR": str(tmp_path / "tmp"),
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    try:
        boto3.client("iam").create_instance_profile(InstanceProfileName=PROFILE)
        yield boto3.client("ec2")
    finally:
        server.stop()


def _instances(cloud: Any) -> list[tuple[str, str, str]]:
    """Returns kind of node, type and state of every instance."""
    found = [item for answer in cloud.describe_instances()["Reservations"] for item in answer["Instances"]]
    tags = [{tag["Key"]: tag["Value"] for tag in item.get("Tags", ())} for item in found]
    return [
        (tag["ray-user-node-type"], item["InstanceType"], item["State"]["Name"])
        for tag, item in zip(tags, found, strict=True)
    ]


def test_the_files_for_aws_start_a_head_and_leave_nothing_behind(cloud: Any, command: Command, tmp_path: Path) -> None:
    command("init", "aws", "--folder", tmp_path / "new")
    path = tmp_path / "new" / "ray.yaml"
    launcher.up(path)
    # Workers come when the sweep asks for them.
    assert _instances(cloud) == [("head", "m6i.2xlarge", "running")]
    (head,) = (item for answer in cloud.describe_instances()["Reservations"] for item in answer["Instances"])
    assert head["IamInstanceProfile"]["Arn"].endswith(f"/{PROFILE}")
    said = (tmp_path / "said").read_text()
    assert "docker pull my-registry/loco-sweep:latest" in said
    assert "RAY_AUTH_MODE=token && ray start --head" in said
    token = [line for line in said.splitlines() if line.startswith("rsync") and ".ray/auth_token" in line]
    assert token
    done = subprocess.run([*launcher.RAY, "down", "--yes", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert _instances(cloud) == [("head", "m6i.2xlarge", "terminated")]


def test_ec2_takes_the_spot_request_of_the_workers(cloud: Any, command: Command, tmp_path: Path) -> None:
    command("init", "aws", "--folder", tmp_path / "new")
    worker = yaml.safe_load((tmp_path / "new" / "ray.yaml").read_text())["available_node_types"]["worker"]
    image = cloud.describe_images()["Images"][0]["ImageId"]
    # boto3 itself refuses keys that EC2 does not have.
    (made,) = cloud.run_instances(ImageId=image, MinCount=1, MaxCount=1, **worker["node_config"])["Instances"]
    assert (made["InstanceType"], made.get("InstanceLifecycle")) == ("g6.2xlarge", "spot")

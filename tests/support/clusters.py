"""Real Ray clusters of several nodes on this machine, and a real S3 server, for tests."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import requests
import s3fs

from tests.support.hosts import Host
from tests.support.ports import free_ports

START_SECONDS, COMMAND_SECONDS = 180, 300
FAKE_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
HEAD_NODE = "f" * 50 + "e00000"
HEAD_TYPE = "ray.head.default"
REGION, BUCKET = "us-east-1", "bucket"


@dataclass(frozen=True)
class Head:
    """The head of a cluster.

    Attributes:
        pid: of its process, the leader of a group.
        address: of its dashboard.
        metrics: address of its Prometheus exporter.
        gcs: HOST:PORT that nodes join.
        folder: of Ray's own files; short, as paths of sockets must be.
        environment: in which its processes run, and in which commands reach it.
    """

    pid: int
    address: str
    metrics: str
    gcs: str
    folder: str
    environment: Mapping[str, str] = field(repr=False)


def environment(home: Path, **more: str) -> dict[str, str]:
    """Returns the environment of a machine of its own: no Ray of the surroundings, and a token."""
    hidden = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return {**kept, "PATH": path, "HOME": str(home), "RAY_AUTH_TOKEN": secrets.token_hex(32), **more}


@contextmanager
def started(words: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a process in a session of its own, and ends it."""
    with log.open("ab") as file:
        process = subprocess.Popen(words, env=dict(env), stdout=file, stderr=file, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(ProcessLookupError):
            # What it started and has left behind.
            os.killpg(process.pid, signal.SIGKILL)


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path, host: str = "127.0.0.1") -> None:
    """Returns once something listens; fails with the process's log if it ends, or after a while."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(log.read_text())


@contextmanager
def ray_head(
    home: Path,
    *,
    cpus: int = 1,
    host: str = "127.0.0.1",
    node_types: Mapping[str, Mapping[str, Any]] | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Head]:
    """Starts the head of a cluster, with token authentication.

    Args:
        home: scratch home folder of its processes.
        cpus: logical CPUs of the head.
        host: address of this machine at which nodes find it.
        node_types: what an autoscaler may start, as ``available_node_types`` of Ray's cluster file; None has none.
        variables: of the environment of its processes.
    """
    port, dashboard, agent, metrics = free_ports(4)
    env = environment(home, RAY_AUTH_MODE="token", RAY_worker_niceness="0", **variables)
    # Nobody waits for the work of a node that a test is through with.
    env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "1"
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        words = [
            "ray", "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}",
            f"--num-cpus={cpus}", "--num-gpus=0", f"--temp-dir={folder}",
            "--object-store-memory=150000000", "--disable-usage-stats",
            f"--node-ip-address={host}", f"--dashboard-host={host}",
        ]  # fmt: skip
        if node_types is not None:
            config = home / "autoscaling.json"
            config.write_text(json.dumps(_autoscaling(f"{host}:{port}", cpus, node_types)))
            words.append(f"--autoscaling-config={config}")
            env |= {
                "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_CLOUD_INSTANCE_ID": HEAD_NODE, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_NODE,
                "RAY_NODE_TYPE_NAME": HEAD_TYPE,
            }  # fmt: skip
        log = home / "head.log"
        with started(words, env, log) as process:
            wait_for_port(dashboard, process, log, host)
            yield Head(
                process.pid,
                f"http://{host}:{dashboard}",
                f"http://{host}:{metrics}/metrics",
                f"{host}:{port}",
                folder,
                env,
            )


def _autoscaling(gcs: str, cpus: int, node_types: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns a cluster file whose machines are processes on this one.

    Ray's own ``fake_multinode`` provider reads a file that its wheel lacks; as an external provider it needs none.
    """
    head = {"resources": {"CPU": cpus}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "fake",
        "max_workers": sum(kind["max_workers"] for kind in node_types.values()),
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "external", "module": FAKE_PROVIDER, "gcs_address": gcs, "launch_multiple": True,
            "head_node_id": HEAD_NODE, "disable_node_updaters": True, "disable_launch_config_check": True,
        },
        "available_node_types": {HEAD_TYPE: head, **{name: dict(kind) for name, kind in node_types.items()}},
        "head_node_type": HEAD_TYPE,
        # An autoscaler that is started by hand fills in no defaults.
        "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False, "upscaling_speed": 1.0,
        "cluster_synced_files": [], "rsync_exclude": [], "rsync_filter": [], "initialization_commands": [],
        "setup_commands": [], "head_setup_commands": [], "worker_setup_commands": [], "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }  # fmt: skip


@contextmanager
def ray_node(head: Head, name: str, *, cpus: int = 1, host: Host | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Lets a node of its own raylet, labelled with a name, join a cluster, from a host of its own if one is given."""
    words = [
        *(host.prefix if host else ()), "ray", "start", f"--address={head.gcs}",
        f"--node-ip-address={host.address if host else '127.0.0.1'}", "--block", f"--num-cpus={cpus}", "--num-gpus=0",
        "--object-store-memory=100000000", "--disable-usage-stats", f"--labels=name={name}",
        f"--dashboard-agent-listen-port={free_ports(1)[0]}",
    ]  # fmt: skip
    log = Path(head.environment["HOME"]) / f"{name}.log"
    with started(words, head.environment, log) as process:
        deadline = time.monotonic() + START_SECONDS
        # One after the other: of two that start at once on a busy machine one may time out.
        while not any(node["labels"].get("name") == name for node in nodes_alive(head)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield process


def nodes_alive(head: Head) -> list[dict[str, Any]]:
    """Returns what the dashboard says of the nodes that are alive, the head left out."""
    token = {"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
    answer = requests.get(f"{head.address}/api/v0/nodes", headers=token, timeout=30)
    rows = answer.json()["data"]["result"]["result"]
    return [row for row in rows if row["state"] == "ALIVE" and not row["is_head_node"]]


class S3Server:
    """SeaweedFS on loopback, with a bucket; it can be killed and started again.

    Args:
        folder: receives its data, configuration and log.
    """

    def __init__(self, folder: Path) -> None:
        port, *others = free_ports(9)
        names = ("s3.port.grpc", "master.port", "master.port.grpc", "filer.port", "filer.port.grpc", "volume.port",
                 "volume.port.grpc", "admin.port")  # fmt: skip
        key, secret = secrets.token_hex(8), secrets.token_hex(16)
        identity = {
            "name": "test",
            "credentials": [{"accessKey": key, "secretKey": secret}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config, data = folder / "s3.json", folder / "data"
        config.write_text(json.dumps({"identities": [identity]}))
        data.mkdir(exist_ok=True)
        self._words = [
            "weed", "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false",
            "-webdav=false", "-admin.ui=false", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            f"-s3.config={config}", f"-s3.port={port}",
            # Else a service listens 10,000 ports above its own, which need not exist.
            *(f"-{name}={number}" for name, number in zip(names, others, strict=True)),
        ]  # fmt: skip
        self._port, self._log, self._stack = port, folder / "weed.log", ExitStack()
        self._environment = environment(folder, TMPDIR=str(folder))
        self.client = {
            "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }  # fmt: skip
        """The environment in which clients find it."""

    def start(self) -> None:
        """Starts it; the data of its predecessor is there."""
        self._process = self._stack.enter_context(started(self._words, self._environment, self._log))
        wait_for_port(self._port, self._process, self._log)

    def kill(self) -> None:
        """Kills it where it stands."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> S3Server:
        """Starts it and makes the bucket."""
        try:
            self.start()
            self._make_bucket()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _make_bucket(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                file_system(self.client).call_s3("create_bucket", Bucket=BUCKET)
            except OSError:
                # The port answers before its master has been elected.
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.5)
            else:
                return

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self._stack.close()


def file_system(client: Mapping[str, str]) -> s3fs.S3FileSystem:
    """Connects to an :class:`S3Server`."""
    return s3fs.S3FileSystem(
        key=client["AWS_ACCESS_KEY_ID"], secret=client["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=client["AWS_ENDPOINT_URL"], client_kwargs={"region_name": REGION}, use_listings_cache=False,
        skip_instance_cache=True,
    )  # fmt: skip


def start(head: Head, folder: Path, *words: str, **changes: str) -> subprocess.Popen[str]:
    """Starts a command in a process of its own: how Ray authenticates is settled when it is imported."""
    env = {name: value for name, value in head.environment.items() if name != "RAY_AUTH_MODE"}
    command = [sys.executable, "-m", "orchestrator.cli.main", *words]
    return subprocess.Popen(
        command, cwd=folder, env={**env, **changes}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def call(head: Head, folder: Path, *words: str, **changes: str) -> tuple[int, str, str]:
    """Runs a command to its end."""
    process = start(head, folder, *words, **changes)
    out, err = process.communicate(timeout=COMMAND_SECONDS)
    return process.returncode, out, err

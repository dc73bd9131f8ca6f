"""Another user of the machine, while the first runs, views and submits: what can be read, changed or reached."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import submit
from orchestrator.submit import Jobs, LoadedCluster
from tests.support.dashboard import Dashboard
from tests.support.views import commit, make_store, serving, token, without_token

OTHER = 65534
WRONG = "0" * 64
SECONDS = 300

# Python and all modules are opened as the first user, who may keep them to herself; then there is no way back.
INTRUDER = """
    import http.client, json, os, socket, sys
    from pathlib import Path
    import grpc
    from ray._raylet import GcsClient

    asked = json.load(sys.stdin)
    os.setgroups([])
    os.setgid(asked["uid"])
    os.setuid(asked["uid"])
    assert os.getuid() == os.geteuid() == asked["uid"]

    def attempt(what, *words):
        try:
            what(*words)
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        return "done"

    def into(path):
        # What a socket says to somebody who cannot reach it differs from one who is not let in.
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)

    def said(port, path, header):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path, headers=header)
        answer = connection.getresponse()
        return answer.status, len(answer.read())

    def called(port, method, token):
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        metadata = [("authorization", f"Bearer {token}")] if token else []
        try:
            channel.unary_unary(method)(b"", timeout=5, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name
        finally:
            channel.close()
        return "OK"

    found = {"paths": {}, "http": [], "grpc": []}
    for path in map(Path, asked["paths"]):
        tries = {
            "list": attempt(os.listdir, path),
            "read": attempt(path.read_bytes),
            "create": attempt((path / "mine").write_bytes, b"x"),
            "overwrite": attempt(path.open, "r+b"),
            "rename": attempt(path.rename, path.with_name("gone")),
            "open up": attempt(path.chmod, 0o777),
            "connect": attempt(into, str(path)),
        }
        found["paths"][str(path)] = [name for name, outcome in tries.items() if outcome == "done"]
    for port in asked["ports"]:
        for token in (None, asked["wrong"]):
            header = {"Authorization": f"Bearer {token}"} if token else {}
            for path in asked["pages"]:
                try:
                    found["http"].append((port, token, path, *said(port, path, header)))
                except (OSError, http.client.HTTPException):
                    pass
            for method in asked["methods"]:
                found["grpc"].append((port, token, method, called(port, method, token)))
    words = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        for kind in ("cmdline", "environ"):
            try:
                words.append(path.with_name(kind).read_text(errors="replace"))
            except OSError:
                pass
    found["told"] = [secret for secret in asked["secrets"] if any(secret in text for text in words)]
    print(json.dumps(found))
"""
METHODS = (
    "/ray.rpc.InternalKVGcsService/InternalKVKeys", "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", "/ray.rpc.ActorInfoGcsService/GetAllActorInfo",
    "/ray.rpc.NodeManagerService/RequestWorkerLease", "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/ShutdownRaylet", "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats", "/ray.rpc.ObjectManagerService/Pull",
)  # fmt: skip
PAGES = ("/", "/metrics", "/api/jobs/", "/nodes", "/get_or_create_runtime_env", "/logs")


@dataclass(frozen=True)
class Seen:
    """What another user got.

    Attributes:
        paths: what was possible, by path.
        http: port, token, page, status and size of every answer.
        grpc: port, token, method and status of every call.
        told: secrets that the words and environments of processes tell.
    """

    paths: dict[str, list[str]]
    http: list[tuple[int, str | None, str, int, int]]
    grpc: list[tuple[int, str | None, str, str]]
    told: list[str]


def intrude(
    paths: list[Path] | None = None,
    ports: list[int] | None = None,
    pages: tuple[str, ...] = PAGES,
    methods: tuple[str, ...] = METHODS,
    secrets: tuple[str, ...] = (),
) -> Seen:
    """Tries everything as another user."""
    asked: dict[str, Any] = {
        "uid": OTHER, "paths": [str(path) for path in paths or []], "ports": ports or [], "pages": pages,
        "methods": methods, "wrong": WRONG, "secrets": secrets,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INTRUDER)], input=json.dumps(asked), capture_output=True, text=True,
        timeout=SECONDS, check=False, env={"PATH": os.environ["PATH"]}, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Seen(**json.loads(done.stdout.splitlines()[-1]))


def _may_switch() -> bool:
    code = f"import os; os.setgroups([]); os.setgid({OTHER}); os.setuid({OTHER})"
    return not subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode


pytestmark = pytest.mark.skipif(not _may_switch(), reason="only root may try things as another user")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody reaches, as the usual temporary folder is; those of pytest are not."""
    # Short, as paths of sockets must be.
    folder = Path(tempfile.mkdtemp(prefix="u-", dir="/tmp"))
    folder.chmod(0o1777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


DRIVER = """
    import os, sys, time
    from orchestrator.backends.ray.backend import RayBackend
    from orchestrator.scheduler.needs import WorkerNeeds

    backend = RayBackend(lambda model: None, workers=1, threads=1)
    backend.start_worker("w", WorkerNeeds(), frozenset())
    while not backend.poll(1.0):
        pass
    print(backend.logs, flush=True)
    sys.stdin.read()
    backend.shutdown()
"""


@contextmanager
def driving(public: Path, **variables: str) -> Iterator[tuple[int, Path]]:
    """Yields pid and temporary folder of a driver with a Ray and a worker."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(public), **variables},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        logs = Path(process.stdout.readline().strip())
        yield process.pid, next(path for path in logs.parents if path.parent == public)
    finally:
        process.communicate("")


def family(driver: int) -> set[int]:
    """Returns a process and its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {driver}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(pids: set[int]) -> list[int]:
    """Returns the ports that processes listen on."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(os.readlink(link))
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    ours = [row for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    return sorted({int(row[1].rpartition(":")[2], 16) for row in ours})


def tokens_of(pids: set[int]) -> set[str]:
    """Returns the tokens in the environments of processes."""
    texts = []
    for pid in pids:
        with suppress(OSError):
            texts.append(Path(f"/proc/{pid}/environ").read_text(errors="replace"))
    return set(re.findall(r"RAY_AUTH_TOKEN=(\w+)", "\n".join(texts)))


def test_nobody_else_enters_a_run_on_ray(public: Path) -> None:
    # Neither what would open it nor a token that others know counts.
    with driving(public, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN=WRONG) as (pid, folder):
        inside = [folder, *folder.rglob("*")]
        assert len([path for path in inside if path.is_socket()]) >= 2
        # Ray takes its own folder away from the owner's keeping; what is around it stays.
        assert folder.stat().st_mode & 0o777 == 0o700
        pids = family(pid)
        ports, tokens = listening(pids), tokens_of(pids) - {WRONG}
        assert len(ports) >= 4
        assert [len(each) for each in tokens] == [64]
        seen = intrude(inside, ports, secrets=tuple(tokens))
    assert {path: could for path, could in seen.paths.items() if could} == {}
    assert [answer for answer in seen.http if answer[3] not in (401, 403)] == []
    refused = ("UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
    answered = [call for call in seen.grpc if call[3] not in refused]
    assert answered == []
    # The head, the node and the worker were really asked.
    assert len({port for port, _, _, code in seen.grpc if code == "UNAUTHENTICATED"}) >= 3
    assert seen.told == []
    assert not folder.exists()


def test_nobody_else_looks_at_the_viewer(public: Path) -> None:
    store = make_store(public / "results")
    commit(store, "toy", "style/lumio", "a cat in lumio", 0)
    with serving(public / "results") as address:
        port = int(without_token(address).rpartition(":")[2])
        pages = ("/", "/index.json", "/report/0.html", "/static/page.js", f"/?token={WRONG}")
        seen = intrude(ports=[port], pages=pages, methods=(), secrets=(token(address),))
    assert len(seen.http) == 2 * len(pages)
    assert {status for _, _, _, status, _ in seen.http} == {403}
    assert seen.told == []


def test_nobody_else_reads_what_is_submitted(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (public / "mine.py").write_text("def localize(scores, settings, site_names=()): ...")
    (public / "sweep.yaml").write_text(
        f"{{name: s, models: [toy], attributes: [style/lumio], scorer: toy-clip, "
        f"localize: {{localizer: {public}/mine.py}}}}"
    )
    (public / "cluster.yaml").write_text(
        '{name: s, sweep: sweep.yaml, results: s3://b/s, cluster: {address: "http://head:8265"}}'
    )
    monkeypatch.setenv("TMPDIR", str(public))
    monkeypatch.setattr("tempfile.tempdir", None)
    tried: list[Seen] = []

    class Opened(Dashboard):
        def submit_job(self, *, runtime_env: dict[str, str], **job: Any) -> str:
            folder = Path(runtime_env["working_dir"])
            tried.append(intrude([folder, *folder.rglob("*.py"), folder / "submitted.yaml"]))
            return super().submit_job(**job)

    @contextmanager
    def connected(cluster: LoadedCluster) -> Iterator[Jobs]:
        yield Jobs(Opened(), cluster, "http://head:8265")

    monkeypatch.setattr(submit, "connected", connected)
    submit.submit(public / "cluster.yaml")
    (seen,) = tried
    assert len(seen.paths) > 100
    assert {path: could for path, could in seen.paths.items() if could} == {}


def test_what_is_published_is_read_as_the_first_user_lets_it_and_never_written(public: Path) -> None:
    before = os.umask(0o022)
    try:
        commit(make_store(public / "results"), "toy", "style/lumio", "a cat in lumio", 0)
        (public / "kept").mkdir(mode=0o700)
        commit(make_store(public / "kept"), "toy", "style/lumio", "a cat in lumio", 0)
    finally:
        os.umask(before)
    for name, allowed in (("results", {"list", "read"}), ("kept", set())):
        inside = [public / name, *(public / name).rglob("*")]
        seen = intrude(inside)
        assert {could for each in seen.paths.values() for could in each} == allowed

"""Joining a cluster by the address of its head: from where it listens, with its token, and with what its nodes hold."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from ray._private import services

from orchestrator.backends.ray.demand import _grows
from orchestrator.store.checksums import decode_document
from tests.support.clusters import Head, ray_head
from tests.support.sweeps import tiny_sweep

# A few seconds, on a busy machine a minute; Ray by itself tries for several.
SECONDS, CPUS = 150, 2
# Of the refusal of a worker; a minute at most with the patience that people get.
PATIENCE = """
import sys
from orchestrator.backends.ray import demand
demand.PATIENCE_SECONDS = 3.0
from orchestrator.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """The head of a cluster that a person started by hand, which listens on loopback only."""
    # What Ray itself does on systems without clusters.
    with ray_head(
        tmp_path_factory.mktemp("home"), cpus=CPUS, variables={"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    ) as head:
        yield head


JOIN = """
import sys
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.scheduler.protocol import BackendError
try:
    RayBackend(str, workers=1, threads=1, address=sys.argv[1]).shutdown()
    print("joined")
except BackendError as error:
    print(error)
"""


def environment(head: Head, changes: Mapping[str, str | None]) -> dict[str, str]:
    """Returns that of a person who has the token, and does not know how the head was started."""
    variables = {**head.environment, "RAY_AUTH_MODE": None, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": None, **changes}
    return {name: value for name, value in variables.items() if value is not None}


def run(head: Head, folder: Path, address: str, **changes: str | None) -> tuple[int, str, str, float]:
    words = ["run", "sweep.yaml", "--results", "results", "--address", address]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PATIENCE, *words], cwd=folder, env=environment(head, changes), capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr, time.monotonic() - began


@pytest.fixture
def folder(tiny_pipeline: Path, tmp_path: Path) -> Path:
    sweep = tiny_sweep(tiny_pipeline, attributes=["style/velor"], seeds=1)
    (tmp_path / "sweep.yaml").write_text(sweep.model_dump_json(exclude_unset=True))
    return tmp_path


def test_a_head_on_loopback_is_joined(head: Head, folder: Path) -> None:
    address = f"localhost:{head.gcs.rpartition(':')[2]}"
    outside = services.node_ip_address_from_perspective()
    if outside != "127.0.0.1":
        with pytest.raises(OSError):
            socket.create_connection((outside, int(address[10:])), timeout=5)
    code, out, err, _ = run(head, folder, address)
    assert (code, err) == (0, ""), out + err
    assert "0 units left" in out
    limit = decode_document((folder / "results" / "_meta" / "progress.json").read_bytes(), "progress")["limit"]
    assert limit == CPUS, "without a number as many workers as the cluster holds"


def joined(head: Head, address: str, **changes: str | None) -> tuple[str, float]:
    """Joins and leaves; returns what went wrong and after how long."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", JOIN, address], env=environment(head, changes), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, time.monotonic() - began


WANTED = (
    " wants a token: set RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH, a file) to that of the cluster, which `ray "
    "get-auth-token` prints on its head"
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, ""),
        ({"RAY_AUTH_TOKEN": None}, WANTED),
        ({"RAY_AUTH_TOKEN": None, "RAY_AUTH_MODE": "token"}, WANTED),
        ({"RAY_AUTH_TOKEN": "0" * 64}, WANTED),
        ({"RAY_AUTH_MODE": "disabled"}, f"{WANTED}; RAY_AUTH_MODE is disabled here, expected token"),
        ({"RAY_AUTH_TOKEN": "two words"}, "RAY_AUTH_TOKEN holds no token: expected one word"),
        ({"RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": "/nowhere"}, "cannot be read: RAY_AUTH_TOKEN_PATH is set but"),
    ],
    ids=["right", "none", "none, but wanted", "another", "not used", "no word", "no file"],
)
def test_a_token_that_is_missing_is_named(head: Head, changes: dict[str, str | None], message: str) -> None:
    said, seconds = joined(head, head.gcs, **changes)
    assert message in said if message else said == "joined\n"
    assert said.count("\n") == 1
    assert seconds < SECONDS


def test_what_is_no_head_is_named(head: Head) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for address in (head.address.removeprefix("http://"), f"127.0.0.1:{silent.getsockname()[1]}"):
            said, seconds = joined(head, address)
            assert f"what answers at {address} is no head of a Ray cluster; expected the address that" in said
            assert seconds < SECONDS


def test_without_a_token_a_run_ends_with_one_line(head: Head, folder: Path) -> None:
    code, _, err, seconds = run(head, folder, head.gcs, RAY_AUTH_TOKEN=None)
    assert (code, err) == (1, f"error: {head.gcs}{WANTED}\n")
    assert seconds < SECONDS


def test_what_no_node_of_a_cluster_without_autoscaler_holds_is_refused(head: Head, folder: Path) -> None:
    spec = json.loads((folder / "sweep.yaml").read_text())
    spec["models"][0]["worker"] = {"gpus": 1}
    (folder / "sweep.yaml").write_text(json.dumps(spec))
    code, out, err, seconds = run(head, folder, head.gcs)
    assert (code, err) == (
        1,
        "error: no node of the cluster has 1 CPUs and 1 GPUs for a worker (there are at most 2 CPUs and 0 GPUs on a "
        "node), and no autoscaler adds any; where nodes come after 3 s, set LOCO_NODE_PATIENCE to more seconds; ask "
        "for less, or add nodes: the same command resumes\n",
    ), out
    assert seconds < SECONDS
    assert not (folder / "results" / "_meta" / "units").exists()


NODE = "6989e2fe809685e5f4aba512c99e8de391aa01237bb57ac76f6157bc"


@pytest.mark.parametrize(
    ("kinds", "grows"),
    [
        ({NODE: f"node_{NODE}"}, False),
        ({NODE: f"node_{NODE}", "0" * 56: f"node_{'0' * 56}"}, False),
        ({"f" * 50 + "e00000": "ray.head.default"}, True),
        ({"i-0123": "head", NODE: f"node_{NODE}"}, True),
        ({NODE: f"node_{'0' * 56}"}, True),
        ({}, True),
        (None, True),
    ],
    ids=["one node by hand", "two by hand", "a head of a launcher", "mixed", "another's", "none yet", "no map"],
)
def test_an_older_autoscaler_is_told_from_one_that_only_reports(kinds: dict[str, str] | None, grows: bool) -> None:
    # As it reports, cut down to what tells.
    report = {"autoscaler_report": {"active_nodes": {}, "pending_nodes": [], "node_type_mapping": kinds}}
    assert _grows(json.dumps(report).encode()) is grows


@pytest.mark.parametrize("report", [b"{", b"{}", b"[]", b'{"autoscaler_report": null}'])
def test_a_report_that_cannot_be_read_refuses_nothing(report: bytes) -> None:
    assert _grows(report) is True


def test_without_a_report_nothing_grows() -> None:
    assert _grows(None) is False

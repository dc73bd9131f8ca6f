"""A whole run against a real S3 server that fails as servers and networks do."""

from __future__ import annotations

import io
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from loco_core.errors import StoreError
from orchestrator.backends.inline import InlineBackend
from orchestrator.runs.sweep import RunResult, run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.store import Store, open_store
from orchestrator.store.lease import Lease
from tests.support.clusters import S3Server, file_system
from tests.support.proxy import FAULTS, Fault, Proxy, at_random, proxy
from tests.support.sweeps import FakeWorker, assert_same, fake_resolved, tiny_sweep

SPEC = tiny_sweep("x", attributes=["style/velor"], seeds=4)
# Ways to fail that a run gets over by itself.
PASSING: tuple[Fault, ...] = tuple(fault for fault in FAULTS if fault != "expired")
SEED = 20261125


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def between(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(server.client["AWS_ENDPOINT_URL"]) as (between, address):
        for name, value in {**server.client, "AWS_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        yield between


@pytest.fixture
def root(between: Proxy) -> str:
    return f"s3://bucket/{uuid.uuid4().hex}"


@pytest.fixture
def undisturbed(tmp_path: Path, between: Proxy) -> Store:
    assert run(str(tmp_path / "here")).summary.outcome == "done"
    return open_store(str(tmp_path / "here"))


def run(root: str) -> RunResult:
    return run_sweep(
        SPEC, root,
        lambda settings: InlineBackend(lambda model: FakeWorker(settings, model, lambda: open_store(root)), threads=1),
        on_progress=lambda _: None, on_localized=lambda _: None, stop=StopSwitch(),
        resolved=fake_resolved(SPEC),
    )  # fmt: skip


def test_requests_that_fail_in_every_way_cost_no_row(between: Proxy, root: str, undisturbed: Store) -> None:
    assert run(f"{root}-clean").summary.outcome == "done"
    needed = between.requests.total()
    between.choose = at_random(SEED, 0.25, PASSING)
    assert run(root).summary.outcome == "done"
    between.choose = lambda method, number: None
    assert set(between.faults) == set(PASSING), f"seed {SEED}"
    assert between.lost_puts > 0
    # A third more for what failed; the lease is renewed more often as all takes longer.
    assert between.requests.total() - needed < 2 * needed
    assert_same(open_store(root), undisturbed)


def test_a_server_killed_and_started_again_is_waited_for(
    server: S3Server, between: Proxy, root: str, undisturbed: Store
) -> None:
    killed = threading.Event()

    def kill(method: str, number: int) -> None:
        if number == 60:
            server.kill()
            threading.Timer(2, server.start).start()
            killed.set()

    between.choose = kill
    assert run(root).summary.outcome == "done"
    assert killed.is_set()
    assert_same(open_store(root), undisturbed)


def test_credentials_that_expire_end_the_run_in_one_line_and_new_ones_resume_it(
    between: Proxy, root: str, undisturbed: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A run whose credentials are refused cannot give its lease back: the next one waits for it to stand still.
    monkeypatch.setattr(Lease.__init__, "__kwdefaults__", {**(Lease.__init__.__kwdefaults__ or {}), "dead_after": 2.0})
    between.choose = lambda method, number: "expired" if number > 130 else None
    with pytest.raises(StoreError) as error:
        run(root)
    assert "S3 refuses (ExpiredToken); check credentials" in str(error.value)
    assert "\n" not in str(error.value)
    between.choose = lambda method, number: None
    committed = len(open_store(root).committed())
    assert committed
    result = run(root)
    assert result.summary.outcome == "done"
    assert result.summary.committed == len(undisturbed.committed()) - committed
    assert_same(open_store(root), undisturbed)


def test_nothing_of_the_credentials_is_written_anywhere(server: S3Server, between: Proxy, root: str) -> None:
    assert run(root).summary.outcome == "done"
    fs = file_system(os.environ)
    secrets = [os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    paths = fs.find(root)
    assert len(paths) > 10
    for path in paths:
        content = fs.cat(path)
        table = pq.read_table(io.BytesIO(content)).to_pylist() if path.endswith(".parquet") else ""
        text = content.decode(errors="replace") + str(table)
        assert not any(secret in text for secret in secrets), path

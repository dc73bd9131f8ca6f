"""Workers, raylets, drivers, heads and the S3 server killed at random under one sweep; by hand, `make chaos`.

``LOCO_CHAOS_SEED`` repeats a soak's draws, ``LOCO_CHAOS_FAULTS`` says how many of each kind there are (30).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from orchestrator.spec import SweepSpec
from orchestrator.store import open_store, verify
from tests.support.clusters import Head, S3Server, ray_head, ray_node, start
from tests.support.nodes import HEALTH, kill_raylet
from tests.support.proxy import Choice, Proxy, at_random, proxy
from tests.support.runs import run
from tests.support.sweeps import assert_each_once, payload, tiny_sweep

pytestmark = pytest.mark.chaos
SEED = int(os.environ.get("LOCO_CHAOS_SEED") or random.SystemRandom().randrange(2**31))
FAULTS = int(os.environ.get("LOCO_CHAOS_FAULTS", "30"))
KINDS = ("worker", "raylet", "driver", "head", "s3")
NODES, MORE_SEEDS = 2, 20
PAUSE = (1.0, 5.0)
LIMIT_SECONDS = 2 * 3600
LOST_PUTS = 10
"""Answers of writes that get lost at least; of all requests few are writes."""
ROOT = "s3://bucket/soak"


class Soak:
    """A cluster, a bucket, a driver that is started again whenever it ends, and what was done to them."""

    def __init__(self, folder: Path, spec: SweepSpec, between: Proxy, server: S3Server, client: dict[str, str]) -> None:
        self.spec, self.seeds = spec, MORE_SEEDS
        self.killed: Counter[str] = Counter()
        self.starts = 0
        self._folder, self._between, self._server, self._client = folder, between, server, client
        self._rng = random.Random(SEED)
        self._stack = ExitStack()
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._driver: subprocess.Popen[str] | None = None

    def __enter__(self) -> Soak:
        self._raise_cluster()
        return self

    def __exit__(self, *_: object) -> None:
        if self._driver is not None and self._driver.poll() is None:
            self._driver.kill()
        self._stack.close()

    def _raise_cluster(self) -> None:
        self._stack.close()
        self._head: Head = self._stack.enter_context(
            ray_head(self._folder, cpus=0, variables={**HEALTH, **self._client})
        )
        self._nodes = []
        while len(self._nodes) < NODES:
            self._join()

    def _join(self) -> None:
        name = f"node-{self.starts}-{len(self._nodes)}-{self.killed['raylet']}"
        self._nodes.append(self._stack.enter_context(ray_node(self._head, name)))

    def drive(self) -> bool:
        """Starts the driver where none runs; returns whether the sweep, as large as it is now, is done."""
        if self._driver is not None and self._driver.poll() is None:
            return False
        if self._driver is not None and self._driver.returncode == 0:
            self._driver = None
            return True
        if self._driver is not None and self._driver.returncode > 0:
            _, error = self._driver.communicate()
            assert "Traceback" not in error, error
        self.starts += 1
        grown = self.spec.model_copy(update={"seeds": tuple(range(self.seeds))})
        (self._folder / "sweep.yaml").write_text(grown.model_dump_json(exclude_unset=True))
        words = ["run", "sweep.yaml", "--results", ROOT, "--workers", str(NODES), "--threads", "1", "--address"]
        self._driver = start(self._head, self._folder, *words, self._head.gcs, RAY_AUTH_MODE="token")
        return False

    def hit(self, kind: str) -> None:
        """Does one thing to them, if it is there to be done."""
        match kind:
            case "worker":
                workers = _workers(self._nodes)
                if not workers:
                    return
                self._rng.choice(workers).kill()
            case "raylet":
                node = self._nodes.pop(self._rng.randrange(len(self._nodes)))
                there = node.poll() is None
                if there:
                    kill_raylet(node)
                self._join()
                if not there:
                    return
            case "driver":
                if self._driver is None or self._driver.poll() is not None:
                    return
                self._driver.kill()
                self._driver.wait()
            case "head":
                os.killpg(self._head.pid, signal.SIGKILL)
                self._raise_cluster()
            case "s3":
                self._server.kill()
                time.sleep(self._rng.uniform(0.5, 2.0))
                self._server.start()
        self.killed[kind] += 1

    def next_kind(self) -> str | None:
        """Returns a kind of which there were too few; None when there were enough of all."""
        left = [kind for kind in KINDS if self.killed[kind] < FAULTS]
        return self._rng.choice(left) if left else None

    def pause(self) -> None:
        time.sleep(self._rng.uniform(*PAUSE))


def _workers(nodes: list[subprocess.Popen[bytes]]) -> list[psutil.Process]:
    found = []
    for node in nodes:
        try:
            children = psutil.Process(node.pid).children(recursive=True)
            found += [child for child in children if "WorkerActor" in " ".join(child.cmdline())]
        except psutil.Error:
            continue
    return found


def _faults() -> Choice:
    """Returns what befalls requests."""
    rng, others = random.Random(SEED), at_random(SEED, 0.03, ("503", "reset before", "reset in body"))
    return lambda method, number: "lost answer" if method == "PUT" and rng.random() < 0.05 else others(method, number)


@pytest.fixture
def between(tmp_path: Path) -> Iterator[tuple[Proxy, S3Server, dict[str, str]]]:
    with S3Server(tmp_path) as server, proxy(server.client["AWS_ENDPOINT_URL"]) as (between, address):
        yield between, server, {**server.client, "AWS_ENDPOINT_URL": address}


def test_a_sweep_outlives_everything(
    tiny_pipeline: Path,
    tmp_path: Path,
    between: tuple[Proxy, S3Server, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    print(f"LOCO_CHAOS_SEED={SEED}")
    middle, server, client = between
    middle.choose = _faults()
    spec = tiny_sweep(tiny_pipeline, attributes=["style/velor"], seeds=MORE_SEEDS)
    deadline = time.monotonic() + LIMIT_SECONDS
    with Soak(tmp_path, spec, middle, server, client) as soak:
        done = False
        while not done or soak.next_kind() is not None or middle.lost_puts < LOST_PUTS:
            assert time.monotonic() < deadline, f"LOCO_CHAOS_SEED={SEED}: {soak.killed}"
            done = soak.drive()
            kind = soak.next_kind()
            if done and (kind is not None or middle.lost_puts < LOST_PUTS):
                soak.seeds += MORE_SEEDS
            elif kind is not None:
                soak.pause()
                soak.hit(kind)
            else:
                time.sleep(1)
    print(f"{dict(soak.killed)}, {soak.starts} drivers, {dict(middle.faults)}, {middle.lost_puts} PUTs without answer")
    middle.choose = lambda method, number: None
    final = spec.model_copy(update={"seeds": tuple(range(soak.seeds))})
    assert run(final, tmp_path / "undisturbed").summary.outcome == "done"
    for name, value in client.items():
        monkeypatch.setenv(name, value)
    store = open_store(ROOT)
    scores = store.read("scores")
    assert_each_once(scores)
    assert payload(scores) == payload(open_store(str(tmp_path / "undisturbed")).read("scores"))
    assert store.read("failures").num_rows == 0
    assert verify(store) == []

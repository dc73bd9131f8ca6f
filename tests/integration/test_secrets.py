"""Secrets reach workers in every way in which a sweep is run, and are written nowhere.

The hub gives the model only to who shows the one secret; a scorer of the sweep's own logs the other and raises it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import requests

from tests.support.canaries import commands_seen, forms, found_in
from tests.support.clusters import COMMAND_SECONDS, Head, environment, ray_head
from tests.support.hub import Hub, serving
from tests.support.sweeps import tiny_sweep

TOKEN, WORD = "hf-kanarienvogel-9c1e", "grünfink+7f3a91/x"
SECRETS = {"HF_TOKEN": TOKEN, "LAB_WORD": WORD}
CLUSTER = """\
name: small
sweep: sweep.yaml
results: {results}
workers: {{gpus: 0, cpus: 1, max: 1}}
cluster: {cluster}
secrets: [HF_TOKEN, LAB_WORD]
cache: {{path: {cache}, mirror: "{mirror}"}}
retries: {{driver: 0}}
"""
SCORER = """\
import logging
import os

from loco_core.scoring.scorers.clip import Scorer as Clip
from loco_core.toyworld import WEIGHTS as BUNDLED

WEIGHTS = BUNDLED / "clip"


class Scorer(Clip):
    def score(self, embeddings, texts):
        word = os.environ["LAB_WORD"]
        logging.getLogger("mine").warning("the word is %s", word)
        raise ValueError(f"a word of {len(word)} letters: {word}")
"""
RUN = "import sys; from orchestrator.cli.main import main; sys.argv[0] = 'loco-sweep'; main()"
FAKE_RAY = """\
import os, pathlib, shutil, socket, sys, threading

def copy(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)

if sys.argv[1] == "rsync-up":
    shutil.copy(sys.argv[3], os.path.expanduser(sys.argv[4]))
elif sys.argv[1] == "dashboard":
    with socket.create_server(("127.0.0.1", int(sys.argv[4]))) as server:
        while True:
            near, _ = server.accept()
            far = socket.create_connection(("127.0.0.1", {port}))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=copy, args=pair, daemon=True).start()
"""


@pytest.fixture(scope="module")
def hub(tiny_pipeline: Path) -> Iterator[Hub]:
    with serving({"owner/tiny": tiny_pipeline}, token=TOKEN) as found:
        yield found


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with ray_head(tmp_path_factory.mktemp("home"), variables={"LANG": "C.UTF-8"}) as found:
        yield found


@pytest.fixture
def folder(tiny_pipeline: Path, tmp_path: Path) -> Path:
    sweep = tiny_sweep(
        "owner/tiny", attributes=["style/velor"], prompts=1, seeds=1, scorer="./mine.py",
        windows={"sizes": [2], "stride": 8}, controls={"random": 0},
    )  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(sweep.model_dump_json(exclude_unset=True))
    (tmp_path / "mine.py").write_text(SCORER)
    return tmp_path


def write(folder: Path, hub: Hub, cluster: str) -> None:
    text = CLUSTER.format(
        results=folder / "results", cluster=cluster, cache=folder / "cache", mirror=hub.address
    )  # fmt: skip
    (folder / "cluster.yaml").write_text(text)


def call(folder: Path, env: Mapping[str, str], *words: str, code: str = RUN) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=folder, env=dict(env), capture_output=True, text=True,
        timeout=COMMAND_SECONDS, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def checked(folder: Path, env: Mapping[str, str], said: str, *more: Path) -> None:
    """Looks through what was said and written, and what other commands say of it."""
    for word in ("status", "report"):
        code, text = call(folder, env, word, str(folder / "results"))
        assert code == 0, text
        said += text
    assert f"a word of {len(WORD)} letters: ***" in said, "workers had it, and it was masked"
    assert not any(form in said.encode() for secret in SECRETS.values() for form in forms(secret))
    assert (folder / "results" / "report.html").is_file()
    assert list((folder / "cache").rglob("*.safetensors")), "the model came from the hub, which wants the token"
    assert found_in(SECRETS.values(), folder, *more) == []


def test_on_this_machine(folder: Path, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> None:
    write(folder, hub, "{local: true}")
    env = environment(tmp_path_factory.mktemp("home"), **SECRETS)
    with commands_seen(SECRETS.values()) as seen:
        code, said = call(folder, env, "submit", "cluster.yaml")
    assert (code, seen) == (3, []), said
    checked(folder, env, said)


def test_by_a_launcher(folder: Path, hub: Hub, head: Head) -> None:
    write(folder, hub, "{launcher: ray.yaml}")
    (folder / "ray.yaml").write_text(
        "cluster_name: c\nprovider: {type: local, head_ip: 127.0.0.1, worker_ips: []}\nauth: {ssh_user: me}\n"
    )
    (folder / "fake_ray.py").write_text(FAKE_RAY.replace("{port}", head.address.rpartition(":")[2]))
    code_ = (
        f"from orchestrator.submit import launcher; launcher.RAY = {(sys.executable, str(folder / 'fake_ray.py'))!r}; "
    )
    env = {name: value for name, value in head.environment.items() if name != "RAY_AUTH_MODE"}
    with commands_seen(SECRETS.values()) as seen:
        code, said = call(folder, {**env, **SECRETS}, "submit", "cluster.yaml", "--wait", code=code_ + RUN)
    assert (code, seen) == (3, []), said
    assert not list(Path(head.environment["HOME"]).glob(".loco-sweep-*")), "the driver has removed the file"
    told = ""
    token = {"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
    for path in (
        "api/jobs/",
        "api/v0/actors?detail=true",
        "api/v0/tasks?detail=true",
        "api/v0/runtime_envs?detail=true",
    ):
        answer = requests.get(f"{head.address}/{path}", headers=token, timeout=30)
        assert answer.ok, answer.text
        told += answer.text
    assert "LOCO_SWEEP_SECRETS" in told, "names are no secret"
    checked(folder, env, said + told, Path(head.folder), Path(head.environment["HOME"]))

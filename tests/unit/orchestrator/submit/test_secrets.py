"""Secrets and caches of ``cluster.yaml``: refused by name, delivered by each kind of cluster, and written nowhere."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from loco_core import masking
from loco_core.errors import SpecError
from orchestrator.cli import submit as cli
from orchestrator.submit import collect, launcher, load_cluster
from orchestrator.submit.bundle import command as command_of
from orchestrator.submit.bundle import runtime_env
from orchestrator.submit.cluster_file import LoadedCluster
from orchestrator.submit.jobs import Jobs
from orchestrator.submit.secrets import receive
from tests.support.dashboard import Dashboard
from tests.support.sweeps import Command

CANARY = "kanarienvogel-7f3a91"
SWEEP = "name: small\nmodels: [toy]\nattributes: [style/lumio]\nscorer: toy-clip\n"
CLUSTER = """\
name: first
sweep: sweep.yaml
results: s3://bucket/first
secrets: [MY_WORD]
cache: {path: /mnt/hub, mirror: "https://hub.lab"}
cluster: {rayjob: {image: me, secret: s3}}
"""
RAYJOB, LAUNCHER = "{rayjob: {image: me, secret: s3}}", "{launcher: ray.yaml}"


@pytest.fixture(autouse=True)
def _own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_known", set())


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MY_WORD", CANARY)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return tmp_path / "cluster.yaml"


def holds(text: str) -> bool:
    return CANARY in text or base64.b64encode(CANARY.encode()).decode() in text


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("[MY_WORD]", "[MY-WORD]", r"cluster.yaml:4:11: secrets.0: .* is wrong"),
        ("[MY_WORD]", "[A, A]", r"cluster.yaml:4:10: secrets: the variable 'A' is given more than once"),
        ("[MY_WORD]", "[HF_HOME]", r"cluster.yaml:4:11: .* HF_HOME is given in runtime_env or cache too"),
        (RAYJOB, '{address: "http://h:8265"}', r"running cluster, Ray writes into its logs; .* set MY_WORD in the env"),
        ("/mnt/hub", "hub", r"cluster.yaml:5:15: cache.path: .* is wrong"),
        ("https://hub.lab", "https://me:pw@hub.lab", r"cluster.yaml:5:33: cache.mirror: .*without a password"),
        ("path: /mnt/hub", "claim: c", r"cluster.yaml:5:16: cache.claim: no path is given"),
        (RAYJOB, "{local: true}\nruntime_env: {env_vars: {HF_HOME: /x}}", r"cache.path: runtime_env.env_vars gives"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(file: Path, before: str, after: str, message: str) -> None:
    file.write_text(CLUSTER.replace(before, after))
    with pytest.raises(SpecError, match=message):
        load_cluster(file)


def test_a_secret_that_is_not_set_is_refused_by_name_before_anything_is_sent(
    file: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_WORD")
    for words in ([], ["--dry-run"]):
        code, out, err = command("submit", file, *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{file}:4:11: secrets: MY_WORD is not set here; expected it in the environment" in err
    monkeypatch.setenv("MY_WORD", f"{CANARY}\n")
    code, out, err = command("submit", file)
    assert (code, out, err.count("\n"), holds(err)) == (2, "", 1, False)


@pytest.mark.parametrize(("letters", "taken"), [(7, False), (8, True)])
def test_a_secret_that_is_too_short_to_be_masked_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, letters: int, taken: bool
) -> None:
    word = "hunt3r27"[:letters]
    monkeypatch.setenv("MY_WORD", word)
    if taken:
        collect(load_cluster(file))
        assert masking.masked(f"x{word}y") == "x***y"
        return
    with pytest.raises(
        SpecError, match=r"yaml:4:11: secrets: the value of MY_WORD is too short .* at least 8"
    ) as error:
        collect(load_cluster(file))
    assert word not in str(error.value)


def test_what_is_collected_is_masked_and_has_no_repr(file: Path) -> None:
    secrets = collect(load_cluster(file))
    assert secrets.values == {"MY_WORD": CANARY}
    assert not holds(repr(secrets))
    assert masking.masked(f"x{CANARY}y") == "x***y"


KUBECTL = """\
#!{python}
import json, pathlib, sys
place = pathlib.Path(__file__).parent
text = sys.stdin.read() if "-f" in sys.argv else ""
with (place / "calls").open("a") as log:
    print(json.dumps([sys.argv[1:], json.loads(text) if text else None]), file=log)
if "ownerReferences" in text and (place / "refuse owners").exists():
    sys.exit("no such owner")
if "get" in sys.argv:
    print('{{"items": []}}')
if "create" in sys.argv:
    if (place / "refuse").exists():
        sys.exit("no quota")
    print(json.dumps({{**json.loads(text), "metadata": {{"name": "s-1", "uid": "u-1"}}}}))
"""


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kubectl").write_text(KUBECTL.format(python=sys.executable))
    (folder / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_a_rayjob_finds_them_in_a_secret_that_goes_with_it(file: Path, kubectl: Path, command: Command) -> None:
    code, out, err = command("submit", file)
    assert (code, err) == (0, "")
    assert "created rayjob.ray.io/s-1;" in out
    calls = [json.loads(line) for line in (kubectl / "calls").read_text().splitlines()]
    assert not any(holds(" ".join(words)) for words, _ in calls), "everybody on the machine sees what it is called with"
    given = [item for _, item in calls if item]
    secrets = [item for item in given if item["kind"] == "Secret"]
    assert not holds(json.dumps([item for item in given if item["kind"] != "Secret"]) + out)
    assert [item.get("data") for item in secrets] == [{"MY_WORD": base64.b64encode(CANARY.encode()).decode()}] * 2
    assert not any("stringData" in item for item in secrets), "Kubernetes would keep names that are taken out"
    assert [item["kind"] for item in given] == ["ConfigMap", "Secret", "RayJob", "Secret"]
    (owner,) = secrets[1]["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": "s-1", "uid": "u-1"}
    (cluster,) = [item["spec"]["rayClusterSpec"] for item in given if item["kind"] == "RayJob"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert [each["secretRef"]["name"] for each in pod["containers"][0]["envFrom"]] == [
            "s3", secrets[0]["metadata"]["name"],
        ]  # fmt: skip
        assert {"name": "cache", "mountPath": "/mnt/hub"} in pod["containers"][0]["volumeMounts"]
        assert {"name": "cache", "hostPath": {"path": "/mnt/hub", "type": "DirectoryOrCreate"}} in pod["volumes"]


def test_a_secret_without_an_owner_is_a_warning_as_the_rayjob_is_at_work(
    file: Path, kubectl: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    (kubectl / "refuse owners").touch()
    code, out, _ = command("submit", file)
    assert (code, "created rayjob.ray.io/s-1;" in out) == (0, True)
    assert "the RayJob s-1 is created, but the secret s-first-" in caplog.text
    assert "no such owner" in caplog.text


def test_a_rayjob_that_is_refused_leaves_no_secret(file: Path, kubectl: Path, command: Command) -> None:
    (kubectl / "refuse").touch()
    code, _, err = command("submit", file)
    assert (code, "no quota" in err) == (1, True)
    assert '"delete", "secret", "s-first-' in (kubectl / "calls").read_text().splitlines()[-1]


def test_the_manifest_that_is_printed_names_them_only(file: Path, command: Command) -> None:
    file.write_text(CLUSTER.replace("path: /mnt/hub", "path: /mnt/hub, claim: weights"))
    code, out, err = command("submit", file, "--dry-run")
    assert (code, err) == (0, "")
    assert not holds(out)
    assert "with MY_WORD." in out.splitlines()[0]
    _, job = yaml.safe_load_all(out)
    env = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]
    assert (env["HF_HOME"], env["HF_ENDPOINT"], env[masking.SECRET_NAMES]) == ("/mnt/hub", "https://hub.lab", "MY_WORD")
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "cache", "persistentVolumeClaim": {"claimName": "weights"}} in pod["volumes"]


RAY = """\
import json, os, pathlib, shutil, sys
place = pathlib.Path(__file__).parent
with (place / "calls").open("a") as log:
    print(json.dumps(sys.argv[1:]), file=log)
if sys.argv[1] == "rsync-up":
    (place / "mode").write_text(oct(os.stat(sys.argv[3]).st_mode & 0o777))
    shutil.copy(sys.argv[3], place / "head.json")
    if (place / "refuse").exists():
        sys.exit("ssh: no route")
elif "rm -f ~/" in sys.argv[3]:
    (place / "head.json").unlink(missing_ok=True)
"""


@pytest.fixture
def dashboard(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dashboard:
    """The jobs of a cluster that a launcher has started; its head is a file in this folder."""
    found = Dashboard()
    (tmp_path / "ray.py").write_text(RAY)
    (tmp_path / "ray.yaml").write_text("cluster_name: c\n")
    file.write_text(CLUSTER.replace(RAYJOB, LAUNCHER))
    monkeypatch.setattr(launcher, "RAY", (sys.executable, str(tmp_path / "ray.py")))
    monkeypatch.setattr(launcher, "check_launcher", lambda *_: None)

    @contextmanager
    def connected(cluster: LoadedCluster) -> Iterator[Jobs]:
        yield Jobs(found, cluster, "http://head:8265")

    monkeypatch.setattr(cli, "connected", connected)
    return found


def test_a_job_at_work_is_no_reason_to_send_secrets(
    file: Path, tmp_path: Path, dashboard: Dashboard, command: Command
) -> None:
    loaded = load_cluster(file)
    dashboard.add("first.1", f"first-{loaded.key}", "RUNNING")
    code, _, err = command("submit", file)
    assert (code, "first.1 is running on http://head:8265" in err) == (1, True)
    assert not (tmp_path / "calls").exists()


def test_secrets_of_a_job_that_is_refused_are_removed_from_the_head(
    file: Path, tmp_path: Path, dashboard: Dashboard, command: Command
) -> None:
    dashboard.refuses = True
    code, _, err = command("submit", file)
    assert (code, "status code 413" in err) == (1, True)
    assert (tmp_path / "mode").exists(), "they were there"
    assert not (tmp_path / "head.json").exists()


def test_secrets_that_no_driver_has_read_are_removed_when_the_job_is_over(
    file: Path, tmp_path: Path, dashboard: Dashboard, command: Command
) -> None:
    assert command("submit", file)[0] == 0
    assert (tmp_path / "head.json").exists(), "the driver has not read them yet"
    dashboard.jobs.clear()
    dashboard.ends = "FAILED"
    for words in (("submit", file, "--wait"), ("logs", file)):
        (tmp_path / "head.json").write_text("left by a job that failed")
        command(*words)
        assert not (tmp_path / "head.json").exists()


def test_what_the_way_into_a_container_leaves_is_removed_where_it_fails(
    file: Path, tmp_path: Path, dashboard: Dashboard, command: Command
) -> None:
    (tmp_path / "ray.yaml").write_text("cluster_name: c\ndocker: {container_name: d}\n")
    (tmp_path / "refuse").touch()
    code, _, err = command("submit", file)
    assert (code, "ssh: no route" in err) == (1, True)
    assert not (tmp_path / "head.json").exists()
    (outside,) = [
        words for line in (tmp_path / "calls").read_text().splitlines() if "host" in (words := json.loads(line))
    ]
    assert outside[2].startswith("rm -f '/tmp/ray_tmp_mount/c/~/.loco-sweep-")


def test_a_launcher_copies_them_to_a_file_that_the_driver_removes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray.py").write_text(RAY)
    monkeypatch.setattr(launcher, "RAY", (sys.executable, str(tmp_path / "ray.py")))
    (tmp_path / "ray.yaml").write_text("cluster_name: c\ndocker: {container_name: d}\n")
    file.write_text(CLUSTER.replace(RAYJOB, LAUNCHER))
    loaded = load_cluster(file)
    words = command_of(loaded, "sweep.yaml", again=False)
    assert "--secrets '~/.loco-sweep-" in words
    assert not holds(words + json.dumps(runtime_env(loaded)))
    there = f"~/.loco-sweep-{loaded.key}.json"
    launcher.deliver(tmp_path / "ray.yaml", collect(loaded), there)
    copy, remove = (json.loads(line) for line in (tmp_path / "calls").read_text().splitlines())
    assert (copy[0], copy[1], copy[3]) == ("rsync-up", str(tmp_path / "ray.yaml"), there)
    assert not holds(" ".join([*copy, *remove]))
    assert not Path(copy[2]).exists(), "nothing stays on this machine"
    assert (tmp_path / "mode").read_text() == "0o600"
    # Ray's way into a container leads over a folder of its host.
    assert remove[2:] == [f"rm -f '/tmp/ray_tmp_mount/c/{there}'", "--run-env", "host"]
    monkeypatch.delenv("MY_WORD")
    receive(tmp_path / "head.json")
    assert os.environ["MY_WORD"] == CANARY
    assert not (tmp_path / "head.json").exists()


def test_a_launcher_that_fails_is_one_line(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ray.py").write_text(RAY)
    (tmp_path / "refuse").touch()
    (tmp_path / "ray.yaml").write_text("cluster_name: c\n")
    monkeypatch.setattr(launcher, "RAY", (sys.executable, str(tmp_path / "ray.py")))
    file.write_text(CLUSTER.replace(RAYJOB, LAUNCHER))
    with pytest.raises(Exception, match=r"`ray rsync-up .*ray.yaml` failed: ssh: no route") as error:
        launcher.deliver(tmp_path / "ray.yaml", collect(load_cluster(file)), "~/x.json")
    assert not holds(str(error.value))
    assert (tmp_path / "mode").read_text() == "0o600"
    assert not (tmp_path / "head.json").exists()

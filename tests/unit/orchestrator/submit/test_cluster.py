"""``cluster.yaml``: what it says, what is wrong with it, and what is made of it; nothing is started."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import nullcontext
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
import yaml
from ray.util.state.exception import RayStateApiException

from loco_core import plugins
from loco_core.errors import ClusterError, SpecError
from orchestrator.cli.init import Kind
from orchestrator.identity import safe_name
from orchestrator.spec import load_sweep
from orchestrator.spec.budget import CostSpec
from orchestrator.submit import bundle, load_cluster, rayjob, slurm
from orchestrator.submit.jobs import Jobs
from orchestrator.submit.launcher import check_launcher
from orchestrator.submit.rayjob import label, manifest
from tests.support.sweeps import SMALL, Command

CLUSTER = """\
name: first one
sweep: sweep.yaml
results: s3://bucket/first
workers: {gpus: 2, cpus: 4, min: 1, max: 8, label_selector: {zone: a}}
cluster: {address: "http://head:8265"}
"""


@pytest.fixture
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The token that Ray keeps in the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = tmp_path / "home" / ".ray" / "auth_token"
    path.parent.mkdir(parents=True)
    path.write_text("0" * 64)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sweep.yaml").write_text(SMALL)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return tmp_path


def test_workers_needs_go_to_models_that_do_not_say_their_own(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(
        SMALL.replace("[toy]", "[toy, {id: sd15, worker: {gpus: 1, label_selector: {zone: b}}}]")
    )
    toy, sd15 = (model.worker for model in load_cluster(folder / "cluster.yaml").sweep.models)
    assert (toy.gpus, toy.label_selector) == (2, {"zone": "a"})
    assert (sd15.gpus, sd15.label_selector) == (1, {"zone": "b"})


def test_several_gpus_a_worker_share_its_model_unless_the_model_cannot_use_them(folder: Path) -> None:
    assert load_cluster(folder / "cluster.yaml").sweep.models[0].how.device_map == "balanced"
    (folder / "sweep.yaml").write_text(SMALL.replace("[toy]", "[{id: toy, engine: {offload: model}}]"))
    with pytest.raises(SpecError, match=r"cluster.yaml:4:17: workers.gpus: 2, with model toy: 'model' keeps one GPU"):
        load_cluster(folder / "cluster.yaml")


def test_a_sweep_may_stand_in_the_cluster_file(folder: Path) -> None:
    inline = "sweep:\n" + "".join(f"  {line}\n" for line in SMALL.splitlines())
    (folder / "cluster.yaml").write_text(CLUSTER.replace("sweep: sweep.yaml\n", inline))
    assert load_cluster(folder / "cluster.yaml").sweep.name == "small"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("workers:", "resources: {GPU: 1}\nworkers:", "yaml:4:1: unknown key 'resources'; expected workers: {gpus:"),
        ("max: 8", "max: 8, accelerators: [H100]", "unknown key 'accelerators'; expected worker: {accelerators:"),
        ("{address:", "{use_spot: true, address:", "cluster.yaml:5:11: unknown key 'use_spot'; spot machines are"),
        ("workers:", "envs: {A: b}\nworkers:", "unknown key 'envs'; expected runtime_env: {env_vars:.* secrets:"),
        ("workers:", "runtime_env: {working_dir: .}\nworkers:", "unknown key 'working_dir'; the project, .* travel"),
        ("workers:", "runtime_env: {py_modules: [a]}\nworkers:", "unknown key 'py_modules'; .*runtime_env: {pip:"),
        ("workers:", "wrokers:", 'cluster.yaml:4:1: unknown key .wrokers.;.* did you mean "workers"'),
        ("max: 8", "maks: 8", 'cluster.yaml:4:37: unknown key .maks.; known: cpus, gpus, label_selector, max, min'),
        ("min: 1", "min: 9", "cluster.yaml:4:34: .*9 is more than max; expected at most 8"),
        ("gpus: 2", "gpus: 0.5", "cluster.yaml:4:17: workers.gpus: 0.5 is wrong"),
        ("{address:", "{local: true, address:", "cluster.yaml:5:10: .*local and address are given; expected only one"),
        ('{address: "http://head:8265"}', "{}", "cluster.yaml:5:10: .*none is given; expected one of local"),
        ('{address: "http://head:8265"}', "slurm", "expected keys, such as cluster: {slurm: {partition: gpu"),
        ("workers:", "cost: 2.5\nworkers:", "4:7: cost: 2.5 is wrong; expected keys, such as cost: {per_gpu"),
        ('{address: "http://head:8265"}', "{local: false}", "cluster.local: false is wrong; expected true"),
        ('{address: "http://head:8265"}', "{rayjob: {image: x, namespace: A_B}}", "expected lower-case letters"),
        ("workers:", "cache: {path: hub}\nworkers:", 'cache.path: "hub" is wrong; expected a full path'),
        ("workers:", "cost: {per_gpu_hour: {H1OO: 2}}\nworkers:", "'H1OO' is no GPU .* expected such as H100, or cpu"),
        ("s3://bucket/first", "s3:/bucket/first", "3:10: .* is no address; expected s3://bucket/first"),
        ("s3://bucket/first", "file:/first", "3:10: .* is no address; expected the path /first"),
        ("http://head:8265", "head:6379", "cluster.yaml:5:20: cluster.address: .* is wrong"),
        ("s3://bucket/first", "results/first", "cluster.yaml:3:10: .* relative path; expected an address such as s3://bucket"),
        ("sweep: sweep.yaml", "sweep: swep.yaml", "swep.yaml: no such file; expected a sweep file.*sweep.yaml"),
        ("sweep: sweep.yaml\n", "", "cluster.yaml:1:1: sweep is missing"),
        ("name: first one", "name: a\nruntime_env: {env_vars: {MY_TOKEN: x}}", "2:.*looks like a credential"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(folder: Path, before: str, after: str, message: str) -> None:
    (folder / "cluster.yaml").write_text(CLUSTER.replace(before, after))
    with pytest.raises(SpecError, match=message):
        load_cluster(folder / "cluster.yaml")


def test_a_queue_without_a_number_of_workers_says_which_key_is_missing(folder: Path) -> None:
    (folder / "cluster.yaml").write_text(
        "name: a\nsweep: sweep.yaml\nresults: s3://b/f\ncluster: {rayjob: {image: x, queue: a}}\n"
    )
    with pytest.raises(SpecError, match=r"yaml:4:37: cluster.rayjob.queue: workers.max is missing; .* a number there"):
        load_cluster(folder / "cluster.yaml")


def test_prices_are_by_any_word_that_a_device_is_called() -> None:
    prices = {"RTX 4090": 1.0, "A100-SXM4-80GB": 2.0, "A100-80GB": 3.0, "CPU": 0.1}
    assert CostSpec.model_validate({"per_gpu_hour": prices}).per_gpu_hour == prices


def test_a_misspelled_override_is_compared_with_the_keys_of_both_files(folder: Path) -> None:
    assert load_cluster(folder / "cluster.yaml", ["name=b"]).spec.name == "b"
    with pytest.raises(SpecError, match=r"seed=4: unknown key 'seed'; did you mean .seeds."):
        load_cluster(folder / "cluster.yaml", ["seed=4"])
    with pytest.raises(SpecError, match=r"worker.max=4: unknown key 'worker'; did you mean .workers."):
        load_cluster(folder / "cluster.yaml", ["worker.max=4"])


def test_only_credentials_pass_for_credentials(folder: Path) -> None:
    for name, refused in {
        "TOKENIZERS_PARALLELISM": False,
        "WANDB_API_KEY": True,
        "DB_PASSWD": True,
        "HF_HOME": False,
    }.items():
        (folder / "cluster.yaml").write_text(f"{CLUSTER}runtime_env: {{env_vars: {{{name}: x}}}}\n")
        with pytest.raises(SpecError, match="credential") if refused else nullcontext():
            load_cluster(folder / "cluster.yaml")


def test_a_model_folder_of_this_machine_is_refused_where_other_machines_work(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(SMALL.replace("[toy]", "[{id: mine, path: ./mine}]"))
    with pytest.raises(SpecError, match=r"sweep.yaml:2:\d+: models.0.path: './mine' is a folder of this machine"):
        load_cluster(folder / "cluster.yaml")
    (folder / "sweep.yaml").write_text(SMALL.replace("[toy]", "[{id: deepfloyd-if, super_resolution: ./two}]"))
    with pytest.raises(SpecError, match=r"sweep.yaml:2:\d+: models.0.super_resolution: './two' is a folder of this"):
        load_cluster(folder / "cluster.yaml")
    (folder / "sweep.yaml").write_text(SMALL.replace("[toy]", "[{id: toy, super_resolution: a/b}]"))
    with pytest.raises(SpecError, match=r"sweep.yaml:2:\d+: super_resolution: toy \(stable_diffusion\) has no second"):
        load_cluster(folder / "cluster.yaml")
    (folder / "sweep.yaml").write_text(SMALL.replace("[toy]", "[{id: mine, path: ./mine}]"))
    (folder / "cluster.yaml").write_text(CLUSTER.replace('{address: "http://head:8265"}', "{local: true}"))
    assert load_cluster(folder / "cluster.yaml").sweep.models[0].path == str(folder / "mine")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("path: ./x.safetensors", r"models.0.path: './x.safetensors' is a file .*; expected an absolute"),
        (
            "path: /m/x.safetensors, config: ./sd15",
            r"models.0.config: './sd15' is a folder .*; expected a hub id, or",
        ),
        (
            "path: /m, loras: [./a.safetensors]",
            r"models.0.loras.0: './a.safetensors' is a file of this machine; expected an",
        ),
        ("path: /m, loras: [{path: a.safetensors, scale: 2}]", r"models.0.loras.0: 'a.safetensors' is a file of this"),
        (
            "path: /m, textual_inversions: [{path: ~/a.safetensors, token: <a>}]",
            r"models.0.textual_inversions.0: '~/a.safetensors' is a file of this machine; expected an absolute path",
        ),
    ],
)
def test_files_of_weights_of_this_machine_are_refused_likewise(folder: Path, key: str, said: str) -> None:
    (folder / "sweep.yaml").write_text(SMALL.replace("[toy]", f"[{{id: mine, {key}}}]"))
    with pytest.raises(SpecError, match=said):
        load_cluster(folder / "cluster.yaml")


def test_a_sweep_in_the_cluster_file_may_name_files_of_its_own(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "from loco_core.localization.localizers.window import localize  # noqa: F401\n", encoding="utf-8"
    )
    inline = f"{{{SMALL.strip().replace(chr(10), ', ')}, localize: {{localizer: ./mine.py}}}}"
    (folder / "cluster.yaml").write_text(CLUSTER.replace("sweep.yaml", inline))
    with plugins.only_named(print):
        assert load_cluster(folder / "cluster.yaml").code


@pytest.mark.parametrize(("name", "taken"), [("mine-1.py", True), ("my file.py", False), ("näh.py", False)])
def test_a_file_that_no_config_map_can_hold_is_refused_for_a_rayjob(folder: Path, name: str, taken: bool) -> None:
    (folder / name).write_text("from loco_core.localization.localizers.window import localize  # noqa: F401\n")
    (folder / "sweep.yaml").write_text(SMALL + f"localize: {{localizer: './{name}'}}\n")
    load_cluster(folder / "cluster.yaml")
    (folder / "cluster.yaml").write_text(CLUSTER.replace('{address: "http://head:8265"}', "{rayjob: {image: i}}"))
    with nullcontext() if taken else pytest.raises(SpecError, match="ConfigMap holds no file named"):
        load_cluster(folder / "cluster.yaml")


def test_a_cluster_file_may_be_merged_of_parts(folder: Path) -> None:
    base = "{results: s3://bucket/first, workers: {gpus: 1}}"
    text = "".join(line for line in CLUSTER.splitlines(keepends=True) if not line.startswith(("results", "workers")))
    (folder / "cluster.yaml").write_text(f"<<: {base}\n{text}")
    assert load_cluster(folder / "cluster.yaml").spec.results == "s3://bucket/first"
    (folder / "cluster.yaml").write_text(f"<<: {base.replace('s3://bucket/first', 'first')}\n{text}")
    with pytest.raises(SpecError, match=r"cluster.yaml:1:15: results: 'first' is a relative path"):
        load_cluster(folder / "cluster.yaml")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("style/lumio", "style/lumoi", 'sweep.yaml:3:14: no attribute "style/lumoi"; did you mean "style/lumio"'),
        ("[toy]", "[tyo]", 'sweep.yaml:2:10: no model "tyo"; did you mean "toy"'),
        ("scorer:", "localize: {localizer: windoww}\nscorer:", 'sweep.yaml:4:23: no localizer "windoww"'),
        ("scorer:", "edit: {editors: [loco_edti]}\nscorer:", 'sweep.yaml:4:18: no editor "loco_edti"'),
    ],
)
def test_a_misspelled_name_shows_before_anything_is_submitted(
    folder: Path, before: str, after: str, message: str
) -> None:
    (folder / "sweep.yaml").write_text(SMALL.replace(before, after))
    with pytest.raises(SpecError, match=message):
        load_cluster(folder / "cluster.yaml")
    inline = "sweep:\n" + "".join(f"  {line}\n" for line in SMALL.replace(before, after).splitlines())
    (folder / "cluster.yaml").write_text(CLUSTER.replace("sweep: sweep.yaml\n", inline))
    with pytest.raises(SpecError, match=r"cluster.yaml:\d+:\d+: " + message.partition(": ")[2]):
        load_cluster(folder / "cluster.yaml")


@pytest.mark.parametrize("choice", ['{address: "http://head:8265"}', "{rayjob: {image: i}}"])
def test_files_of_the_users_own_travel_with_the_job(
    folder: Path, choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "mine.py").write_text("def localize(scores, settings, site_names=()): ...")
    (folder / "colours.py").write_text("class Scorer: ...")
    (folder / "lowest.py").write_text("def localize(scores, settings, site_names=()): ...")
    sweep = SMALL.replace("scorer: toy-clip", "scorer: ./colours.py")
    (folder / "sweep.yaml").write_text(f"{sweep}localize: {{localizer: ./mine.py, compare: [argmin, ./lowest.py]}}\n")
    (folder / "cluster.yaml").write_text(CLUSTER.replace('{address: "http://head:8265"}', choice))
    loaded, job = load_cluster(folder / "cluster.yaml"), tmp_path / "job"
    if loaded.spec.cluster.rayjob:
        config = next(yaml.safe_load_all(manifest(loaded, again=False)))
        assert config["data"]["mine.py"] == (folder / "mine.py").read_text()
        assert json.loads(config["data"]["submitted.yaml"])["localize"]["localizer"].startswith("/")
        assert json.loads(config["data"]["submitted.yaml"])["scorer"].startswith("/")
        return
    job.mkdir()
    bundle(loaded, job)
    assert (job / "own-code" / "mine.py").read_text() == (folder / "mine.py").read_text()
    assert (job / "own-code" / "colours.py").is_file()
    submitted = json.loads((job / "submitted.yaml").read_text())
    assert (submitted["localize"]["localizer"], submitted["scorer"]) == ("./own-code/mine.py", "./own-code/colours.py")
    assert submitted["localize"]["compare"] == ["argmin", "./own-code/lowest.py"]
    assert (job / "own-code" / "lowest.py").is_file()
    (folder / "other").mkdir()
    (folder / "other" / "mine.py").write_text("def edit(model, target, settings): ...")
    (folder / "sweep.yaml").write_text(
        f"{SMALL}localize: {{localizer: ./mine.py}}\nedit: {{editors: [./other/mine.py]}}\n"
    )
    with pytest.raises(SpecError, match=r"two files are named mine\.py"):
        load_cluster(folder / "cluster.yaml")


def test_a_file_of_the_users_own_hides_no_module_from_the_job(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    job = tmp_path / "job"
    job.mkdir()
    # Named as the files of a plug-in may well be.
    names = ["json", "types", "logging", "torch", "ray", "loco_core", "orchestrator", "code"]
    for name in names:
        (folder / f"{name}.py").write_text("def localize(scores, settings, site_names=()): ...")
    beside = ", ".join(f"./{name}.py" for name in names[1:])
    (folder / "sweep.yaml").write_text(f"{SMALL}localize: {{localizer: ./json.py, compare: [{beside}]}}\n")
    bundle(load_cluster(folder / "cluster.yaml"), job)
    # As the job is run: by -m, in its folder.
    code = f"from importlib.util import find_spec; print(*(find_spec(name).origin for name in {names}), sep='\\n')"
    (job / "probe.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "probe"], cwd=job, capture_output=True, text=True, env={"PATH": ""}, check=True
    )
    found = dict(zip(names, map(Path, done.stdout.splitlines()), strict=True))
    assert [name for name, path in found.items() if path.parent == job or "own-code" in path.parts] == []


def test_a_file_travels_wherever_the_sweep_names_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "theirs.py").write_text(
        "from loco_core.editing.base import EditorInfo, Published\n"
        "INFO = EditorInfo(published=Published('tail', 0.1))\n"
        "def edit(model, target, settings): ...\n"
    )
    record = "{prompt: a b, donor: a, score_text: b, donor_text: a, content_text: a}"
    texts = "{./theirs.py: {keys: [b], anchors: [a]}}"
    own = f"{{kind: k, name: n, mode: remove, records: [{record}], published: {texts}}}"
    lines = SMALL.splitlines()
    lines = [line if not line.startswith("attributes:") else f"attributes: [{own}]" for line in lines]
    edit = "edit: {editors: [./theirs.py], method_lambdas: {./theirs.py: [0.5]}}"
    (folder / "sweep.yaml").write_text("\n".join([*lines, "prompts: 1", edit, ""]))
    (folder / "cluster.yaml").write_text(CLUSTER)
    job = tmp_path / "job"
    job.mkdir()
    bundle(load_cluster(folder / "cluster.yaml"), job)
    monkeypatch.chdir(job)
    found = load_sweep(job / "submitted.yaml")
    assert found.files == (str(job / "own-code" / "theirs.py"),)
    assert found.edit is not None
    assert (*found.edit.method_lambdas,) == found.edit.editors == found.files
    assert Path(found.files[0]).is_file()


def test_a_job_brings_all_that_its_command_needs(folder: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.mkdir()
    made = bundle(load_cluster(folder / "cluster.yaml"), job)
    words = shlex.split(made.entrypoint)
    assert words[3:] == [
        "run", "submitted.yaml", "--results", "s3://bucket/first", "--address", "auto", "--workers", "8",
        "--threads", "4",
    ]  # fmt: skip
    assert not list(job.rglob("*.pyc"))
    left_open = load_cluster(folder / "cluster.yaml", ("workers.max=auto",))
    (tmp_path / "other").mkdir()
    assert "--workers" not in bundle(left_open, tmp_path / "other").entrypoint
    # Isolated from this checkout: only the job's folder is looked at, and the installed dependencies.
    code = (
        "import sys; sys.path.insert(0, '.'); from orchestrator.spec import load_sweep; import orchestrator; "
        "print(load_sweep('submitted.yaml').models[0].worker.gpus, orchestrator.__path__[0])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=job, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "2"
    assert done.stdout.split()[1].startswith((".", str(job)))
    again = tmp_path / "again"
    again.mkdir()
    entrypoint = bundle(load_cluster(folder / "cluster.yaml"), again, again=True).entrypoint
    assert shlex.split(entrypoint)[3:8] == ["run", "submitted.yaml", "--results", "s3://bucket/first", "--retry"]


def test_a_rayjob_carries_sweep_workers_and_retries(folder: Path) -> None:
    chosen = "{rayjob: {image: me/loco, namespace: lab, secret: s3, node_selector: {gpu: l4}}}"
    (folder / "cluster.yaml").write_text(CLUSTER.replace('{address: "http://head:8265"}', chosen))
    config, job = yaml.safe_load_all(manifest(load_cluster(folder / "cluster.yaml")))
    assert json.loads(config["data"]["submitted.yaml"])["name"] == "small"
    assert (job["apiVersion"], job["kind"], job["metadata"]["namespace"]) == ("ray.io/v1", "RayJob", "lab")
    spec = job["spec"]
    assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"]) == (0, True)
    assert spec["entrypoint"] == "sh /etc/loco-sweep/run.sh"
    words = "run /etc/loco-sweep/submitted.yaml --results s3://bucket/first --address auto --workers 8"
    assert words in config["data"]["run.sh"]
    head = spec["rayClusterSpec"]["headGroupSpec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (1, 8)
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"] == {"cpu": "4", "memory": "32Gi", "nvidia.com/gpu": "2"}
    assert worker["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert group["template"]["spec"]["nodeSelector"] == {"gpu": "l4"}
    (mount,) = head["template"]["spec"]["containers"][0]["volumeMounts"]
    (volume,) = head["template"]["spec"]["volumes"]
    assert (mount["name"], volume["configMap"]["name"]) == (volume["name"], config["metadata"]["name"])
    assert head["rayStartParams"]["num-gpus"] == "0"


KUBECTL = """\
#!{python}
import json, pathlib, sys
words, state = sys.argv[3:], pathlib.Path(__file__).with_name("jobs.json")
jobs = json.loads(state.read_text()) if state.exists() else []
with pathlib.Path(__file__).with_name("calls").open("a") as log:
    print(words[0], file=log)
if words[0] == "get":
    print(json.dumps({{"items": jobs}}))
    for job in jobs:
        job["status"] = {{"PENDING": {{"jobStatus": "RUNNING"}}}}.get(
            job["status"].get("jobStatus", "PENDING"), {{"jobStatus": "FAILED"}})
elif words[0] == "create":
    sys.stdin.read()
    jobs.append({{"metadata": {{"name": "s-1", "creationTimestamp": "1"}}, "status": {{}}}})
    print("rayjob.ray.io/s-1")
elif words[0] == "delete":
    jobs = []
elif words[0] == "logs" and state.with_name("code").exists():
    print("all is said\\nthe driver ended with exit code", state.with_name("code").read_text())
state.write_text(json.dumps(jobs))
"""


@pytest.fixture
def bin_(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a kubectl for a cluster file of a RayJob."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "kubectl").write_text(KUBECTL.format(python=sys.executable))
    (bin_ / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    monkeypatch.setattr(rayjob, "POLL_SECONDS", 0.01)
    (folder / "cluster.yaml").write_text(CLUSTER.replace('{address: "http://head:8265"}', "{rayjob: {image: me}}"))
    return bin_


@pytest.mark.parametrize("driver", [0, 3, 4])
def test_who_waits_for_a_rayjob_ends_as_its_driver_did(folder: Path, bin_: Path, command: Command, driver: int) -> None:
    (bin_ / "code").write_text(str(driver))
    code, _, err = command("submit", folder / "cluster.yaml", "--wait")
    # The state of the RayJob is failed each time: it cannot tell these apart.
    assert (code, err) == (driver, "")


def test_a_rayjob_is_followed_to_its_end_and_is_not_created_twice(folder: Path, bin_: Path, command: Command) -> None:
    code, out, err = command("submit", folder / "cluster.yaml", "--wait")
    # Pending, then running, then failed: neither too early nor as if all were well.
    assert (code, "created rayjob.ray.io/s-1" in out, "the RayJob is failed" in err) == (1, True, True)
    calls = (bin_ / "calls").read_text().split()
    assert calls == ["get", "apply", "create", "get", "get", "logs", "get", "logs", "get", "logs"]
    (bin_ / "jobs.json").write_text((bin_ / "jobs.json").read_text().replace("FAILED", "RUNNING"))
    code, _, err = command("submit", folder / "cluster.yaml")
    assert (code, "is at work" in err) == (1, True)
    code, out, err = command("cancel", folder / "cluster.yaml")
    assert (code, out, "s-1 is over (failed); there is nothing to cancel" in err) == (1, "", True)
    (bin_ / "jobs.json").write_text((bin_ / "jobs.json").read_text().replace("FAILED", "RUNNING"))
    code, out, _ = command("cancel", folder / "cluster.yaml")
    assert (code, "deleted" in out) == (0, True)
    code, out, err = command("cancel", folder / "cluster.yaml")
    assert (code, out, "there is nothing to cancel" in err) == (1, "", True)


def test_objects_of_kubernetes_have_names_that_it_takes_and_that_differ(folder: Path) -> None:
    labels = set()
    for name in ("2026 Style!", "x" * 200 + "a", "x" * 200 + "b", "é"):
        (folder / "cluster.yaml").write_text(CLUSTER.replace("first one", name))
        labels.add(label(load_cluster(folder / "cluster.yaml")))
    assert len(labels) == 4
    assert all(re.fullmatch(r"[a-z]([a-z0-9-]{0,39}[a-z0-9])", item) for item in labels), labels


def starts(path: Path) -> list[str]:
    """Returns every command that starts Ray in a template, with all that its shell was told before."""
    text = path.read_text(encoding="utf-8")
    commands: list[str] = []
    if path.name == "ray.yaml":
        for name, value in yaml.safe_load(text).items():
            commands += value if name.endswith("commands") else []
    else:
        lines = text.replace("\\\n", "").splitlines()
        commands = ["\n".join(lines[: number + 1]) for number in range(len(lines))]
    return [command for command in commands if "ray start --" in command.splitlines()[-1]]


@pytest.mark.usefixtures("token_file")
def test_no_template_starts_a_ray_without_a_token(command: Command, tmp_path: Path) -> None:
    kinds = [
        path.name for path in Path(str(files("cluster"))).iterdir() if path.is_dir() and path.name != "__pycache__"
    ]
    assert sorted(kinds) == sorted(Kind)
    for kind in kinds:
        folder = tmp_path / kind
        command("init", kind, "--folder", folder)
        commands = {path.name: starts(path) for path in folder.iterdir()}
        for name, found in commands.items():
            for words in found:
                assert re.search(r"(export\s+|: +)RAY_AUTH_MODE=token\b", words), (kind, words)
                assert name == "ray.yaml" or "RAY_AUTH_TOKEN" in words, (kind, words)
        if found := commands.get("ray.yaml"):
            mounts = yaml.safe_load((folder / "ray.yaml").read_text())["file_mounts"]
            assert mounts == {"~/.ray/auth_token": "~/.ray/auth_token"}
            assert len(found) == 2
        loaded = load_cluster(folder / "cluster.yaml")
        if loaded.spec.cluster.rayjob:
            _, job = yaml.safe_load_all(manifest(loaded))
            assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
        elif loaded.spec.cluster.slurm:
            drive = slurm.LIBRARY.read_text().partition("\ndrive() {")[2]
            made, started = (drive.index(words) for words in ("export RAY_AUTH_TOKEN", "start_cluster"))
            assert drive.index("export RAY_AUTH_MODE=token") < made < started
        elif loaded.spec.cluster.local:
            # A Ray that the sweep itself starts has a token of its own.
            assert not any(commands.values()), kind
        else:
            assert any(commands.values()), kind


def test_a_launcher_file_names_a_token_that_is_not_there(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    command("init", "aws", "--folder", tmp_path / "new")
    code, _, err = command("submit", tmp_path / "new" / "cluster.yaml", "--dry-run")
    assert (code, err.count("\n")) == (2, 1)
    assert "this machine has no ~/.ray/auth_token, which nodes get as ~/.ray/auth_token; `ray get-auth-token" in err


def _check_task(path: Path) -> None:
    """Holds a task against the keys that SkyPilot documents, and against its own parser where it is installed."""
    task = yaml.safe_load(path.read_text())
    assert task.keys() <= {
        "name",
        "resources",
        "workdir",
        "secrets",
        "envs",
        "setup",
        "run",
        "file_mounts",
        "num_nodes",
    }
    assert task["resources"].keys() <= {"infra", "accelerators", "use_spot", "image_id", "cpus", "memory", "disk_size"}
    subprocess.run(["bash", "-n"], input=task["run"], text=True, check=True)
    if find_spec("sky") is not None:
        import_module("sky").Task.from_yaml(str(path))


@pytest.mark.usefixtures("token_file")
@pytest.mark.parametrize("kind", list(Kind))
def test_init_writes_files_that_load(kind: Kind, command: Command, tmp_path: Path) -> None:
    code, out, err = command("init", kind, "--folder", tmp_path / "new")
    assert (code, err) == (0, "")
    assert {Path(line).name for line in out.splitlines()} >= {"cluster.yaml", "sweep.yaml"}
    loaded = load_cluster(tmp_path / "new" / "cluster.yaml")
    if loaded.spec.cluster.launcher:
        check_launcher(tmp_path / "new" / loaded.spec.cluster.launcher, loaded.spec.workers)
    if kind is Kind.KUBERAY:
        code, out, _ = command("submit", tmp_path / "new" / "cluster.yaml", "--dry-run")
        assert (code, "kind: RayJob" in out) == (0, True)
    if kind is Kind.SKYPILOT:
        _check_task(tmp_path / "new" / "sky.yaml")
    before = {path: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    code, _, err = command("init", kind, "--folder", tmp_path / "new")
    assert (code, "exists already" in err) == (2, True)
    assert {path: path.read_bytes() for path in (tmp_path / "new").iterdir()} == before


@pytest.mark.usefixtures("token_file")
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("max_workers: 8\nup", "max_wrokers: 8\nup", "Ray's launcher refuses it"),
        ("resources: {CPU: 8, GPU: 1}", "resources: {CPU: 8, GPU: 0}", "no node type holds a worker of 1 GPUs"),
        ("provider:", "provider: [", "expected a file for Ray's cluster launcher"),
    ],
)  # fmt: skip
def test_a_launcher_file_that_cannot_work_is_refused(
    before: str, after: str, message: str, command: Command, tmp_path: Path
) -> None:
    command("init", "aws", "--folder", tmp_path)
    path = tmp_path / "ray.yaml"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))
    code, _, err = command("submit", tmp_path / "cluster.yaml")
    assert (code, message in err, err.count("\n")) == (2, True, 1), err


@pytest.mark.usefixtures("token_file")
@pytest.mark.parametrize(
    ("results", "warned"), [("/tmp/a", True), ("~/a", True), ("/mnt/a", False), ("s3://a/b", False)]
)
def test_results_in_a_folder_of_each_node_are_warned_of(
    results: str, warned: bool, command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command("init", "aws", "--folder", tmp_path)
    code, _, err = command(
        "submit",
        tmp_path / "cluster.yaml",
        f"results={Path(results).expanduser() if '://' not in results else results}",
        "--dry-run",
    )
    assert (code, "of which each node may have its own" in caplog.text) == (0, warned), err


def test_a_launcher_file_that_is_not_there_is_named(command: Command, tmp_path: Path) -> None:
    command("init", "gcp", "--folder", tmp_path)
    (tmp_path / "ray.yaml").unlink()
    code, _, err = command("submit", tmp_path / "cluster.yaml")
    assert (code, "ray.yaml: no such file" in err) == (2, True)


def test_a_node_that_is_gone_is_left_out_of_the_logs_of_workers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_cluster(folder / "cluster.yaml")

    about = {"loco_sweep": f"{safe_name(loaded.spec.name)}-{loaded.key}"}

    class Dashboard:
        def list_jobs(self) -> list[SimpleNamespace]:
            return [
                SimpleNamespace(
                    submission_id="a.1", metadata=about, message="", job_id="01",
                    status=SimpleNamespace(value="SUCCEEDED"), driver_exit_code=0,
                )
            ]  # fmt: skip

        def _do_request(self, _: str, path: str, params: dict[str, str]) -> requests.Response:
            answer = requests.Response()
            answer.status_code = 500 if params["node_id"] == "gone" else 200
            text = '{"unit_id": "u1"}' if path.endswith("file") else '{"data": {"result": {"worker": ["worker.err"]}}}'
            answer._content = text.encode()
            return answer

    jobs = Jobs(Dashboard(), loaded, "http://head:8265")
    nodes = [SimpleNamespace(node_id=name, state="ALIVE") for name in ("gone", "there")]
    monkeypatch.setattr("ray.util.state.list_nodes", lambda *_, **__: nodes)
    assert list(jobs.worker_lines()) == ['{"unit_id": "u1"}']
    assert "node gone does not give its logs: 500" in caplog.text

    def refuse(*_: object, **__: object) -> None:
        raise RayStateApiException("the state API is gone")

    monkeypatch.setattr("ray.util.state.list_nodes", refuse)
    with pytest.raises(ClusterError, match="http://head:8265: the state API is gone"):
        list(jobs.worker_lines())

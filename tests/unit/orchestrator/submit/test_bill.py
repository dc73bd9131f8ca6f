"""What a sweep on a cluster will cost, said before it runs, and a cluster that goes when its job is over."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from loco_core.errors import ClusterError
from orchestrator.cli import submit
from orchestrator.submit import launcher
from orchestrator.submit.jobs import Job
from tests.support.sweeps import Command

SWEEP = """\
name: first
models: [toy, {id: toy-dit, worker: {gpus: 4}, engine: {device_map: balanced}}]
attributes: [style/velor]
prompts: 4
seeds: 8
generation: {steps: 8, guidance_scale: 3.0}
scorer: toy-clip
"""
CLUSTER = """\
name: first
sweep: sweep.yaml
results: s3://nobody-answers/first
workers: {gpus: 1, max: 8}
cluster: {address: "http://nobody:8265"}
"""
Plan = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return tmp_path


@pytest.fixture
def plan(command: Command, folder: Path) -> Plan:
    def call(more: str = "") -> tuple[dict[str, Any], str]:
        (folder / "cluster.yaml").write_text(CLUSTER + more)
        code, out, _ = command("plan", folder / "cluster.yaml", "--json")
        assert code == 0
        found = json.loads(out)
        code, out, _ = command("plan", folder / "cluster.yaml")
        assert code == 0
        return found, out

    return call


def test_a_plan_of_a_cluster_file_counts_each_models_own_gpus_and_asks_nobody(plan: Plan) -> None:
    found, out = plan("cost: {per_gpu_hour: 1000}\n")
    toy, large = found["models"]
    assert (toy["gpus"], large["gpus"]) == (1, 4)
    assert toy["hours"] + large["hours"] == pytest.approx(found["seconds"] / 3600)
    bill = found["bill"]
    assert bill["gpu_hours"] == pytest.approx(toy["hours"] + 4 * large["hours"])
    assert bill["hours"] == pytest.approx((toy["hours"] + large["hours"]) / 8)
    assert bill["cost"] == pytest.approx([1000 * bill["gpu_hours"]] * 2)
    assert f"bill:    about {bill['gpu_hours']:.3g} GPU hours (cost {bill['cost'][0]:.2f})\n" in out
    assert "by an assumed cost per image, the same for every type of GPU" in out
    assert "with 8 workers at once" in out
    assert "s3://nobody-answers/first is not looked at" in out


def test_without_a_price_there_is_no_cost_and_with_several_a_range(plan: Plan) -> None:
    found, out = plan()
    assert (found["bill"]["cost"], "cost " in out.split("bill:")[1].split("power:")[0]) == (None, True)
    assert "(cost" not in out
    found, out = plan("cost: {per_gpu_hour: {H100: 2500, A100: 1600}}\n")
    low, high = found["bill"]["cost"]
    assert high / low == pytest.approx(2500 / 1600)
    assert f"(cost {low:.2f} to {high:.2f}, by the type of GPU)" in out


def test_the_range_of_a_cost_is_that_of_what_each_model_can_run_on(plan: Plan, folder: Path) -> None:
    prices = "cost: {per_gpu_hour: {A100: 1600, A100-80GB: 3000, H100: 2500, L4: 500, cpu: 1}}\n"
    found, _ = plan(prices)
    low, high = found["bill"]["cost"]
    assert high / low == pytest.approx(6), "no worker with a GPU costs what a CPU does"
    sweep = folder / "sweep.yaml"
    sweep.write_text(
        SWEEP.replace("worker: {gpus: 4}, engine: {device_map: balanced}", "worker: {accelerators: [A100]}").replace(
            "[toy, ", "["
        )
    )
    low, high = plan(prices)[0]["bill"]["cost"]
    assert high / low == pytest.approx(3000 / 1600)
    sweep.write_text(sweep.read_text().replace("[A100]", "[A100-80GB, H100]"))
    low, high = plan(prices)[0]["bill"]["cost"]
    assert high / low == pytest.approx(3000 / 2500)
    sweep.write_text(sweep.read_text().replace("accelerators: [A100-80GB, H100]", "gpus: 0"))
    found, _ = plan(prices)
    assert found["bill"]["cost"] == pytest.approx([found["bill"]["gpu_hours"]] * 2)


@pytest.mark.parametrize(
    ("budget", "warned"),
    [
        ("{gpu_hours: 0.0001}", "budget.gpu_hours"), ("{hours: 0.00001}", "budget.hours"),
        ("{cost: 0.001, hours: 100}", "budget.cost"), ("{cost: 100, gpu_hours: 100, hours: 100}", None),
    ],
)  # fmt: skip
def test_a_plan_warns_of_a_budget_that_will_not_do(plan: Plan, budget: str, warned: str | None) -> None:
    _, out = plan(f"cost: {{per_gpu_hour: 2.0}}\nbudget: {budget}\n")
    warnings = [line for line in out.splitlines() if line.startswith("warning: budget")]
    assert [line.split(":")[1].strip() for line in warnings] == ([warned] if warned else [])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("budget: {then: stop}", "budget: no limit is given; expected cost, gpu_hours or hours"),
        ("budget: {cost: 3}", "budget.cost: no price is given; expected cost: {per_gpu_hour: ..}, too"),
        ("budget: {hours: 0}", "budget.hours: 0 is wrong; expected greater than 0"),
        (
            "cost: {per_gpu_hour: {H100: -1}}",
            "cost.per_gpu_hour.H100: -1 is wrong; expected greater than or equal to 0",
        ),
        ("cost: {per_gpu_hour: {}}", "at least 1"),
    ],
)
def test_limits_and_prices_that_are_none_are_refused_where_they_stand(
    command: Command, folder: Path, more: str, said: str
) -> None:
    (folder / "cluster.yaml").write_text(f"{CLUSTER}{more}\n")
    code, _, err = command("plan", folder / "cluster.yaml")
    assert (code, err.count("\n")) == (2, 1)
    assert "cluster.yaml:6:" in err
    assert said in err


def test_what_is_submitted_says_what_it_will_cost_and_carries_price_and_budget(command: Command, folder: Path) -> None:
    more = "cost: {per_gpu_hour: {H100: 2.5, A100: 1.6}}\nbudget: {gpu_hours: 100, hours: 2.0}\n"
    (folder / "cluster.yaml").write_text(CLUSTER + more)
    code, out, _ = command("submit", folder / "cluster.yaml", "--dry-run")
    assert (code, out.startswith("bill:    about ")) == (0, True)
    assert "--price H100=2.5,A100=1.6 --budget gpu_hours=100.0,hours=2.0" in out
    (folder / "cluster.yaml").write_text(
        CLUSTER.replace('{address: "http://nobody:8265"}', "{rayjob: {image: me}}") + more
    )
    code, out, _ = command("submit", folder / "cluster.yaml", "--dry-run")
    assert (code, "\n# bill:    about " in out) == (0, True)
    config, job = yaml.safe_load_all(out)
    assert job["spec"]["activeDeadlineSeconds"] == 2 * 3600 + 1800
    assert "--budget gpu_hours=100.0,hours=2.0" in config["data"]["run.sh"]


RAY = """\
import pathlib, sys
with pathlib.Path(__file__).with_name("calls").open("a") as log:
    print(*sys.argv[1:-1], file=log)
sys.exit({code} if sys.argv[1] == "down" else 0)
"""


class Jobs:
    """Jobs of a cluster that runs one to its end, whatever that is."""

    def __init__(self, ends: Job | BaseException | None) -> None:
        self._ends = ends
        self._running = Job("first.1", "RUNNING", "", None)

    def next_attempt(self) -> str:
        return self._running.job_id

    def submit(self, cluster: object, files: object) -> Job:
        return self._running

    def follow(self, job_id: str) -> Iterator[str]:
        if isinstance(self._ends, BaseException):
            raise self._ends
        yield "it ran\n"

    def one(self, job_id: str) -> Job:
        assert isinstance(self._ends, Job)
        return self._ends

    def listed(self) -> list[Job]:
        return [self.latest()] if self._ends is not None else []

    def latest(self) -> Job:
        return self._ends if isinstance(self._ends, Job) else self._running

    def logs(self, job_id: str) -> str:
        return "stopped: budget.cost: 3 of 2 used; raise it, and the same command resumes\n"

    def cancel(self) -> Job:
        return Job("first.1", "STOPPED", "", None)


@pytest.fixture
def launched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    def make(ends: Job | BaseException | None, code: int = 0) -> Path:
        @contextmanager
        def connected(cluster: object) -> Iterator[Jobs]:
            try:
                yield Jobs(ends)
            finally:
                with (folder / "calls").open("a") as log:
                    print("port closed", file=log)

        monkeypatch.setattr(submit, "connected", connected)
        (folder / "ray.py").write_text(RAY.format(code=code))
        monkeypatch.setattr(launcher, "RAY", (sys.executable, str(folder / "ray.py")))
        monkeypatch.setattr(launcher, "check_launcher", lambda path, workers: None)
        (folder / "ray.yaml").write_text("cluster_name: x\n")
        (folder / "cluster.yaml").write_text(
            CLUSTER.replace('{address: "http://nobody:8265"}', "{launcher: ray.yaml, down: true}")
        )
        return folder / "cluster.yaml"

    return make


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (Job("first.1", "SUCCEEDED", "", 0), 0),
        (Job("first.1", "FAILED", "", 3), 3),
        (Job("first.1", "STOPPED", "", None), 4),
        # That its budget is used up is no death: another attempt would end at once.
        (Job("first.1", "FAILED", "exit code 4", 4), 4),
    ],
)
def test_a_cluster_goes_when_its_job_is_over_however_it_ended(
    command: Command, launched: Callable[..., Path], ends: Job, expected: int
) -> None:
    file = launched(ends)
    code, out, _ = command("submit", file)
    assert code == expected
    assert "no job is at work: taking the cluster down; results: s3://nobody-answers/first" in out
    assert out.count("it ran") == 1
    assert (file.parent / "calls").read_text().splitlines() == ["port closed", "down --yes"]


def test_a_cluster_stays_where_its_job_may_be_at_work(command: Command, launched: Callable[..., Path]) -> None:
    file = launched(ClusterError("the connection broke"))
    code, out, err = command("submit", file)
    assert (code, "the connection broke" in err) == (1, True)
    assert (
        f"a job may be at work; a cluster that is up stays up: `loco-sweep cancel {file}` ends it with its job" in out
    )
    assert (file.parent / "calls").read_text().splitlines() == ["port closed"]


def test_cancel_takes_the_cluster_down_too_and_says_where_that_fails(
    command: Command, launched: Callable[..., Path]
) -> None:
    file = launched(Job("first.1", "RUNNING", "", None), code=7)
    code, _, err = command("cancel", file)
    assert (code, "failed (exit code 7)" in err, "may still cost money" in err) == (1, True, True)


@pytest.mark.parametrize(
    ("last", "said"),
    [(Job("first.1", "SUCCEEDED", "", 0), "first.1 is over (succeeded)"), (None, "no job was submitted")],
)
def test_cancel_takes_the_cluster_down_where_no_job_is_left_to_stop(
    command: Command, launched: Callable[..., Path], last: Job | None, said: str
) -> None:
    file = launched(last)
    code, out, _ = command("cancel", file)
    assert (code, said in out) == (0, True)
    assert (file.parent / "calls").read_text().splitlines() == ["port closed", "down --yes"]


def test_doctor_tells_a_job_that_fails_from_a_cluster_that_is_not_up(
    command: Command, launched: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = launched(None)

    def fails(self: Jobs, words: str, there: Path, cluster: object) -> str:
        raise ClusterError("`python` is failed: No module named orchestrator")

    monkeypatch.setattr(Jobs, "ask", fails, raising=False)
    code, out, _ = command("doctor", file)
    assert (code, "No module named orchestrator" in out, "starts the cluster" in out) == (1, True, False)
    monkeypatch.setattr(Jobs, "ask", lambda *_: "nothing of use\n")
    code, out, _ = command("doctor", file)
    assert (code, "without saying what it found" in out) == (1, True)


def test_only_a_launchers_cluster_goes_down(command: Command, folder: Path) -> None:
    (folder / "cluster.yaml").write_text(CLUSTER.replace('8265"}', '8265", down: true}'))
    code, _, err = command("submit", folder / "cluster.yaml", "--dry-run")
    assert code == 2
    assert "cluster.down: only a launcher's cluster can be taken down" in err

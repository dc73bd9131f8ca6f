"""What is asked of Slurm for a cluster file; no Slurm is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loco_core.errors import SpecError
from orchestrator.spec.slurm import seconds_of
from orchestrator.submit import load_cluster, slurm
from tests.support.sweeps import SMALL, Command

CLUSTER = """\
name: first one
sweep: sweep.yaml
results: /shared/first
workers: {{gpus: 2, cpus: 4, max: 8}}
cluster: {{slurm: {asked}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sweep.yaml").write_text(SMALL)
    return tmp_path


def _written(folder: Path, asked: str, more: str = "") -> Path:
    path = folder / "cluster.yaml"
    path.write_text(CLUSTER.format(asked=asked) + more)
    return path


@pytest.mark.parametrize(
    ("asked", "more", "message"),
    [
        ("{time: 60}", "", "cluster.slurm.time: 60 of which unit. expected hours:minutes:seconds"),
        ('{time: "1 day"}', "", "cluster.slurm.time: .* is wrong; expected hours:minutes:seconds, such as 4:00:00"),
        ("{time: 7d}", "", "cluster.slurm.time: .* is wrong; expected hours:minutes:seconds"),
        ('{time: "5"}', "", "cluster.slurm.time: no work is begun in the last 300 s, and time is 300 s"),
        ("{time: 1:00:00, notice: 3600}", "", "cluster.slurm.notice: no work is begun in the last 3600 s"),
        ("{array: 8, head_time: 0:05:00}", "", "cluster.slurm.head_time: .* and head_time is 300 s"),
        ("{memory_per_node: 64 gigs}", "", "cluster.slurm.memory_per_node: 64 gigs is wrong; expected a size"),
        ("{memory_per_node: 64000}", "", "cluster.slurm.memory_per_node: 64000 bytes hold no job; expected a unit"),
        (
            "{nodes: 4, gpus_per_node: 8}",
            "",
            "cluster.slurm.nodes: 4, of which workers.max: 8 leaves 2 idle; expected 2",
        ),
        ("{array: 9}", "", "cluster.slurm.array: 9, of which workers.max: 8 leaves 1 idle; expected 8"),
        ("{array: 4, nodes: 2}", "", "cluster.slurm.nodes: 2, with array; expected array alone"),
        ("{head_time: 1:00:00}", "", "cluster.slurm.head_time: is for array"),
        ("{gpus_per_node: 1}", "", "cluster.slurm.gpus_per_node: 1; a worker of toy needs 2"),
        ("{cpus_per_node: 3}", "", "cluster.slurm.cpus_per_node: 3; a worker needs 4"),
        ("{options: [constraint=a]}", "", "cluster.slurm.options.0: .* is wrong; expected an option of sbatch"),
        ("{}", "runtime_env: {pip: [x]}\n", "runtime_env.pip: nothing is installed on nodes of Slurm"),
    ],
)
def test_what_slurm_could_not_give_is_refused_with_its_place(folder: Path, asked: str, more: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_cluster(_written(folder, asked, more))


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("30", 1800), ("30:15", 1815), ("4:00:00", 14400), ("7-0", 604800), ("1-2:30", 95400), ("1-2:30:05", 95405)],
)
def test_time_limits_are_what_sbatch_takes(folder: Path, time: str, seconds: int) -> None:
    asked = load_cluster(_written(folder, f'{{time: "{time}"}}')).spec.cluster.slurm
    assert asked is not None
    assert asked.time == time
    assert seconds_of(time) == seconds


@pytest.mark.parametrize(
    ("written", "asked"), [("64G", "65536M"), ("64GiB", "65536M"), ("64GB", "61036M"), ("0", "0M")]
)
def test_memory_is_asked_for_in_megabytes_of_slurm(folder: Path, written: str, asked: str) -> None:
    assert f"--mem={asked}" in slurm.preview(
        load_cluster(_written(folder, f"{{memory_per_node: {written}}}")), again=False
    )


def test_a_job_asks_for_what_its_workers_need(folder: Path, command: Command) -> None:
    path = _written(folder, "{partition: gpu, account: me, qos: low, time: 1-0, nodes: 3, gpus_per_node: 4}")
    code, out, err = command("submit", path, "--dry-run")
    assert (code, err) == (0, "")
    words = out.splitlines()[0].split()
    assert set(words) >= {
        "--nodes=3", "--gpus-per-node=4", "--cpus-per-task=8", "--partition=gpu", "--account=me", "--qos=low",
        "--time=1-0", "--requeue", "--signal=B:USR1@300",
    }  # fmt: skip
    assert "--results /shared/first" in out
    assert f"export PATH={Path(sys.executable).parent}:$PATH" in out
    assert not (folder / "slurm").exists()


def test_jobs_of_an_array_have_one_node_and_the_one_that_drives_them_no_gpu(folder: Path) -> None:
    path = _written(folder, "{array: 5, partition: gpu, head_partition: cpu, time: 0:30:00, head_time: 7-0}")
    text = slurm.preview(load_cluster(path), again=True)
    drives = text.splitlines()[0].split()
    assert {"--partition=cpu", "--time=7-0", "--nodes=1", "--cpus-per-task=2"} <= set(drives)
    assert not any(word.startswith(("--gpus", "--array")) for word in drives)
    (array,) = (line for line in text.splitlines() if line.startswith("array="))
    for word in ("--array=1-5", "--partition=gpu", "--time=0:30:00", "--gpus-per-node=2", "--cpus-per-task=4"):
        assert word in array
    # Failed cells are tried again on the first start, not whenever the job is queued again.
    assert "first=(--retry)" in text


@pytest.mark.parametrize(
    ("asked", "workers"),
    [("{nodes: 3, gpus_per_node: 4}", 6), ("{array: 5}", 5), ("{nodes: 2}", 2), ("{array: 2, gpus_per_node: 8}", 8)],
)
def test_there_are_as_many_workers_as_the_nodes_hold(folder: Path, asked: str, workers: int) -> None:
    path = _written(folder, asked)
    path.write_text(path.read_text().replace(", max: 8", ""))
    assert f" --workers {workers} " in slurm.script(load_cluster(path), again=False)


def test_scripts_of_slurm_are_scripts_of_bash_whatever_words_they_hold(folder: Path) -> None:
    (folder / 'it\'s "here"').mkdir()
    path = folder / 'it\'s "here"' / "cluster.yaml"
    (path.parent / "sweep.yaml").write_text(SMALL)
    asked = "{array: 2, setup: [export A=1], container: env B=2}"
    path.write_text(CLUSTER.format(asked=asked) + 'runtime_env: {env_vars: {C: "it\'s $HOME"}}\n')
    text = slurm.script(load_cluster(path), again=False).replace("source ", ": ").replace(" || exit 1", "")
    show = 'echo "$folder|$A|$C|${container[1]}|${array[-1]}"'
    done = subprocess.run(["bash"], input=text + show, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{slurm.folder_of(load_cluster(path))}|1|it's $HOME|B=2|work"
    subprocess.run(["bash", "-n", slurm.LIBRARY], check=True)


def test_without_slurm_it_says_where_to_go(folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _written(folder, "{}")
    (folder / "bin").mkdir()
    monkeypatch.setenv("PATH", str(folder / "bin"))
    code, _, err = command("submit", path)
    assert (code, "sbatch is not on PATH; run this on a login node" in err, err.count("\n")) == (1, True, 1), err
    code, _, err = command("cancel", path)
    assert (code, "has no job of Slurm; `loco-sweep submit` makes one" in err) == (1, True), err


def test_a_credential_goes_by_the_environment_alone(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_ = folder / "bin"
    bin_.mkdir()
    (bin_ / "sbatch").write_text('#!/bin/sh\necho "$HF_TOKEN $*" >"$(dirname "$0")/said"\necho 7\n')
    (bin_ / "squeue").write_text("#!/bin/sh\necho 'RUNNING|n1'\n")
    for path in bin_.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    path = _written(folder, "{}")
    code, out, err = command("submit", path)
    assert (code, err, "submitted job 7" in out) == (0, "", True)
    said = (bin_ / "said").read_text()
    # Neither in the words of the command nor in what is written.
    assert said.count("hf_canary") == 1
    written = [file for file in (folder / "slurm").rglob("*") if file.is_file()]
    assert any(file.name == "job.sh" for file in written)
    assert not any(b"hf_canary" in file.read_bytes() for file in written)

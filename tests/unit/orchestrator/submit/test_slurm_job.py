"""What a job of Slurm does, and what follows it: its script, with commands that stand for Slurm's and Ray's."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from loco_core.errors import ClusterError
from orchestrator.submit import LoadedCluster, load_cluster, slurm
from tests.support.sweeps import SMALL, Command

pytestmark = pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock; Debian: apt-get install util-linux")

CLUSTER = """\
name: first
sweep: sweep.yaml
results: /shared/first
cluster: {{slurm: {{{more}setup: ["export PATH={bin}:$PATH", every=0.2]}}}}
"""
# A driver goes on until it is stopped, a Ray until it is stopped; both do what files of the folder say.
PYTHON = """\
#!/bin/bash
cd {bin}
case "$*" in
*ray.scripts*)
  for word in "$@"; do case $word in --temp-dir=*) temp=${{word#*=}} ;; esac; done
  [ -e ray-fails ] && {{ echo "no route to the head"; exit 7; }}
  mkdir -p "$temp" && chmod 777 "$temp"
  echo "$temp" >>rays
  echo 10.0.0.1:6379 >"$temp/ray_current_cluster"
  trap 'exit 0' TERM
  ;;
*' run '*) trap 'exit 4' TERM; echo >>drivers; [ -e driver-ends ] && exit "$(<driver-ends)" ;;
*' status '*)
  echo >>asked
  while [ -e status-hangs ]; do sleep 0.1; done
  echo "{{\\"units_done\\": $(<done)}}"; exit ;;
*) exec {python} "$@" ;;
esac
while :; do sleep 0.1; done
"""
SAYS = """\
#!/bin/bash
echo "${0##*/} $*" >>"${0%/*}/said"
[ -e "${0%/*}/${0##*/}-fails" ] && { cat "${0%/*}/${0##*/}-fails" >&2; exit 1; }
cat "${0%/*}/${0##*/}-prints" 2>/dev/null
exit 0
"""


@dataclass(frozen=True)
class Job:
    """The script of a submitted sweep, and the folder of the commands that it calls."""

    cluster: LoadedCluster
    bin: Path

    @property
    def folder(self) -> Path:
        return slurm.folder_of(self.cluster)

    @property
    def said(self) -> str:
        """What Slurm was asked."""
        return (self.bin / "said").read_text()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def write(self, name: str, text: str = "") -> None:
        (self.bin / name).write_text(text)

    def written(self, name: str) -> Callable[[], bool]:
        return (self.bin / name).exists

    @contextmanager
    def started(self, *words: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Runs the script, as Slurm does."""
        env = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_CPUS_PER_TASK": "1", **more}
        command = ["bash", str(self.folder / "job.sh"), *words]
        with (self.folder / "log").open("ab") as file:
            process = subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run(self, *words: str, **more: str) -> int:
        with self.started(*words, **more) as process:
            return process.wait(timeout=300)


TASK = {"SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "1", "RAY_ADDRESS": "10.0.0.1:6379"}


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(params=[""])
def job(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "python").write_text(PYTHON.format(bin=shlex.quote(str(bin_)), python=sys.executable))
    for name in ("sbatch", "squeue", "scancel", "scontrol", "srun"):
        (bin_ / name).write_text(SAYS)
    for path in bin_.iterdir():
        path.chmod(0o755)
    (bin_ / "sbatch-prints").write_text("7\n")
    (bin_ / "squeue-prints").write_text("RUNNING|n1\n")
    (bin_ / "scontrol-prints").write_text("n1\n")
    (bin_ / "done").write_text("0")
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    (tmp_path / "sweep.yaml").write_text(SMALL)
    (tmp_path / "cluster.yaml").write_text(CLUSTER.format(more=request.param, bin=bin_))
    cluster = load_cluster(tmp_path / "cluster.yaml")
    slurm.submit(cluster)
    yield Job(cluster, bin_)
    # Those of jobs that were killed.
    for ray in (bin_ / "rays").read_text().split() if (bin_ / "rays").exists() else ():
        shutil.rmtree(Path(ray).parent, ignore_errors=True)


array = pytest.mark.parametrize("job", ["array: 2, "], indirect=True)


def test_nobody_else_can_enter_the_folder_of_a_jobs_ray(job: Job) -> None:
    with job.started() as process:
        _until(job.written("drivers"))
        ray = Path((job.bin / "rays").read_text().strip())
        assert stat.S_IMODE(ray.stat().st_mode) == 0o777
        owned = ray.parent.stat()
        assert (stat.S_IMODE(owned.st_mode), owned.st_uid) == (0o700, os.getuid())
        # Ray's longest: a path of a socket may have 107 bytes.
        assert len(f"{ray}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store") <= 107
        process.terminate()
        assert process.wait(timeout=300) == 4
    assert not ray.parent.exists()


def test_a_job_removes_what_killed_jobs_have_left(job: Job) -> None:
    left, lives = (Path(tempfile.mkdtemp(prefix="loco-ray-", dir="/tmp")) for _ in range(2))
    try:
        for folder in (left, lives):
            (folder / "owner").touch()
        job.write("driver-ends", "0")
        with (lives / "owner").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert job.run() == 0
            assert (left.exists(), lives.exists()) == (False, True)
            assert (job.folder / "7.exit").read_text() == "0\n"
    finally:
        shutil.rmtree(left, ignore_errors=True)
        shutil.rmtree(lives)


def test_a_killed_jobs_folder_is_locked_no_longer(job: Job) -> None:
    with job.started():
        _until(job.written("drivers"))
    ray = Path((job.bin / "rays").read_text().strip())
    assert ray.exists()
    job.write("driver-ends", "0")
    assert job.run() == 0
    assert not ray.parent.exists()


@pytest.mark.parametrize("how", ["notice", "notice, then scancel", "notice, then a marker"])
def test_a_job_that_is_cancelled_in_its_notice_is_not_queued_again(job: Job, how: str) -> None:
    job.write("status-hangs")
    with job.started() as process:
        _until(job.written("drivers"))
        process.send_signal(signal.SIGUSR1)
        _until(job.written("asked"))
        if how == "notice, then scancel":
            process.terminate()
        if how == "notice, then a marker":
            (job.folder / "cancelled").touch()
        (job.bin / "status-hangs").unlink()
        assert process.wait(timeout=300) == (0 if how == "notice" else 4)
    assert ("scontrol requeue 7" in job.said) == (how == "notice")
    assert ("job 7 is cancelled; it is not queued again" in job.log) == (how != "notice")


@array
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_job_of_an_array_that_is_cancelled_in_its_notice_is_not_queued_again(job: Job, cancelled: bool) -> None:
    job.write("status-hangs")
    with job.started("work", **TASK) as process:
        _until(job.written("rays"))
        process.send_signal(signal.SIGUSR1)
        _until(job.written("asked"))
        if cancelled:
            process.terminate()
        (job.bin / "status-hangs").unlink()
        assert process.wait(timeout=300) == 0
    assert ("scontrol requeue 8_1" in job.said) != cancelled


def test_a_job_that_gets_nowhere_twice_is_not_queued_again(job: Job) -> None:
    def limit() -> int:
        (job.bin / "drivers").unlink(missing_ok=True)
        with job.started() as process:
            _until(job.written("drivers"))
            process.send_signal(signal.SIGUSR1)
            return process.wait(timeout=300)

    # The first two cannot be read.
    for done, code in (('"', 0), ('"', 4), ("3", 0), ("5", 0), ("5", 4)):
        job.write("done", done)
        assert limit() == code, job.log
    assert job.log.count("no unit was committed in two jobs one after the other") == 2
    # As a full disk leaves it.
    (job.folder / "units.job").write_text("")
    assert limit() == 0


@array
def test_a_node_that_cannot_join_says_why_and_fails(job: Job) -> None:
    job.write("ray-fails")
    assert job.run("work", **TASK, SLURMD_NODENAME="n5") == 7
    assert "no route to the head" in job.log
    assert "Ray ended by itself on n5 (exit code 7)" in job.log
    assert "scontrol requeue" not in job.said


@array
def test_a_driver_without_any_job_of_its_array_left_ends(job: Job) -> None:
    job.write("squeue-prints", "8_1 RUNNING\n")
    with job.started() as process:
        _until(job.written("drivers"))
        # No answer is not an empty one.
        before = job.said.count("squeue")
        job.write("squeue-fails", "squeue: error: Unable to contact slurm controller")
        job.write("squeue-prints")
        _until(lambda: job.said.count("squeue") > before + 3)
        assert process.poll() is None
        (job.bin / "squeue-fails").unlink()
        assert process.wait(timeout=300) == 1
    assert f"all jobs of the array are over, and nothing computes any more; their logs say why: {job.folder}" in job.log
    assert (job.folder / "7.exit").read_text() == "1\n"
    assert "scontrol requeue" not in job.said


@array
def test_the_driver_of_an_array_asks_for_progress_once_a_node_had_its_place(job: Job) -> None:
    job.write("squeue-prints", "8_1 PENDING\n")

    def limit(*, place: bool) -> int:
        (job.bin / "drivers").unlink(missing_ok=True)
        with job.started() as process:
            _until(job.written("drivers"))
            if place:
                job.write("ray-fails")
                assert job.run("work", **TASK) == 7
                (job.bin / "ray-fails").unlink()
            process.send_signal(signal.SIGUSR1)
            return process.wait(timeout=300)

    assert [limit(place=False) for _ in range(3)] == [0, 0, 0]
    assert [limit(place=True) for _ in range(2)] == [0, 4]


def test_an_exit_code_is_of_this_start_of_a_job(job: Job) -> None:
    (job.folder / "7.exit").write_text("4\n")
    with job.started():
        _until(job.written("drivers"))
        assert slurm.latest(job.cluster).exit_code is None
    (job.folder / "7.exit").write_text("")
    assert slurm.latest(job.cluster).exit_code is None


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("POLL", 0.1), ("TAIL", 0.05), ("PATIENCE", 20.0), ("CANCEL", 1.0)):
        monkeypatch.setattr(slurm, f"{name}_SECONDS", seconds)


@pytest.mark.usefixtures("_hurried")
def test_a_job_that_does_not_end_is_cancelled_again_for_some_time(job: Job, command: Command) -> None:
    code, _, err = command("cancel", job.cluster.path)
    assert (code, err.count("\n")) == (1, 1), err
    assert "job 7 is running 1 s after scancel; it will not queue itself again" in err
    assert job.said.count("scancel 7\n") > 1
    assert (job.folder / "cancelled").exists()
    job.write("squeue-prints", "CANCELLED|")
    slurm.submit(job.cluster)
    assert not (job.folder / "cancelled").exists()


@pytest.mark.usefixtures("_hurried")
def test_a_job_that_has_queued_itself_again_meanwhile_is_cancelled(job: Job) -> None:
    ends = '[ "$(grep -c "^scancel 7" "${0%/*}/said")" -lt 2 ] || echo "CANCELLED|" >"${0%/*}/squeue-prints"'
    job.write("scancel", f"{SAYS.removesuffix('exit 0' + chr(10))}{ends}\n")
    assert slurm.cancel(job.cluster).state == "CANCELLED"


@pytest.mark.usefixtures("_hurried")
def test_what_follows_a_job_outlives_a_slurm_that_does_not_answer(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    (job.folder / "7.log").write_text("begun\n")
    following = slurm.logs(job.cluster, follow=True)
    assert next(following) == "begun\n"
    job.write("squeue-fails", "squeue: error: Unable to contact slurm controller")
    before = job.said.count("squeue")
    threading.Timer(1, (job.bin / "squeue-fails").unlink).start()
    (job.folder / "7.log").write_text("begun\nended\n")
    job.write("squeue-prints", "COMPLETED|")
    assert "".join(following) == "ended\n"
    assert job.said.count("squeue") > before + 2
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0.3)
    job.write("squeue-fails", "squeue: error: Unable to contact slurm controller")
    with pytest.raises(ClusterError, match=re.escape("squeue: squeue: error: Unable to contact")):
        slurm.followed(job.cluster)

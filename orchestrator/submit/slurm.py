"""A sweep as a job of Slurm: its script is written beside the cluster file and handed to sbatch, on a login node."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from loco_core.errors import ClusterError
from orchestrator.identity import safe_name
from orchestrator.spec.slurm import SlurmSpec
from orchestrator.submit.bundle import SWEEP, bundle, command
from orchestrator.submit.cluster_file import LoadedCluster
from orchestrator.submit.jobs import is_about, last_line

FILES = "files"
ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING",
          "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "STOPPED")  # fmt: skip
POLL_SECONDS = 15.0
"""Between two questions to Slurm, which all users ask."""
TAIL_SECONDS = 2.0
"""Between two looks at a log."""
PATIENCE_SECONDS = 300.0
"""For how long Slurm may give no answer while a job is followed."""
CANCEL_SECONDS = 300.0
"""How long a job may take to end once it is cancelled."""
CANCELLED = "cancelled"
"""File that keeps jobs of a folder from queuing themselves again."""
LIBRARY = Path(__file__).with_name("slurm.sh")


@dataclass(frozen=True)
class SlurmJob:
    """The newest job of a sweep.

    Attributes:
        job_id: Slurm's number.
        state: Slurm's word; ``OVER`` once Slurm has forgotten it.
        reason: why it waits, or on which nodes it runs.
        exit_code: exit code of the driver, once it has said its last word.
    """

    job_id: str
    state: str
    reason: str
    exit_code: int | None

    @property
    def over(self) -> bool:
        """Whether it has ended for good."""
        return self.state not in ACTIVE

    @property
    def code(self) -> int:
        """The code that a command about it exits with: the driver's own, 4 where it was cancelled, else 1."""
        if self.exit_code is not None:
            return self.exit_code
        return 4 if self.state.startswith("CANCELLED") else 1


def folder_of(cluster: LoadedCluster) -> Path:
    """Returns the folder of a sweep's jobs, beside the cluster file: the project's files, the script and the logs."""
    return cluster.path.absolute().parent / "slurm" / _name(cluster)


def _name(cluster: LoadedCluster) -> str:
    return f"{safe_name(cluster.spec.name)[:40]}-{cluster.key}"


def _asked(cluster: LoadedCluster) -> SlurmSpec:
    slurm = cluster.spec.cluster.slurm
    assert slurm is not None
    return slurm


def preview(cluster: LoadedCluster, *, again: bool) -> str:
    """Returns the commands and the script of a sweep's jobs, for people."""
    return f"{shlex.join(_sbatch(cluster))}\n\n{script(cluster, again=again)}"


def script(cluster: LoadedCluster, *, again: bool) -> str:
    """Returns the script of a sweep's jobs.

    Args:
        cluster: content of a file with ``cluster: {slurm: ..}``.
        again: whether failed cells are computed again.
    """
    asked, folder = _asked(cluster), folder_of(cluster)
    gpus, cpus = _per_node(cluster)
    driver = shlex.split(command(_sized(cluster), SWEEP, again=False))
    alone = asked.array is None
    lines = [
        "#!/bin/bash",
        "# Written by `loco-sweep submit`, which hands it to sbatch.",
        f"folder={shlex.quote(str(folder))}",
        f"results={shlex.quote(cluster.spec.results)}",
        f"name={_name(cluster)}",
        f"container=({asked.container or ''})",
        f"driver=({shlex.join(driver)})",
        f"first=({'--retry' if again else ''})",
        f"array=({'' if alone else shlex.join(_workers(cluster))})",
        f"cpus={cpus} gpus={gpus} head_cpus={cpus if alone else 0} head_gpus={gpus if alone else 0}",
        f"notice={asked.notice} retries={cluster.spec.retries.driver} every={POLL_SECONDS:.0f}",
        f'cd "$folder/{FILES}" || exit 1',
        f'export PYTHONUNBUFFERED=1 PYTHONPATH="$folder/{FILES}"',
        # Slurm's queue may take days.
        *([] if alone else ["export LOCO_NODE_PATIENCE=inf"]),
        *(f"export {name}={shlex.quote(value)}" for name, value in cluster.spec.environment.items()),
        *_setup(asked),
        f'source "$folder/{FILES}/orchestrator/submit/{LIBRARY.name}"',
    ]
    return "\n".join(lines) + "\n"


def _sized(cluster: LoadedCluster) -> LoadedCluster:
    """Returns a cluster file with as many workers as its nodes hold, where it does not say how many."""
    workers, asked = cluster.spec.workers, _asked(cluster)
    if "max" in workers.model_fields_set and isinstance(workers.max, int):
        return cluster
    gpus, cpus = _per_node(cluster)
    beside = gpus // cluster.gpus if cluster.gpus else cpus // workers.cpus
    most = max(workers.min, (asked.array or asked.nodes) * beside)
    sized = workers.model_copy(update={"max": most})
    return replace(cluster, spec=cluster.spec.model_copy(update={"workers": sized}))


def state_line(cluster: LoadedCluster) -> str | None:
    """Says in a line what Slurm does with a sweep's jobs; None where it has none, or is not to be asked from here."""
    try:
        job = _latest(cluster)
        if job is None or job.over:
            return None
        line = f"job {job.job_id} of Slurm is {job.state.lower()} ({job.reason.strip('()')})"
        if _asked(cluster).array is None:
            return line
        listed = _call(["squeue", "--noheader", "--array", f"--name={_name(cluster)}-workers", "--me", "--format=%T"])
    except ClusterError:
        return None
    states = listed.split()
    return f"{line}; of its workers' jobs {states.count('RUNNING')} are running and {states.count('PENDING')} waiting"


def _setup(asked: SlurmSpec) -> Iterable[str]:
    if asked.setup:
        return ("set -e", *asked.setup, "set +e")
    # Nothing of a container is this Python's.
    return () if asked.container else (f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",)


def _per_node(cluster: LoadedCluster) -> tuple[int, int]:
    """Returns GPUs and CPU cores of a node."""
    asked, workers = _asked(cluster), cluster.spec.workers
    gpus = cluster.gpus if asked.gpus_per_node is None else asked.gpus_per_node
    beside = max(1, gpus // max(1, cluster.gpus))
    return gpus, asked.cpus_per_node or beside * workers.cpus


def _sbatch(cluster: LoadedCluster) -> list[str]:
    """Returns the command that submits the job that drives."""
    asked, folder = _asked(cluster), folder_of(cluster)
    gpus, cpus = _per_node(cluster)
    # A node that fails takes a job of several only along if it is the first.
    words = ["sbatch", "--parsable", f"--job-name={_name(cluster)}", f"--output={folder}/%j.log", "--no-kill"]
    if asked.array is None:
        return [
            *words,
            *_nodes(asked, asked.nodes, gpus, cpus),
            *_common(asked, asked.partition, asked.time),
            *_script(folder),
        ]
    where = asked.head_partition or asked.partition
    limit = asked.head_time or asked.time
    return [*words, *_nodes(asked, 1, 0, asked.head_cpus), *_common(asked, where, limit), *_script(folder)]


def _workers(cluster: LoadedCluster) -> list[str]:
    """Returns the command that submits the jobs of workers."""
    asked, folder = _asked(cluster), folder_of(cluster)
    words = ["sbatch", "--parsable", f"--job-name={_name(cluster)}-workers", f"--output={folder}/%A_%a.log"]
    words += [f"--array=1-{asked.array}", *_nodes(asked, 1, *_per_node(cluster))]
    return [*words, *_common(asked, asked.partition, asked.time), *_script(folder), "work"]


def _nodes(asked: SlurmSpec, nodes: int, gpus: int, cpus: int) -> list[str]:
    words = [f"--nodes={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cpus}"]
    words += [f"--gpus-per-node={gpus}"] if gpus else []
    return words + ([f"--mem={asked.memory}"] if asked.memory else [])


def _common(asked: SlurmSpec, partition: str | None, limit: str | None) -> list[str]:
    given = {"partition": partition, "account": asked.account, "qos": asked.qos, "time": limit}
    words = ["--open-mode=append", "--requeue", f"--signal=B:USR1@{asked.notice}"]
    return [*words, *(f"--{name}={value}" for name, value in given.items() if value), *asked.options]


def _script(folder: Path) -> list[str]:
    return [str(folder / "job.sh")]


def submit(cluster: LoadedCluster, *, again: bool = False) -> SlurmJob:
    """Submits the job of a sweep.

    Raises:
        ClusterError: Slurm refuses it, or one of this sweep is queued or at work.
    """
    folder = folder_of(cluster)
    before = _latest(cluster)
    if before is not None and not before.over:
        raise ClusterError(
            f"job {before.job_id} of {cluster.spec.name} is {before.state.lower()}; `loco-sweep logs` follows it, "
            "`loco-sweep cancel` stops it"
        )
    try:
        shutil.rmtree(folder / FILES, ignore_errors=True)
        (folder / FILES).mkdir(parents=True)
        bundle(cluster, folder / FILES)
        (folder / "job.sh").write_text(script(cluster, again=again), encoding="utf-8")
        for noted in (*folder.glob("units.*"), folder / CANCELLED):
            noted.unlink(missing_ok=True)
    except OSError as error:
        raise ClusterError(f"{folder} cannot be written: {error.strerror}") from error
    # The environment goes along as it is, credentials too: nothing of it is written into the script.
    job_id = _call(_sbatch(cluster)).strip().partition(";")[0]
    (folder / "job").write_text(job_id, encoding="utf-8")
    return _job(folder, job_id)


def latest(cluster: LoadedCluster) -> SlurmJob:
    """Returns the newest job of a sweep.

    Raises:
        ClusterError: there is none, or Slurm does not answer.
    """
    job = _latest(cluster)
    if job is None:
        raise ClusterError(f"{cluster.spec.name} has no job of Slurm; `loco-sweep submit` makes one")
    return job


def _latest(cluster: LoadedCluster) -> SlurmJob | None:
    folder = folder_of(cluster)
    noted = folder / "job"
    return _job(folder, noted.read_text(encoding="utf-8")) if noted.is_file() else None


def _job(folder: Path, job_id: str) -> SlurmJob:
    words = ["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T|%R"]
    try:
        said = _call(words).strip().partition("\n")[0]
    except ClusterError as error:
        if "Invalid job id" not in str(error):
            raise
        # Slurm forgets jobs some minutes after their end.
        said = ""
    state, _, reason = said.partition("|")
    last_word = folder / f"{job_id}.exit"
    code = last_word.read_text(encoding="utf-8").strip() if last_word.is_file() else ""
    return SlurmJob(job_id, state or "OVER", reason, int(code) if code.isdecimal() else None)


def followed(cluster: LoadedCluster) -> SlurmJob:
    """Returns the newest job of a sweep, while it is followed: Slurm may be busy, or be restarted meanwhile.

    Raises:
        ClusterError: there is none, or Slurm has not answered for minutes.
    """
    asking = retry(
        retry=retry_if_exception_type(ClusterError), wait=wait_fixed(POLL_SECONDS),
        stop=stop_after_delay(PATIENCE_SECONDS), reraise=True,
    )  # fmt: skip
    return asking(latest)(cluster)


def cancel(cluster: LoadedCluster) -> SlurmJob:
    """Cancels the job of a sweep, with its workers' jobs; what is committed stays.

    Raises:
        ClusterError: it is over, or does not end.
    """
    job = latest(cluster)
    if job.over:
        raise ClusterError(f"job {job.job_id} is over ({job.state.lower()}); there is nothing to cancel")
    try:
        (folder_of(cluster) / CANCELLED).touch()
    except OSError as error:
        raise ClusterError(f"{folder_of(cluster)} cannot be written: {error.strerror}") from error
    deadline, pause = time.monotonic() + CANCEL_SECONDS, TAIL_SECONDS
    while not job.over:
        if time.monotonic() > deadline:
            raise ClusterError(
                f"job {job.job_id} is {job.state.lower()} {CANCEL_SECONDS:.0f} s after scancel; it will not queue "
                f"itself again; `scontrol show job {job.job_id}` says why it is not over, `loco-sweep cancel` tries "
                "once more"
            )
        # More than once: a job that was about to queue itself again comes back for another.
        _scancel(cluster, job)
        time.sleep(pause)
        pause = min(2 * pause, POLL_SECONDS)
        job = followed(cluster)
    # Those of a job that had no time to cancel them itself.
    _call(["scancel", f"--name={_name(cluster)}-workers", "--me"])
    return job


def _scancel(cluster: LoadedCluster, job: SlurmJob) -> None:
    if job.state == "COMPLETING":
        return
    try:
        _call(["scancel", job.job_id])
    except ClusterError:
        # It may have ended meanwhile.
        if followed(cluster).state == job.state:
            raise


def logs(cluster: LoadedCluster, *, follow: bool) -> Iterator[str]:
    """Yields what the newest job prints; with ``follow`` until it is over."""
    job, said, read, asked = latest(cluster), "", 0, time.monotonic()
    log = folder_of(cluster) / f"{job.job_id}.log"
    while True:
        if log.is_file():
            with log.open("rb") as file:
                file.seek(read)
                text = file.read()
            read += len(text)
            if text:
                yield text.decode(errors="replace")
        if not follow or job.over:
            return
        if job.state != said and job.state != "RUNNING":
            yield f"job {job.job_id} is {job.state.lower()} ({job.reason.strip('()')})\n"
        said = job.state
        time.sleep(TAIL_SECONDS)
        if time.monotonic() - asked >= POLL_SECONDS:
            job, asked = followed(cluster), time.monotonic()


def worker_lines(cluster: LoadedCluster, unit: str | None = None) -> Iterator[str]:
    """Yields what workers have logged on nodes that are through with their job, one JSON object per line.

    Args:
        cluster: content of a file with ``cluster: {slurm: ..}``.
        unit: the id of a unit, or its beginning: only lines about it. None is all lines.

    Raises:
        ClusterError: nothing was logged.
    """
    kept = False
    for path in sorted(folder_of(cluster).glob("*.workers")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if unit is None or is_about(line, unit):
                kept = True
                yield line
    if not kept:
        raise ClusterError(
            f"{folder_of(cluster)}: nothing is logged{f' of unit {unit}' if unit else ''}; a node puts there what its "
            "workers log when its job ends, and `loco-sweep status` says why cells failed"
        )


def _call(words: list[str]) -> str:
    if shutil.which(words[0]) is None:
        raise ClusterError(f"{words[0]} is not on PATH; run this on a login node of the Slurm cluster")
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        raise ClusterError(f"{words[0]}: {last_line(done.stderr) or f'exit code {done.returncode}'}")
    return done.stdout

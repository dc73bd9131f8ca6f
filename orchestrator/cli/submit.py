"""``submit``, ``logs`` and ``cancel``: a sweep on a cluster, from one file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loco_core.errors import ClusterError, SpecError
from loco_core.masking import masked
from orchestrator.cli.options import at_home

if TYPE_CHECKING:
    from orchestrator.submit import Job, Jobs, LoadedCluster

ClusterFile = Annotated[
    Path, typer.Argument(help="The cluster file, as YAML.", metavar="CLUSTER.yaml", callback=at_home)
]


def submit(
    cluster: ClusterFile,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the job, and submit it again if its driver dies.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print what would be submitted.")
    ] = False,
) -> None:
    """Run a sweep on a cluster; the same command again resumes it."""
    send(cluster, wait=wait, dry_run=dry_run, again=False)


def logs(
    cluster: ClusterFile,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
) -> None:
    """Print what the newest job of a cluster file prints."""
    from orchestrator.submit import load_cluster, rayjob

    loaded = load_cluster(cluster)
    if loaded.spec.cluster.rayjob is not None:
        rayjob.logs(loaded, follow=follow)
        return
    with connected(loaded) as jobs:
        job = jobs.latest()
        if follow:
            _print(jobs.follow(job.job_id))
        else:
            print(masked(jobs.logs(job.job_id)), end="")


def cancel(cluster: ClusterFile) -> None:
    """Stop the job of a cluster file; what is committed stays, `submit` goes on from there."""
    from orchestrator.submit import load_cluster, rayjob

    loaded = load_cluster(cluster)
    if loaded.spec.cluster.rayjob is not None:
        rayjob.delete(loaded)
        print(f"deleted the RayJobs of {loaded.spec.name}; results: {loaded.spec.results}")
        return
    with connected(loaded) as jobs:
        job = jobs.cancel()
    print(f"{job.job_id} is {job.state.lower()}; results: {loaded.spec.results}")


def send(cluster: Path, *, wait: bool, dry_run: bool, again: bool) -> None:
    """Submits the sweep of a cluster file, or runs it here where the file says so."""
    from orchestrator.submit import authenticate, launcher, load_cluster, rayjob

    authenticate()
    loaded = load_cluster(cluster)
    choice = loaded.spec.cluster
    if choice.launcher is not None:
        launcher.check_launcher(cluster.parent / choice.launcher, loaded.spec.workers)
    if choice.rayjob is not None:
        if dry_run:
            print(rayjob.manifest(loaded, again=again), end="")
            return
        print(f"created {rayjob.create(loaded, again=again)}; results: {loaded.spec.results}")
        if wait and (state := rayjob.logs(loaded, follow=True)) != "SUCCEEDED":
            raise ClusterError(f"the RayJob is {state.lower()}; `submit` resumes what is left")
        return
    if dry_run:
        _describe(loaded, again=again)
        return
    if choice.local is not None:
        _here(loaded, again=again)
        return
    with ExitStack() as stack:
        try:
            jobs = stack.enter_context(connected(loaded))
        except ClusterError:
            if choice.launcher is None:
                raise
            launcher.up(cluster.parent / choice.launcher)
            jobs = stack.enter_context(connected(loaded))
        job = _submitted(jobs, loaded, again=again)
        print(f"submitted {job.job_id}; results: {loaded.spec.results}")
        if wait:
            _follow(jobs, loaded, job, again=again)
            return
    print(f"`loco-sweep logs --follow {cluster}` shows what it does, `loco-sweep status {cluster}` how far it is")


@contextmanager
def connected(cluster: LoadedCluster) -> Iterator[Jobs]:
    """Yields the jobs on the cluster of a file.

    Raises:
        ClusterError: it cannot be reached.
        SpecError: the file names no cluster that takes jobs.
    """
    from orchestrator.submit import connect, launcher

    choice = cluster.spec.cluster
    if choice.launcher is not None:
        with launcher.forwarded(cluster.path.parent / choice.launcher) as address:
            yield connect(cluster, address)
    elif choice.address is not None:
        yield connect(cluster, choice.address)
    else:
        raise SpecError(f"{cluster.path}: cluster: local runs in the terminal that submits it; there is no job")


def _submitted(jobs: Jobs, cluster: LoadedCluster, *, again: bool) -> Job:
    from tempfile import TemporaryDirectory

    from orchestrator.submit import bundle

    with TemporaryDirectory(prefix="loco-sweep-") as folder:
        return jobs.submit(cluster, bundle(cluster, Path(folder), again=again))


def _follow(jobs: Jobs, cluster: LoadedCluster, job: Job, *, again: bool) -> None:
    """Prints what a job prints; where its driver dies, submits the next attempt."""
    from orchestrator.submit.jobs import exit_code

    for left in range(cluster.spec.retries.driver, -1, -1):
        _print(jobs.follow(job.job_id))
        job = jobs.one(job.job_id)
        if not job.died:
            break
        if not left:
            raise ClusterError(f"{job.job_id}: the driver died ({job.message}); no retries are left, `submit` resumes")
        print(f"{job.job_id}: the driver died ({job.message}); submitting it again")
        job = _submitted(jobs, cluster, again=again)
    print(f"{job.job_id} is {job.state.lower()}; results: {cluster.spec.results}")
    if code := exit_code(job):
        raise typer.Exit(code)


def _here(cluster: LoadedCluster, *, again: bool) -> None:
    from orchestrator.cli.options import BackendName
    from orchestrator.cli.run import execute

    given, workers = cluster.spec.workers.model_fields_set, cluster.spec.workers
    execute(
        cluster.sweep, cluster.spec.results, BackendName.RAY, workers.max if "max" in given else None,
        workers.cpus if "cpus" in given else None, None, None, again=again,
    )  # fmt: skip


def _describe(cluster: LoadedCluster, *, again: bool) -> None:
    from orchestrator.submit.bundle import SWEEP, command

    choice = cluster.spec.cluster
    where = choice.address or choice.launcher or "this machine"
    print(f"would run on {where}: {command(cluster, SWEEP, again=again)}")
    print(cluster.sweep.model_dump_json(exclude_unset=True, indent=1))


def _print(pieces: Iterator[str]) -> None:
    for piece in pieces:
        print(masked(piece), end="", flush=True)

"""``submit``, ``logs`` and ``cancel``: a sweep on a cluster, from one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loco_core.errors import ClusterError, LocoError, SpecError, printable
from loco_core.masking import masked
from orchestrator.cli.options import Overrides
from orchestrator.cli.places import cluster_file

if TYPE_CHECKING:
    from orchestrator.submit import Job, Jobs, LoadedCluster, Secrets

ClusterFile = Annotated[
    Path, typer.Argument(help="The cluster file, as YAML.", metavar="CLUSTER.yaml", callback=cluster_file)
]


def submit(
    cluster: ClusterFile,
    overrides: Overrides = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job; submit it again if its driver dies.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the files and print what would be submitted; the cluster is not asked."),
    ] = False,
) -> None:
    """Run a sweep on a cluster, or resume it."""
    send(cluster, wait=wait, dry_run=dry_run, again=False, overrides=overrides or ())


def logs(
    cluster: ClusterFile,
    unit: Annotated[
        str | None, typer.Argument(help="With --workers, only this unit: its id, or the beginning of it.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    workers: Annotated[
        bool, typer.Option("--workers", help="Print what its workers log: one JSON object per line.")
    ] = False,
) -> None:
    """Print what a job or its workers print."""
    from orchestrator.submit import load_cluster, rayjob, slurm

    loaded = load_cluster(cluster)
    if unit is not None and not workers:
        raise SpecError(
            f"{unit}: a unit is in the logs of workers; expected `loco-sweep logs {cluster} --workers {unit}`"
        )
    if workers:
        if follow:
            raise SpecError("--follow goes with what a job prints; expected it without --workers")
        _print_workers(loaded, unit)
        return
    if loaded.spec.cluster.rayjob is not None:
        rayjob.logs(loaded, follow=follow)
        return
    if loaded.spec.cluster.slurm is not None:
        _print(slurm.logs(loaded, follow=follow))
        return
    with connected(loaded) as jobs:
        job = jobs.latest()
        if follow:
            _print(jobs.follow(job.job_id))
        else:
            print(masked(jobs.logs(job.job_id)), end="")
        _withdraw(loaded, jobs.one(job.job_id))


def _print_workers(cluster: LoadedCluster, unit: str | None) -> None:
    choice = cluster.spec.cluster
    if choice.rayjob is not None:
        raise SpecError(
            f"{cluster.path}: workers of a RayJob log in their pods; expected `kubectl --namespace "
            f"{choice.rayjob.namespace} exec POD -- sh -c 'cat /tmp/ray/session_latest/logs/worker-*.err'`"
        )
    if choice.slurm is not None:
        from orchestrator.submit import slurm

        _print(f"{line}\n" for line in slurm.worker_lines(cluster, unit))
        return
    if choice.local is not None:
        raise SpecError(
            f"{cluster.path}: cluster: local removes Ray's logs with Ray; `loco-sweep status {cluster.path}` says why "
            "cells failed"
        )
    with connected(cluster) as jobs:
        _print(f"{line}\n" for line in jobs.worker_lines(unit))


def cancel(cluster: ClusterFile) -> None:
    """Stop the job of a cluster file.

    What is committed stays; `submit` resumes.
    """
    from orchestrator.submit import load_cluster, rayjob, slurm

    loaded = load_cluster(cluster)
    if loaded.spec.cluster.rayjob is not None:
        rayjob.delete(loaded)
        print(f"deleted the RayJobs of {loaded.spec.name}; results: {loaded.spec.results}")
        return
    if loaded.spec.cluster.slurm is not None:
        cancelled = slurm.cancel(loaded)
        print(f"job {cancelled.job_id} is {cancelled.state.lower()}; results: {loaded.spec.results}")
        return
    with connected(loaded) as jobs:
        past = jobs.listed()
        # Where nothing is at work, the cluster that `down` is about may be up all the same.
        if loaded.spec.cluster.down and all(job.over for job in past):
            said = f"{past[-1].job_id} is over ({past[-1].state.lower()})" if past else "no job was submitted"
        else:
            job = jobs.cancel()
            _withdraw(loaded, job)
            said = f"{job.job_id} is {job.state.lower()}"
    print(f"{said}; results: {loaded.spec.results}")
    if loaded.spec.cluster.down:
        _down(loaded)


def send(cluster: Path, *, wait: bool, dry_run: bool, again: bool, overrides: Sequence[str] = ()) -> None:
    """Submits the sweep of a cluster file, or runs it here where the file says so."""
    from orchestrator.submit import adopt_environment, authenticate, collect, launcher, load_cluster

    authenticate()
    loaded = load_cluster(cluster, overrides)
    choice, secrets = loaded.spec.cluster, collect(loaded)
    if choice.launcher is not None:
        launcher.check_launcher(cluster.parent / choice.launcher, loaded.spec.workers)
        launcher.check_results(loaded.spec.results)
    if choice.local is not None:
        # Workers here inherit it, as they do the secrets; the bill asks the hub.
        adopt_environment(loaded)
    # What a RayJob or a script would be may be piped on.
    piped = dry_run and (choice.rayjob is not None or choice.slurm is not None)
    bill = "".join(f"{'# ' if piped else ''}{line}\n" for line in _bill(loaded))
    if not piped:
        print(bill, end="", flush=True)
    if choice.rayjob is not None:
        _to_kubernetes(loaded, secrets, wait=wait, dry_run=dry_run, again=again)
    elif choice.slurm is not None:
        _to_slurm(cluster, loaded, wait=wait, dry_run=dry_run, again=again)
    if piped:
        print(bill, end="")
    if choice.rayjob is not None or choice.slurm is not None:
        return
    if dry_run:
        _describe(loaded, again=again)
        return
    if choice.local is not None:
        _here(loaded, again=again)
        return
    if wait or choice.down:
        _run(cluster, loaded, secrets, again=again)
        return
    with ExitStack() as stack:
        job = _submitted(_jobs(stack, loaded), loaded, secrets, again=again)
    print(f"submitted {job.job_id}; results: {loaded.spec.results}")
    print(f"`loco-sweep logs --follow {cluster}` shows what it does, `loco-sweep status {cluster}` how far it is")


def _to_kubernetes(loaded: LoadedCluster, secrets: Secrets, *, wait: bool, dry_run: bool, again: bool) -> None:
    from orchestrator.submit import rayjob

    if dry_run:
        print(rayjob.manifest(loaded, again=again), end="")
        return
    print(f"created {rayjob.create(loaded, secrets, again=again)}; results: {loaded.spec.results}")
    if not wait:
        return
    state = rayjob.logs(loaded, follow=True)
    # To KubeRay a sweep with failed cells has succeeded, and one that was stopped has failed.
    code = rayjob.driver_code(loaded)
    if code is not None:
        raise typer.Exit(code)
    if state != "SUCCEEDED":
        _tell(loaded, f"its RayJob is {state.lower()}", "`submit` resumes what is left")
        raise ClusterError(f"the RayJob is {state.lower()}; `submit` resumes what is left")


def _to_slurm(cluster: Path, loaded: LoadedCluster, *, wait: bool, dry_run: bool, again: bool) -> None:
    from orchestrator.submit import slurm

    if dry_run:
        print(slurm.preview(loaded, again=again), end="")
        return
    job = slurm.submit(loaded, again=again)
    print(f"submitted job {job.job_id}; results: {loaded.spec.results}")
    if not wait:
        print(f"`loco-sweep logs --follow {cluster}` shows what it does, `loco-sweep status {cluster}` how far it is")
        return
    _print(slurm.logs(loaded, follow=True))
    job = slurm.followed(loaded)
    if job.exit_code is None and not job.state.startswith("CANCELLED"):
        _tell(loaded, f"its job {job.job_id} is {job.state.lower()}", "no driver has ended it; `submit` resumes")
    print(f"job {job.job_id} is {job.state.lower()}; results: {loaded.spec.results}")
    if job.code:
        raise typer.Exit(job.code)


def _run(cluster: Path, loaded: LoadedCluster, secrets: Secrets, *, again: bool) -> None:
    """Submits a job and waits for it; takes its cluster down then, where the file says so."""
    over, why = False, "no job was submitted"
    try:
        with ExitStack() as stack:
            jobs = _jobs(stack, loaded)
            why = "a job may be at work"
            job = _submitted(jobs, loaded, secrets, again=again)
            print(f"submitted {job.job_id}; results: {loaded.spec.results}")
            try:
                _follow(jobs, loaded, job, secrets, again=again)
            finally:
                over = _is_over(jobs)
    finally:
        # Not before the port that is forwarded to the cluster is closed.
        if loaded.spec.cluster.down and over:
            _down(loaded)
        elif loaded.spec.cluster.down:
            print(f"{why}; a cluster that is up stays up: `loco-sweep cancel {cluster}` ends it with its job")


def _jobs(stack: ExitStack, loaded: LoadedCluster) -> Jobs:
    """Returns the jobs on a cluster, which its launcher starts where it is not up."""
    from orchestrator.submit import launcher

    try:
        return stack.enter_context(connected(loaded))
    except ClusterError:
        if loaded.spec.cluster.launcher is None:
            raise
        launcher.up(loaded.path.parent / loaded.spec.cluster.launcher)
        return stack.enter_context(connected(loaded))


def _is_over(jobs: Jobs) -> bool:
    try:
        return jobs.latest().over
    except ClusterError:
        return False


def _down(loaded: LoadedCluster) -> None:
    from orchestrator.submit import launcher

    path = loaded.path.parent / str(loaded.spec.cluster.launcher)
    print(f"no job is at work: taking the cluster down; results: {loaded.spec.results}", flush=True)
    launcher.down(path)


def _bill(loaded: LoadedCluster) -> Iterator[str]:
    """Yields what the sweep will use; results in a bucket are not looked at."""
    from orchestrator.cli.bill import expected_lines
    from orchestrator.face.sweep import outlook_of

    root = loaded.spec.results
    try:
        found = outlook_of(loaded.sweep, None if "://" in root else root)
        yield from expected_lines(found, loaded.spec)
        yield from (f"warning: {printable(warning)}" for warning in found.warnings)
    except LocoError as error:
        # Models may be where only nodes see them.
        yield printable(f"bill:    not known on this machine: {error}")


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


def _submitted(jobs: Jobs, cluster: LoadedCluster, secrets: Secrets, *, again: bool) -> Job:
    from tempfile import TemporaryDirectory

    from orchestrator.submit import bundle, launcher
    from orchestrator.submit.bundle import secrets_file

    # Before secrets are on the head, which only a driver removes.
    jobs.next_attempt()
    with TemporaryDirectory(prefix="loco-sweep-") as folder:
        files = bundle(cluster, Path(folder), again=again)
        if secrets.values and cluster.spec.cluster.launcher is not None:
            launcher.deliver(cluster.path.parent / cluster.spec.cluster.launcher, secrets, secrets_file(cluster))
        try:
            return jobs.submit(cluster, files)
        except BaseException:
            if not _is_at_work(jobs):
                _withdraw(cluster)
            raise


def _is_at_work(jobs: Jobs) -> bool:
    try:
        return any(not job.over for job in jobs.listed())
    except ClusterError:
        return False


def _withdraw(cluster: LoadedCluster, job: Job | None = None) -> None:
    """Removes secrets from the head where a job has ended, or was not begun, and may not have read them."""
    from orchestrator.submit import launcher
    from orchestrator.submit.bundle import secrets_file

    if job is not None and job.state not in ("FAILED", "STOPPED"):
        return
    if cluster.spec.secrets and cluster.spec.cluster.launcher is not None:
        launcher.withdraw(cluster.path.parent / cluster.spec.cluster.launcher, secrets_file(cluster))


def _follow(jobs: Jobs, cluster: LoadedCluster, job: Job, secrets: Secrets, *, again: bool) -> None:
    """Prints what a job prints; where its driver dies, submits the next attempt."""
    from orchestrator.cli.outcome import OVER_BUDGET
    from orchestrator.submit.jobs import exit_code

    for left in range(cluster.spec.retries.driver, -1, -1):
        _print(jobs.follow(job.job_id))
        job = jobs.one(job.job_id)
        _withdraw(cluster, job)
        if not job.died or OVER_BUDGET in jobs.logs(job.job_id):
            break
        again_ = "it is submitted again" if left else "no retries are left, `submit` resumes"
        _tell(cluster, "its driver died", f"{job.job_id}: {job.message}; {again_}")
        if not left:
            raise ClusterError(f"{job.job_id}: the driver died ({job.message}); no retries are left, `submit` resumes")
        print(f"{job.job_id}: the driver died ({job.message}); submitting it again")
        job = _submitted(jobs, cluster, secrets, again=again)
    print(f"{job.job_id} is {job.state.lower()}; results: {cluster.spec.results}")
    if code := exit_code(job):
        raise typer.Exit(code)


def _tell(cluster: LoadedCluster, what: str, why: str) -> None:
    """Sends the message that a driver which was killed could not send."""
    import logging

    from orchestrator.hooks.notify import send

    to = cluster.sweep.notify
    if to is None:
        return
    try:
        title, body = f"loco-sweep: {cluster.spec.name}: {what}", f"{why}. Results: {cluster.spec.results}"
        send(to, title, body, good=False)
    except (LocoError, ModuleNotFoundError) as error:
        logging.getLogger(__name__).warning("notify: %s", error)


def _here(cluster: LoadedCluster, *, again: bool) -> None:
    from orchestrator.cli.options import BackendName
    from orchestrator.cli.outcome import execute

    given, workers = cluster.spec.workers.model_fields_set, cluster.spec.workers
    execute(
        cluster.sweep, cluster.spec.results, BackendName.RAY, None if workers.max == "auto" else workers.max,
        workers.cpus if "cpus" in given else None, None, None, again=again, prices=cluster.spec.cost,
        budget=cluster.spec.budget,
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

"""``doctor CLUSTER.yaml``: one look at every node, by a job on the cluster, and what can be seen from here."""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from loco_core.errors import ClusterError
from orchestrator.backends.node_check import Finding, NodeCheck, found_by, readable, versions
from orchestrator.spec import SweepSpec

if TYPE_CHECKING:
    from orchestrator.submit import LoadedCluster, Secrets

HERE = "here"
MARK = "findings of nodes: "
"""Begins the line of a job with what it has found."""


def examine(file: Path) -> tuple[Finding, ...]:
    """Looks at the nodes of a cluster file.

    Raises:
        SpecError: the file is wrong, or a secret is not set.
        ClusterError: the cluster cannot be reached.
    """
    from orchestrator.submit import adopt_environment, authenticate, collect, load_cluster

    authenticate()
    cluster = load_cluster(file)
    secrets = collect(cluster)
    adopt_environment(cluster)
    return tuple(_findings(cluster, secrets))


def _findings(cluster: LoadedCluster, secrets: Secrets) -> Iterator[Finding]:
    from orchestrator.resolve.repositories import named_repositories

    choice = cluster.spec.cluster
    names = ", ".join(secrets.names) or "none named"
    yield Finding(HERE, "secrets", "ok", names)
    if choice.local is not None:
        yield from look(cluster.sweep, cluster.spec.results, None)
        return
    if choice.address is not None or choice.launcher is not None:
        yield from _by_a_job(cluster, secrets)
        return
    for repository in named_repositories(cluster.sweep):
        yield found_by(HERE, repository, partial(readable, repository))
    yield found_by(HERE, "command", partial(_tool, "kubectl" if choice.rayjob is not None else "sbatch"))
    yield Finding("nodes", "all", "unknown", "they come up with the job, so that nothing of them can be seen before")


def _tool(name: str) -> str:
    if (found := shutil.which(name)) is None:
        raise ClusterError(f"{name} is not found; `loco-sweep submit` needs it")
    return found


def _by_a_job(cluster: LoadedCluster, secrets: Secrets) -> Iterator[Finding]:
    from orchestrator.cli.submit import connected
    from orchestrator.submit import bundle, launcher
    from orchestrator.submit.bundle import SWEEP, secrets_file

    choice = cluster.spec.cluster
    with ExitStack() as stack:
        try:
            jobs = stack.enter_context(connected(cluster))
        except ClusterError as error:
            if choice.launcher is None:
                raise
            yield Finding("nodes", "all", "unknown", f"{error}; `loco-sweep submit` starts the cluster")
            return
        folder = stack.enter_context(TemporaryDirectory(prefix="loco-sweep-"))
        try:
            bundle(cluster, Path(folder))
            words = f"python -m orchestrator.cli.cluster_doctor {SWEEP}"
            if secrets.values and choice.launcher is not None:
                launcher.deliver(cluster.path.parent / choice.launcher, secrets, secrets_file(cluster))
                words += f" '{secrets_file(cluster)}'"
            printed = jobs.ask(words, Path(folder), cluster)
        except ClusterError as error:
            yield Finding("nodes", "all", "problem", str(error))
            return
    line = next((line for line in printed.splitlines() if line.startswith(MARK)), None)
    if line is None:
        said = "its job ended without saying what it found; expected the same version of loco-sweep there as here"
        yield Finding("nodes", "all", "problem", said)
        return
    yield from (Finding(**each) for each in json.loads(line.removeprefix(MARK)))


def look(sweep: SweepSpec, results: str, address: str | None) -> tuple[Finding, ...]:
    """Looks at every node of a Ray.

    Args:
        sweep: the sweep.
        results: results root, absolute.
        address: the Ray; None starts one on this machine.

    Raises:
        LocoError: Ray cannot be joined, or the results root cannot be written.
    """
    from orchestrator.backends.ray.nodes import check_nodes
    from orchestrator.resolve.repositories import named_repositories
    from orchestrator.store import open_store

    # Not the marker of a run, which workers at work would take for another run's.
    blobs, probe = open_store(results).blobs, f"_meta/probe-{uuid.uuid4().hex}"
    blobs.put_if_absent(probe, b"doctor", probe)
    try:
        return check_nodes(NodeCheck(results, probe, named_repositories(sweep), versions()), address)
    finally:
        blobs.delete(probe)


def main() -> None:
    """Looks at the nodes of the cluster that this process runs on, as a job."""
    from loco_core import plugins
    from loco_core.masking import mask_everything
    from orchestrator.spec import load_sweep
    from orchestrator.submit.secrets import receive

    mask_everything()
    if len(sys.argv) > 2:
        receive(Path(sys.argv[2]))
    with plugins.only_named(lambda line: print(line, file=sys.stderr)):
        sweep = load_sweep(sys.argv[1])
        found = look(sweep, str(sweep.results), "auto")
    print(MARK + json.dumps([asdict(each) for each in found]))


if __name__ == "__main__":
    main()

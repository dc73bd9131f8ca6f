"""What travels with a job: the project's packages and the sweep, so that a cluster needs only the dependencies."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from loco_core.errors import SpecError
from loco_core.toyworld import PLANTED_TABLES
from orchestrator.spec import SweepSpec
from orchestrator.submit.cluster_file import LoadedCluster

PACKAGES = ("loco_core", "orchestrator")
LIMIT = 100 * 2**20
"""Ray's dashboard refuses larger uploads (HTTP 413), though its packaging allows 512 MiB."""
SWEEP = "submitted.yaml"
"""Not the name that the user's own file is likely to have."""
_LEFT_OUT = ("__pycache__", "*.pyc", ".git", PLANTED_TABLES.name)


@dataclass(frozen=True)
class Bundle:
    """A folder that becomes the working directory of a job.

    Attributes:
        folder: with the packages and the sweep.
        entrypoint: the job's command.
    """

    folder: Path
    entrypoint: str


def bundle(cluster: LoadedCluster, folder: Path, *, again: bool = False) -> Bundle:
    """Fills a folder with what a job needs.

    Args:
        cluster: the cluster file.
        folder: to be filled.
        again: whether failed cells are computed again.

    Raises:
        SpecError: it would be larger than Ray takes.
    """
    for name in PACKAGES:
        found = find_spec(name)
        assert found is not None
        source = next(iter(found.submodule_search_locations or ()))
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    # JSON is YAML, and writes every number so that it reads back exactly.
    (folder / SWEEP).write_text(traveling(cluster, ".").model_dump_json(exclude_unset=True), encoding="utf-8")
    for path in cluster.code.values():
        shutil.copyfile(path, folder / path.name)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LIMIT:
        raise SpecError(f"the job's files weigh {size / 2**20:.0f} MiB; Ray takes at most {LIMIT // 2**20}")
    return Bundle(folder, command(cluster, SWEEP, again=again))


def traveling(cluster: LoadedCluster, where: str) -> SweepSpec:
    """Returns the sweep as the job finds it: the user's own Python files lie in a folder of the cluster.

    Args:
        cluster: the cluster file.
        where: that folder.
    """
    sweep, there = cluster.sweep, {name: f"{where}/{path.name}" for name, path in cluster.code.items()}
    changes: dict[str, Any] = {"scorer": there.get(sweep.scorer, sweep.scorer)}
    if set(sweep.localize.localizers) & set(there):
        main, *beside = (there.get(name, name) for name in sweep.localize.localizers)
        changes["localize"] = sweep.localize.model_copy(update={"localizer": main, "beside": tuple(beside)})
    if sweep.edit is not None and set(sweep.edit.editors) & set(there):
        editors = tuple(there.get(name, name) for name in sweep.edit.editors)
        lambdas = {there.get(name, name): values for name, values in sweep.edit.method_lambdas.items()}
        changes["edit"] = sweep.edit.model_copy(update={"editors": editors, "method_lambdas": lambdas})
    return sweep.model_copy(update=changes)


def runtime_env(cluster: LoadedCluster) -> dict[str, Any]:
    """Returns Ray's runtime environment of a job, without files."""
    env = cluster.spec.runtime_env
    return {"env_vars": {"PYTHONUNBUFFERED": "1", **env.env_vars}, **({"pip": list(env.pip)} if env.pip else {})}


def command(cluster: LoadedCluster, sweep: str, *, again: bool) -> str:
    """Returns the command of the driver.

    Args:
        cluster: the cluster file.
        sweep: where the driver finds the sweep's file.
        again: whether failed cells are computed again.
    """
    workers, results = cluster.spec.workers, cluster.spec.results
    what = ["run", sweep, "--results", results, *(["--retry"] if again else [])]
    options = ["--address", "auto", "--workers", str(workers.max), "--threads", str(workers.cpus)]
    return shlex.join(["python", "-m", "orchestrator.cli.main", *what, *options])

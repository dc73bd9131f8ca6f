"""What travels with a job: the project's packages and the sweep, so that a cluster needs only the dependencies."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from loco_core import plugins
from loco_core.errors import SpecError
from orchestrator.spec import SweepSpec
from orchestrator.spec.watching import renamed
from orchestrator.submit.cluster_file import LoadedCluster

PACKAGES = ("loco_core", "orchestrator")
LIMIT = 100 * 2**20
"""Ray's dashboard refuses larger uploads (HTTP 413), though its packaging allows 512 MiB."""
SWEEP = "submitted.yaml"
"""Not the name that the user's own file is likely to have."""
CODE = "own-code"
"""Folder of the user's Python files. The job's own folder is where Python looks for modules first: a json.py would hide
the library's from everything that the job runs. No module can have a name with a hyphen."""
_LEFT_OUT = ("__pycache__", "*.pyc", ".git")


@dataclass(frozen=True)
class Bundle:
    """A folder that becomes the working directory of a job.

    Attributes:
        folder: folder with the packages and the sweep.
        entrypoint: the job's command.
    """

    folder: Path
    entrypoint: str


def bundle(cluster: LoadedCluster, folder: Path, *, again: bool = False) -> Bundle:
    """Fills a folder with what a job needs.

    Args:
        cluster: the cluster file.
        folder: folder to be filled.
        again: whether failed cells are computed again.

    Raises:
        SpecError: it would be larger than Ray takes.
    """
    # No job holds a localizer against tables.
    tables = [Path(module.PLANTED_TABLES).name for module in plugins.modules("tables")]
    for name in PACKAGES:
        found = find_spec(name)
        assert found is not None
        source = next(iter(found.submodule_search_locations or ()))
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns(*_LEFT_OUT, *tables))
    # JSON is YAML, and writes every number so that it reads back exactly.
    (folder / SWEEP).write_text(traveling(cluster, f"./{CODE}").model_dump_json(exclude_unset=True), encoding="utf-8")
    (folder / CODE).mkdir()
    for path in cluster.code.values():
        shutil.copyfile(path, folder / CODE / path.name)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LIMIT:
        raise SpecError(f"the job's files weigh {size / 2**20:.0f} MiB; Ray takes at most {LIMIT // 2**20}")
    return Bundle(folder, command(cluster, SWEEP, again=again))


def traveling(cluster: LoadedCluster, where: str) -> SweepSpec:
    """Returns the sweep as the job finds it: the user's own Python files lie in a folder of the cluster.

    Args:
        cluster: the cluster file.
        where: path of that folder.
    """
    sweep, there = cluster.sweep, {name: f"{where}/{path.name}" for name, path in cluster.code.items()}
    changes: dict[str, Any] = {"scorer": there.get(sweep.scorer, sweep.scorer)}
    if set(sweep.localize.localizers) & set(there):
        main, *beside = (there.get(name, name) for name in sweep.localize.localizers)
        changes["localize"] = sweep.localize.model_copy(update={"localizer": main, "compare": tuple(beside)})
    if sweep.edit is not None and set(sweep.edit.editors) & set(there):
        editors = tuple(there.get(name, name) for name in sweep.edit.editors)
        lambdas = {there.get(name, name): values for name, values in sweep.edit.method_lambdas.items()}
        changes["edit"] = sweep.edit.model_copy(update={"editors": editors, "method_lambdas": lambdas})
    changes["hooks"] = renamed(sweep.hooks, lambda name: there.get(name, name))
    if there:
        changes["attributes"] = tuple(
            item
            if isinstance(item, str)
            else item.model_copy(update={"published": {there.get(n, n): texts for n, texts in item.published.items()}})
            for item in sweep.attributes
        )
    return sweep.model_copy(update=changes)


def runtime_env(cluster: LoadedCluster) -> dict[str, Any]:
    """Returns Ray's runtime environment of a job, without files."""
    spec = cluster.spec
    pip = {"pip": list(spec.runtime_env.pip)} if spec.runtime_env.pip else {}
    return {"env_vars": {"PYTHONUNBUFFERED": "1", **spec.environment}, **pip}


def secrets_file(cluster: LoadedCluster) -> str:
    """Returns where the driver finds the secrets that `orchestrator.submit.launcher.deliver` has put there."""
    return f"~/.loco-sweep-{cluster.key}.json"


def command(cluster: LoadedCluster, sweep: str, *, again: bool) -> str:
    """Returns the command of the driver.

    Args:
        cluster: the cluster file.
        sweep: path at which the driver finds the sweep's file.
        again: whether failed cells are computed again.
    """
    workers, results = cluster.spec.workers, cluster.spec.results
    what = ["run", sweep, "--results", results, *(["--retry"] if again else [])]
    if cluster.spec.secrets and cluster.spec.cluster.launcher is not None:
        what += ["--secrets", secrets_file(cluster)]
    most = [] if workers.max == "auto" else ["--workers", str(workers.max)]
    weight = [] if cluster.spec.priority == 1 else ["--priority", f"{cluster.spec.priority:g}"]
    options = ["--address", "auto", *most, *weight, "--threads", str(workers.cpus), *_money(cluster)]
    return shlex.join(["python", "-m", "orchestrator.cli.main", *what, *options])


def _money(cluster: LoadedCluster) -> list[str]:
    """Returns the options with which the driver counts what is used, and stops in time."""
    prices, budget = cluster.spec.cost, cluster.spec.budget
    price = prices.per_gpu_hour
    options = []
    if prices.known:
        text = ",".join(f"{name}={each!r}" for name, each in price.items()) if isinstance(price, dict) else repr(price)
        options += ["--price", text]
    if budget is not None:
        limits = budget.model_dump(include={"cost", "gpu_hours", "hours"}, exclude_none=True)
        options += ["--budget", ",".join(f"{name}={limit!r}" for name, limit in limits.items())]
    return options

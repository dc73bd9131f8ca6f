"""``doctor``: does this machine, or every node of a cluster, have what a sweep needs?"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from loco_core.errors import first_line
from orchestrator.backends.node_check import PACKAGES
from orchestrator.cli.options import JsonOption


def doctor(
    cluster: Annotated[
        Path | None, typer.Argument(help="A cluster file; default: this machine.", metavar="CLUSTER.yaml")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine, or a cluster's nodes.

    Here it looks at packages, devices, Ray and disk; on each node of a cluster that is up at GPU, disk, packages,
    models of the hub that its token may read, and the results root. Exit code 1 says that there is a problem.
    """
    from orchestrator.cli import table

    if cluster is not None:
        from orchestrator.cli.cluster_doctor import examine

        found = [asdict(each) for each in examine(cluster)]
        if as_json:
            print(json.dumps(found))
        else:
            table.show(("node", "check", "state", "details"), [tuple(each.values()) for each in found])
        if any(each["state"] == "problem" for each in found):
            raise typer.Exit(1)
        return
    checks: dict[str, Callable[[], str]] = {
        "python": platform.python_version,
        **{name: lambda name=name: version(name) for name in PACKAGES},  # type: ignore[misc]
        "device": _device,
        "bundled models": _bundled,
        "ray": _ray,
        "disk": _disk,
    }
    found = [{"check": name, **_result(check)} for name, check in checks.items()]
    if as_json:
        print(json.dumps(found))
    else:
        table.show(("check", "state", "details"), [tuple(item.values()) for item in found])
    if any(item["state"] == "problem" for item in found):
        raise typer.Exit(1)


def _result(check: Callable[[], str]) -> dict[str, str]:
    try:
        return {"state": "ok", "details": check()}
    except PackageNotFoundError:
        how = "not installed; `pip install -c constraints.txt loco-sweep` installs it"
        return {"state": "problem", "details": how}
    except Exception as error:  # a broken installation can raise anything; the line says what
        return {"state": "problem", "details": f"{type(error).__name__}: {first_line(error)}"}


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return ", ".join(f"{gpu.name} {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus)
    return f"CPU, {len(os.sched_getaffinity(0))} cores; no GPU that torch sees"


def _bundled() -> str:
    from loco_core import plugins
    from loco_core.diffusion.facts import known_models

    modules = (*plugins.modules("scorers"), *plugins.modules("judges"))
    weights = dict.fromkeys(folder for module in modules if isinstance(folder := getattr(module, "WEIGHTS", ""), Path))
    folders = [*(info.path for _, info in known_models().values() if info.path), *weights]
    missing = [folder.name for folder in folders if not any(folder.rglob("*.safetensors"))]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} missing; `python -m loco_core.toyworld.train` makes them")
    return ", ".join(folder.name for folder in folders)


def _ray() -> str:
    from orchestrator.backends.ray.backend import RayBackend

    backend = RayBackend(str, workers=1, threads=1)  # type: ignore[arg-type]
    backend.shutdown()
    return f"{version('ray')} starts and stops"


def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < 2:
        raise OSError(f"{free:.1f} GB free here; expected at least 2 GB")
    return f"{free:.0f} GB free here"

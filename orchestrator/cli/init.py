"""``init``: write a starter sweep, or the files of a kind of cluster, to be filled in."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import at_home

STARTER = Path(__file__).parent / "starter.yaml"


class Kind(StrEnum):
    """Kinds of clusters that there are files for."""

    AWS = "aws"
    GCP = "gcp"
    ONPREM = "onprem"
    SLURM = "slurm"
    KUBERAY = "kuberay"
    SKYPILOT = "skypilot"


def init(
    kind: Annotated[
        Kind | None, typer.Argument(help="Kind of the cluster; without it, only sweep.yaml is written.")
    ] = None,
    folder: Annotated[Path, typer.Option("--folder", help="Folder for the files.", callback=at_home)] = Path(),
) -> None:
    """Write a starter sweep, or cluster files.

    For a kind of cluster these are cluster.yaml, sweep.yaml, a Grafana board, and what else it needs.
    """
    from importlib.resources import files

    from loco_core.errors import SpecError
    from orchestrator.spec.json_schema import with_schemas

    if kind is None:
        found = {"sweep.yaml": STARTER.read_bytes()}
    else:
        templates = files("cluster")
        items = (templates / "sweep.yaml", templates / "grafana.json", *(templates / kind.value).iterdir())
        found = {item.name: item.read_bytes() for item in items}
    found = with_schemas(found)
    there = [name for name in sorted(found) if (folder / name).exists()]
    if there:
        raise SpecError(f"{folder / there[0]} exists already; name another folder with --folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in sorted(found.items()):
            (folder / name).write_bytes(content)
            print(folder / name)
    except OSError as error:
        raise SpecError(f"{folder} cannot be written: {error.strerror}") from error
    if kind is None:
        sweep = folder / "sweep.yaml"
        print(f"`loco-sweep plan {sweep}` says what it takes, `loco-sweep run {sweep}` runs it")

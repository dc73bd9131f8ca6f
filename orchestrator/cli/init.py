"""``init``: write out the files of a kind of cluster, to be filled in."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import at_home


class Kind(StrEnum):
    """Kinds of clusters that there are files for."""

    AWS = "aws"
    GCP = "gcp"
    ONPREM = "onprem"
    SLURM = "slurm"
    KUBERAY = "kuberay"


def init(
    kind: Annotated[Kind, typer.Argument(help="What the sweep is to run on.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where the files go.", callback=at_home)] = Path(),
) -> None:
    """Write cluster.yaml, a sweep, a Grafana board, and what else a kind of cluster needs."""
    from importlib.resources import files

    from loco_core.errors import SpecError

    templates = files("cluster")
    shared = (templates / "sweep.yaml", templates / "grafana.json")
    found = {item.name: item for item in (*shared, *(templates / kind.value).iterdir())}
    there = [name for name in sorted(found) if (folder / name).exists()]
    if there:
        raise SpecError(f"{folder / there[0]} exists already; name another folder with --folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, item in sorted(found.items()):
            (folder / name).write_bytes(item.read_bytes())
            print(folder / name)
    except OSError as error:
        raise SpecError(f"{folder} cannot be written: {error.strerror}") from error

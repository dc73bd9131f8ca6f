"""``prefetch``: models of a sweep into this machine's cache of the hub, before workers need them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loco_core.errors import ModelError
from orchestrator.cli.options import JsonOption, Overrides, SweepFile
from orchestrator.face.progress import size

if TYPE_CHECKING:
    from orchestrator.spec import Source, SweepSpec


def prefetch(
    sweep: SweepFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be fetched, with sizes; only small files are.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch the models of a sweep into the cache.

    Only the files that are loaded are fetched, at the commit that a run would pin now. Of a cluster file the keys of
    `cache` apply. Workers need no such command: the first one on a node fetches, and the others wait.
    """
    from orchestrator.cli import table
    from orchestrator.face.sweep import placed

    spec, source = _read(sweep, overrides)
    # The hub's client reads the environment, in which a cluster file may name a cache, when it is imported.
    from loco_core.diffusion.hub import local_folder, outlined
    from orchestrator.resolve.repositories import repositories

    with placed(source):
        found = [(each, outlined(each.path, each.revision, each.needs)) for each in repositories(spec)]
    rows = [
        {
            "repository": each.path, "revision": each.revision, "files": len(files),
            "bytes": sum(file.size for file in files),
            "missing_bytes": sum(file.size for file in files if not file.here),
        }
        for each, files in found
    ]  # fmt: skip
    if as_json:
        print(json.dumps(rows))
    elif not rows:
        print("no model of this sweep comes from the hub")
    else:
        sizes = [(row["repository"], str(row["revision"])[:8], row["files"], size(row["bytes"]),
                  size(row["missing_bytes"])) for row in rows]  # fmt: skip
        table.show(
            ("repository", "commit", "files", "size", "to fetch"), sizes, right=("files", "size", "to fetch")
        )  # fmt: skip
    if dry_run or not rows:
        return
    _check_room(sum(int(str(row["missing_bytes"])) for row in rows))
    for each, _ in found:
        folder = local_folder(each.path, each.revision, each.needs)
        if not as_json:
            print(f"{each.path} is in {folder}")


def _read(sweep: Path, overrides: list[str] | None) -> tuple[SweepSpec, Source | None]:
    from orchestrator.cli.places import kind_of, sweep_of

    if str(sweep) != "-" and sweep.is_file() and kind_of(sweep) == "cluster":
        from orchestrator.submit import load_cluster

        cluster = load_cluster(sweep, overrides or ())
        os.environ.update(cluster.spec.cache.environment)
        return cluster.sweep, None
    return sweep_of(sweep, overrides)


def _check_room(needed: int) -> None:
    """Refuses a disk that is too small before anything is fetched."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise ModelError(
            f"{cache}: {size(free)} free, and {size(needed)} are to be fetched; free some, or let HF_HOME "
            "(cache.path of a cluster file) name another folder"
        )

"""``reproduce``: sweeps that repeat a published work, next to what it published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import (
    AddressOption,
    BackendName,
    BackendOption,
    MaxFailuresOption,
    ResultsOption,
    ThreadsOption,
    WorkersOption,
    at_home,
)

TRIED = "not yet run on real weights"
"""Of every preset: what a table of the published models gave would stand here."""


def reproduce(
    preset: Annotated[str | None, typer.Argument(help="Name of the preset; without it, all are listed.")] = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", help="Write the sweep to this file; run nothing.", metavar="FILE", callback=at_home),
    ] = None,
    results: ResultsOption = None,
    backend: BackendOption = BackendName.RAY,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    address: AddressOption = None,
    max_failures: MaxFailuresOption = None,
    again: Annotated[bool, typer.Option("--retry", help="Also compute failed cells again.")] = False,
) -> None:
    """Repeat a published localization.

    The report shows the published values next to those that are measured.
    """
    from loco_core.errors import SpecError
    from orchestrator.cli.run import run
    from orchestrator.presets import preset_file

    if preset is None:
        if write is not None:
            raise SpecError("--write: say which preset; `loco-sweep reproduce` lists them")
        _list()
        return
    file = preset_file(preset)
    if write is None:
        print(f"running {file}; Ctrl-C stops, the same command resumes")
        run(str(file), None, results, backend, workers, threads, address, max_failures, again)
        return
    try:
        with write.open("x", encoding="utf-8") as target:
            target.write(file.read_text(encoding="utf-8"))
    except FileExistsError:
        raise SpecError(f"{write} exists already; name another file with --write") from None
    except OSError as error:
        raise SpecError(f"{write} cannot be written: {error.strerror}") from error
    print(f"{write}: change it as you like, then `loco-sweep run {write}`, or name it in a cluster file")


def _list() -> None:
    from orchestrator.presets import preset_file, presets
    from orchestrator.resolve.lookup import outline
    from orchestrator.spec import load_sweep
    from orchestrator.stages.sweep.variants import windows

    for name, published in presets().items():
        spec = load_sweep(preset_file(name))
        (model,) = outline(spec).models
        print(
            f"{name}: {model.id}, {len(spec.attributes)} attributes, {len(windows(spec, model.n_sites))} windows, "
            f"{spec.prompts} prompts, {len(spec.seeds)} seeds; {TRIED}"
        )
        print(f"  {published.work}")
        if published.smallest is not None:
            print(f"  published: the smallest window has {published.smallest.size} sites ({published.smallest.source})")
        for item in published.windows:
            sites = f"{item.start}-{item.start + item.size - 1}"
            print(f"  published: {', '.join(item.attributes)} at sites {sites} ({item.source})")
        for note in published.notes:
            print(f"  {note}")
    print("`loco-sweep reproduce NAME` runs one; with `--write FILE` it is written out, to be changed or submitted")

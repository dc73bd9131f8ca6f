"""``models`` and ``attributes``: what can be named in a sweep."""

from __future__ import annotations

from typing import Annotated

import typer


def models(name: Annotated[str | None, typer.Argument(help="Show the sites of one model.")] = None) -> None:
    """List the models that a sweep can name."""
    from rich.console import Console
    from rich.table import Table

    from loco_core.models import families, known_models

    if name is not None:
        _sites(name)
        return
    known = families()
    table = Table(title="Models")
    for column in ("id", "family", "status", "where", "memory"):
        table.add_column(column)
    for model, (family, info) in sorted(known_models().items()):
        facts = known[family]
        bundled = info.path is not None
        where = "bundled" if bundled else f"{info.hub_id} @ {(info.revision or 'main')[:8]}"
        table.add_row(
            model, family, facts.status, where, "1 GB (CPU)" if bundled else f"{facts.gigabytes:.0f} GB (GPU)"
        )
    Console().print(table)


def _sites(name: str) -> None:
    from orchestrator.resolve import resolve_model
    from orchestrator.spec import ModelSpec

    resolved = resolve_model(ModelSpec(id=name))
    print(f"{name}: {resolved.n_sites} cross-attention sites in execution order")
    for index, site in enumerate(resolved.site_names):
        print(f"{index:3d}  {site}")


def attributes(name: Annotated[str | None, typer.Argument(help="Show the prompts of one attribute.")] = None) -> None:
    """List the attributes that a sweep can name."""
    from loco_core.attributes import attribute, bundled

    if name is None:
        for key, item in sorted(bundled().items()):
            print(f"{key:24} {item.mode:8} {len(item.records):3d} prompts")
        return
    for record in attribute(name).records:
        print(f"{record.prompt}  |  donor: {record.donor}")

"""``models`` and ``attributes``: what can be named in a sweep."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def models(name: Annotated[str | None, typer.Argument(help="Show the sites of one model.")] = None) -> None:
    """List the models that a sweep can name."""
    from rich.table import Table

    from loco_core.models import families, known_models
    from orchestrator.cli.terminal import console

    if name is not None:
        _sites(name)
        return
    known = families()
    table = Table(title="Models")
    for column in ("id", "sites", "status", "memory", "where"):
        table.add_column(column, justify="right" if column == "sites" else "left", overflow="fold")
    for model, (family, info) in sorted(known_models().items(), key=lambda item: (item[1][0], item[0])):
        facts = known[family]
        bundled = info.path is not None
        where = "bundled" if bundled else f"{info.hub_id} @ {(info.revision or 'main')[:8]}"
        memory = "1 GB (CPU)" if bundled else f"{info.gigabytes or '?'} GB (GPU)"
        table.add_row(model, str(len(_names(model)) or "?"), "bundled" if bundled else facts.status, memory, where)
    console().print(table)
    for key, facts in known.items():
        print(f"{key} ({', '.join(facts.pipelines)}, {facts.status})")
        print(f"  text: {facts.encoders}")
        print(f"  pooled text: {facts.pooled or 'none'}")
        print(f"  edits: {facts.editable}")
    print("Memory: of one image at half precision.")
    print("Experimental: its engine is tested on small pipelines, not yet on the published weights.")


def _names(model: str) -> tuple[str, ...]:
    """Returns a model's sites, of one that is not here as its publication tells them; none where nobody does."""
    from loco_core.models import families, find_model

    family, info = find_model(model)
    facts = families()[family]
    if info.path is None:
        return facts.site_names(dict(info.published)) if info.published else ()
    return facts.site_names(json.loads((info.path / facts.config_file).read_text(encoding="utf-8")))


def _sites(name: str) -> None:
    from loco_core.localizers import LocalizeSettings
    from loco_core.models import families, find_model

    names, facts = _names(name), families()[find_model(name)[0]]
    print(f"{name}: {len(names)} sites in execution order ({facts.status}); edits: {facts.editable}")
    if names:
        print(f"window sizes where a sweep names none: {', '.join(map(str, LocalizeSettings().sizes(len(names))))}")
    if second := find_model(name)[1].super_resolution:
        print(
            f"second stage, which enlarges images: `super_resolution: {second}`, or any {facts.super_resolution_class}"
        )
    for index, site in enumerate(names):
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

"""``models`` and ``attributes``: what can be named in a sweep."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from orchestrator.cli.options import JsonOption

STATUS = """\
Status is about the code. All families pass the same tests, on small random pipelines; none was run on published
weights. Supported: sites read text of CLIP, as in most models of the paper. Experimental: sites read only T5 or
Gemma, so that less is known of how well swaps and edits work."""


def models(
    name: Annotated[str | None, typer.Argument(help="Show the sites of this model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List models, or the sites of one."""
    from loco_core.diffusion.model import families
    from orchestrator.cli import table

    if name is not None:
        _print_model(_model(name), as_json)
        return
    found, known = [_model(model) for model in _by_family()], families()
    if as_json:
        print(json.dumps(found))
        return
    table.show(
        ("id", "sites", "status", "memory", "where"),
        [
            (
                item["id"], len(item["sites"]) or "?", item["status"], item["memory"],
                f"{item['where']} @ {item['revision'][:8]}" if item["revision"] else item["where"],
            )
            for item in found
        ],
        title="Models", right=("sites",),
    )  # fmt: skip
    for key, facts in known.items():
        print(f"{key} ({', '.join(facts.pipelines)}, {facts.status})")
        print(f"  text: {facts.encoders}")
        print(f"  pooled text: {facts.pooled or 'none'}")
        print(f"  edits: {facts.editable}")
    print("Memory: of one image at half precision.")
    print(STATUS)


def _by_family() -> list[str]:
    from loco_core.diffusion.model import known_models

    return [name for name, _ in sorted(known_models().items(), key=lambda item: (item[1][0], item[0]))]


def _model(name: str) -> dict[str, Any]:
    """Returns what is known of a model by its name."""
    from loco_core.diffusion.model import families, find_model
    from loco_core.localization.base import LocalizeSettings

    family, info = find_model(name)
    facts, sites, bundled = families()[family], _names(name), info.path is not None
    return {
        "id": name, "family": family, "status": "bundled" if bundled else facts.status,
        "memory": "1 GB (CPU)" if bundled else f"{info.gigabytes or '?'} GB (GPU)",
        "where": "bundled" if bundled else info.hub_id, "revision": None if bundled else info.revision or "main",
        "sites": list(sites), "window_sizes": list(LocalizeSettings().sizes(len(sites))) if sites else [],
        "edits": facts.editable, "second_stage": info.super_resolution or None,
        "second_stage_class": facts.super_resolution_class if info.super_resolution else None,
    }  # fmt: skip


def _names(model: str) -> tuple[str, ...]:
    """Returns a model's sites, of one that is not here as its publication tells them; none where nobody does."""
    from loco_core.diffusion.model import families, find_model

    family, info = find_model(model)
    facts = families()[family]
    if info.path is None:
        return facts.site_names(dict(info.published)) if info.published else ()
    return facts.site_names(json.loads((info.path / facts.config_file).read_text(encoding="utf-8")))


def _print_model(model: dict[str, Any], as_json: bool) -> None:
    from orchestrator.cli import table

    if as_json:
        print(json.dumps(model))
        return
    sites = model["sites"]
    print(f"{model['id']}: {len(sites)} sites in execution order ({model['status']}); edits: {model['edits']}")
    if sites:
        print(f"window sizes where a sweep names none: {', '.join(map(str, model['window_sizes']))}")
    if second := model["second_stage"]:
        print(
            f"second stage, which enlarges images: `super_resolution: {second}`, or any {model['second_stage_class']}"
        )
    table.show(("site", "name"), list(enumerate(sites)), right=("site",))


def attributes(
    name: Annotated[str | None, typer.Argument(help="Show the prompts of this attribute.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List attributes, or the prompts of one."""
    from loco_core.attributes import attribute, bundled, made_for
    from orchestrator.cli import table

    if name is not None:
        records = [{"prompt": record.prompt, "donor": record.donor} for record in attribute(name).records]
        if as_json:
            print(json.dumps(records))
            return
        table.show(("prompt", "donor"), [tuple(record.values()) for record in records])
        return
    # Attributes of the bundled toy world mean nothing to other models, and the other way round.
    found = [
        {"attribute": key, "for": "toy models" if made_for(key) else "real models", "mode": item.mode,
         "prompts": len(item.records)}
        for key, item in sorted(bundled().items(), key=lambda item: (made_for(item[0]), item[0]))
    ]  # fmt: skip
    if as_json:
        print(json.dumps(found))
        return
    table.show(("attribute", "for", "mode", "prompts"), [tuple(item.values()) for item in found], right=("prompts",))

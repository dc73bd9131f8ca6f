"""``models`` and ``attributes``: what can be named in a sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loco_core.errors import printable
from orchestrator.cli.options import JsonOption

if TYPE_CHECKING:
    from loco_core.checking.certificate import Certificate

STATUS = """\
Status: what `loco-sweep check` found with the weights of a model, here (certificates/) or in the certificates that
ship with the project. All families pass the same tests on small random pipelines, whatever their models' status."""


def models(
    name: Annotated[str | None, typer.Argument(help="Show the sites of this model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List models, or the sites of one."""
    from loco_core.diffusion.facts import families
    from orchestrator.cli import table
    from orchestrator.runs.certificates import known_certificates

    certificates = known_certificates()
    if name is not None:
        _print_model(_model(name, certificates), as_json)
        return
    found, known = [*(_model(each, certificates) for each in _by_family()), *_others(certificates)], families()
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
        print(f"{key} ({', '.join(facts.pipelines)})")
        print(f"  text: {facts.encoders}")
        print(f"  pooled text: {facts.pooled or 'none'}")
        print(f"  edits: {facts.editable}")
    print("Memory: of one image at half precision.")
    print(STATUS)


def _by_family() -> list[str]:
    from loco_core.diffusion.facts import known_models

    return [name for name, _ in sorted(known_models().items(), key=lambda item: (item[1][0], item[0]))]


def _model(name: str, known: Sequence[Certificate]) -> dict[str, Any]:
    """Returns what is known of a model by its name."""
    from loco_core.diffusion.facts import families, find_model

    family, info = find_model(name)
    facts, bundled = families()[family], info.path is not None
    return {
        **_entry(name, family, _names(name), _certificates(name, known)),
        "memory": "1 GB (CPU)" if bundled else f"{info.gigabytes or '?'} GB (GPU)",
        "where": "bundled" if bundled else info.hub_id, "revision": None if bundled else info.revision or "main",
        "edits": facts.editable, "second_stage": info.super_resolution or None,
        "second_stage_class": facts.super_resolution_class if info.super_resolution else None,
    }  # fmt: skip


def _certificates(name: str, known: Sequence[Certificate]) -> tuple[Certificate, ...]:
    """Returns the certificates of a model, of one that is bundled only those of its very weights."""
    from functools import partial

    from loco_core.diffusion.facts import find_model, left_out
    from loco_core.diffusion.folders import pipeline_files
    from loco_core.diffusion.weights import weights_hash
    from orchestrator.runs.certificates import of_model

    family, info = find_model(name)
    if info.path is None:
        return of_model(known, source=info.hub_id)
    files_of = partial(pipeline_files, left_out=left_out(family))
    return of_model(known, weights=weights_hash(str(info.path), None, files_of))


def _others(known: Sequence[Certificate]) -> list[dict[str, Any]]:
    """Returns what is known of models that have no name here, and that were checked."""
    from loco_core.diffusion.facts import families, known_models
    from orchestrator.runs.certificates import of_model

    hub = {info.hub_id for _, info in known_models().values()}
    newest = {each.weights: each for each in reversed(known)}
    others = [each for each in newest.values() if each.source not in hub and each.model not in known_models()]
    return [
        {
            **_entry(each.model, each.family, each.sites, of_model(known, weights=each.weights)),
            "memory": f"{each.gigabytes:.0f} GB (GPU)" if each.gigabytes else "?", "where": each.source,
            "revision": None, "edits": facts.editable if (facts := families().get(each.family)) else None,
            "second_stage": None, "second_stage_class": None,
        }
        for each in others
    ]  # fmt: skip


def _entry(name: str, family: str, sites: Sequence[str], certificates: Sequence[Certificate]) -> dict[str, Any]:
    """Returns what any model is listed with."""
    from loco_core.localization.base import LocalizeSettings
    from orchestrator.runs.certificates import status_of

    return {
        "id": name, "family": family, "status": status_of(certificates),
        "certificates": [each.line for each in certificates], "sites": list(sites),
        "window_sizes": list(LocalizeSettings().sizes(len(sites))) if sites else [],
    }  # fmt: skip


def _names(model: str) -> tuple[str, ...]:
    """Returns a model's sites, of one that is not here as its publication tells them; none where nobody does."""
    from loco_core.diffusion.facts import families, find_model

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
    for line in model["certificates"]:
        print(printable(line))
    if not model["certificates"]:
        print(f"`loco-sweep check {model['id']}` checks it in minutes")
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

"""What may change in a sweep that already has results: its axes may grow, its settings may not change."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from loco_core.errors import SpecError
from orchestrator.spec.attributes import AttributeSpec
from orchestrator.spec.beside import DonorSpec
from orchestrator.spec.model import ModelSpec, SuperResolutionSpec
from orchestrator.spec.places import name_of
from orchestrator.spec.sweep import SweepSpec


def check_compatible(old: SweepSpec, new: SweepSpec) -> None:
    """Refuses a spec that does not go on from the results of another one.

    Models, attributes, windows, prompts, seeds, controls and interventions may be added. Batch size, length of units,
    worker needs, where a model's weights wait (``engine.offload``, ``engine.device_map``), which images are kept, rules
    of the localizer, hooks, messages and all folders are free: models and scorers are told apart by their weights,
    wherever they lie. All else would put different things into one table: what else an engine says changes the last
    bits of images, or with ``vae_tiling`` more, as another dtype does.

    Args:
        old: the spec that the results were made with.
        new: the spec at hand.

    Raises:
        SpecError: with the differences and the way out.
    """
    differences = list(_differences(old, new))
    if differences:
        shown = "; ".join(differences)
        raise SpecError(
            f"these results were made with another spec: {shown}. "
            "Put these back as they were (in the file, or as KEY=VALUE of the command), or write to a new folder: "
            "--results, or results: of a cluster file"
        )


def _differences(old: SweepSpec, new: SweepSpec) -> Iterator[str]:
    yield from _changed("name", old.name, new.name)
    yield from _changed("scorer", name_of(old.scorer), name_of(new.scorer))
    before, after = old.generation.model_dump(), new.generation.model_dump()
    for key in before.keys() - {"batch_size", "unit_seconds"}:
        yield from _changed(f"generation.{key}", before[key], after[key])
    yield from _models(old, new)
    yield from _attributes(old, new)
    if new.prompts < old.prompts:
        yield f"prompts {old.prompts} -> {new.prompts} (may only grow)"
    yield from _dropped("seeds", old.seeds, new.seeds)
    if old.windows.sizes is None or new.windows.sizes is None:
        # Which sizes those of the models are is not known here.
        yield from _changed("windows.sizes", old.windows.sizes, new.windows.sizes)
        if old.windows.sizes == new.windows.sizes:
            # Up to this share they go where they are not named.
            yield from _changed("localize.max_share", old.localize.max_share, new.localize.max_share)
    else:
        yield from _dropped("windows.sizes", old.windows.sizes, new.windows.sizes)
    if old.windows.stride % new.windows.stride:
        yield f"windows.stride {old.windows.stride} -> {new.windows.stride} (must divide the old one)"
    yield from _dropped("interventions", old.interventions, new.interventions)
    yield from _controls(old, new)


def _models(old: SweepSpec, new: SweepSpec) -> Iterator[str]:
    kept = {model.id: model for model in new.models}
    yield from _dropped("models", (model.id for model in old.models), kept)
    for model in old.models:
        if model.id in kept:
            for key in sorted(ModelSpec.model_fields.keys() - {"id", "worker", "engine"}):
                before, after = getattr(model, key), getattr(kept[model.id], key)
                moved = _in_folder(before) or _in_folder(after) or _kept(before) == _kept(after)
                if not moved or (key in ("super_resolution", "donor") and None in (before, after)):
                    yield from _changed(f"models.{model.id}.{key}", before, after)
            engine, now = model.engine.model_dump(), kept[model.id].engine.model_dump()
            for key in sorted(engine.keys() - {"offload", "device_map"}):
                yield from _changed(f"models.{model.id}.engine.{key}", engine[key], now[key])


def _kept(value: Any) -> Any:
    """Returns what has to stay as it is: of LoRAs and words not where their files lie, as their content is held."""
    if isinstance(value, tuple):
        return tuple(item.model_copy(update={"path": ""}) if isinstance(item, BaseModel) else item for item in value)
    return value


def _in_folder(value: Any) -> bool:
    """Tells whether a model lies in a folder, which may lie elsewhere tomorrow; its weights are held instead."""
    path = value.path if isinstance(value, SuperResolutionSpec | DonorSpec) else value
    return isinstance(path, str) and os.path.isabs(path)


def _attributes(old: SweepSpec, new: SweepSpec) -> Iterator[str]:
    kept = {_label(attribute): attribute for attribute in new.attributes}
    yield from _dropped("attributes", (_label(attribute) for attribute in old.attributes), kept)
    for before in old.attributes:
        after = kept.get(_label(before))
        if after is None or before == after:
            continue
        if isinstance(before, str) or isinstance(after, str):
            yield f"attributes.{_label(before)} bundled in one, written out in the other"
        elif before.mode != after.mode:
            yield from _changed(f"attributes.{before.label}.mode", before.mode, after.mode)
        elif before.siblings != after.siblings:
            yield from _changed(f"attributes.{before.label}.siblings", before.siblings, after.siblings)
        elif after.records[: old.prompts] != before.records[: old.prompts]:
            yield f"attributes.{before.label}.records differ among the first {old.prompts} (new ones go to the end)"


def _controls(old: SweepSpec, new: SweepSpec) -> Iterator[str]:
    before, after = old.controls.model_dump(), new.controls.model_dump()
    for key, value in before.items():
        if after[key] < value:
            yield f"controls.{key} {_show(value)} -> {_show(after[key])} (may only grow)"


def _label(attribute: str | AttributeSpec) -> str:
    return attribute if isinstance(attribute, str) else attribute.label


def _changed(key: str, before: Any, after: Any) -> Iterator[str]:
    if before != after:
        yield f"{key} {_show(before)} -> {_show(after)}"


def _dropped(key: str, before: Iterable[Any], after: Iterable[Any]) -> Iterator[str]:
    kept = set(after)
    gone = [_show(value) for value in before if value not in kept]
    if gone:
        more = f" and {len(gone) - 5} more" if len(gone) > 5 else ""
        yield f"{key} lacks {', '.join(gone[:5])}{more}, which the results have (may only grow)"


def _show(value: Any) -> str:
    if isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
        return ", ".join(map(str, value))
    return "default" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

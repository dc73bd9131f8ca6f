"""Which edits a sweep asks for, candidates and what they are held against: pure, and the same on every machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loco_core.attributes import bundled, siblings
from loco_core.editors import EditSettings, Targets, editor_code, method, published
from loco_core.types import Attribute, Window
from orchestrator import identity
from orchestrator.edit_plan import PlannedEdit, Scope
from orchestrator.resolve import ResolvedModel
from orchestrator.spec import EditSpec, SweepSpec
from orchestrator.spec.places import name_of
from orchestrator.splits import splits

TARGETS: tuple[Targets, ...] = ("published", "paired")
"""What is fitted where a sweep does not say."""


def candidates(
    spec: SweepSpec,
    model: ResolvedModel,
    attribute: Attribute,
    sites: tuple[int, ...],
    scope: Scope,
    editor: str = "",
) -> list[PlannedEdit]:
    """Returns every edit that the spec asks for at some sites.

    Args:
        spec: the sweep.
        model: what is edited.
        attribute: what is removed or replaced.
        sites: where.
        scope: of the edits.
        editor: the method that puts its edits there itself; empty means all editors that edit where they are told to.
    """
    listed = [
        item for item in _settings(spec, attribute) if (item.editor == editor if editor else not method(item.editor))
    ]
    return [planned_edit(spec, model, attribute, settings, scope, sites) for settings in listed]


def methods(spec: SweepSpec) -> tuple[str, ...]:
    """Returns the published methods among a sweep's editors: those that put their edits where they belong."""
    return tuple(editor for editor in (spec.edit or EditSpec()).editors if method(editor))


def _settings(spec: SweepSpec, attribute: Attribute) -> Iterator[EditSettings]:
    wanted = spec.edit or EditSpec()
    targets = wanted.targets or TARGETS
    for editor in wanted.editors:
        known, fixed = published(editor), method(editor)
        preserve = wanted.preserve if fixed and fixed.preserves else 0
        if known and "published" in targets and attribute.published_records(editor):
            for strength in wanted.method_lambdas.get(editor, (known.strength,)):
                yield EditSettings(
                    editor=editor, targets="published", tokens=known.tokens, strength=strength, preserve=preserve
                )
        if known and "paired" not in targets:
            continue
        if fixed:
            for strength in wanted.method_lambdas.get(editor, (fixed.strength,)):
                yield EditSettings(editor=editor, tokens=fixed.tokens, strength=strength, preserve=preserve)
        elif editor == "neurons":
            for tokens, neurons in product(wanted.neuron_tokens, wanted.neurons):
                yield EditSettings(
                    editor=editor, tokens=tokens, neurons=neurons, fill=wanted.fill,
                    guidance_half=wanted.guidance_half,
                )  # fmt: skip
        else:
            for tokens, strength in product(wanted.tokens, wanted.lambdas):
                yield EditSettings(editor=editor, tokens=tokens, strength=strength, preserve=wanted.preserve)


def baselines(
    spec: SweepSpec, model: ResolvedModel, attribute: Attribute, chosen: Sequence[PlannedEdit]
) -> list[PlannedEdit]:
    """Returns what chosen edits are held against.

    All sites that admit an edit over every strength of the chosen token set; the chosen settings at every window of
    such sites of the same size that shares none with the localized one; a placebo of equal norm for closed-form edits,
    as many random neurons for neurons. Of methods that say themselves where they edit the placebo alone.
    """
    found: list[PlannedEdit] = []
    for edit in chosen:
        if method(edit.settings.editor):
            found.append(planned_edit(spec, model, attribute, edit.settings, "placebo", edit.sites, base=edit.edit_id))
            continue
        alike = [item for item in _settings(spec, attribute) if _form(item) == _form(edit.settings)]
        every = model.editable_sites
        found += [planned_edit(spec, model, attribute, settings, "all_sites", every) for settings in alike]
        if spec.evaluate.windows:
            own = Window(edit.sites[0], len(edit.sites))
            windows = (Window(start, own.size) for start in range(model.n_sites - own.size + 1))
            found += [
                planned_edit(spec, model, attribute, edit.settings, "window", window.sites)
                for window in windows
                if not window.overlaps(own) and set(window.sites) <= set(every)
            ]
        scope: Scope = "random" if edit.settings.editor == "neurons" else "placebo"
        found.append(planned_edit(spec, model, attribute, edit.settings, scope, edit.sites, base=edit.edit_id))
    return found


def _form(settings: EditSettings) -> tuple[str, ...]:
    return settings.editor, settings.targets, settings.tokens


def planned_edit(
    spec: SweepSpec,
    model: ResolvedModel,
    attribute: Attribute,
    settings: EditSettings,
    scope: Scope,
    sites: tuple[int, ...],
    base: str = "",
) -> PlannedEdit:
    """Names an edit by everything that changes its weights."""
    as_published = settings.targets == "published"
    records = attribute.published_records(settings.editor) if as_published else splits(attribute, spec.prompts)["fit"]
    texts = tuple(f"{record.prompt}\n{record.donor}" for record in records)
    if settings.preserve:
        # The nearest of other attributes are other ones.
        swept = (bundled()[item] if isinstance(item, str) else item.attribute for item in spec.attributes)
        texts += tuple(sorted(alike(swept, attribute)))
    kind = scope if scope in ("placebo", "random") else ""
    code = editor_code(settings.editor)
    # Of a file its content counts, not the folder that it lies in.
    does = {**settings.model_dump(), "editor": name_of(settings.editor)}
    key = identity.EditKey(model.weights, model.dtype, texts, sites, does, kind, model.engine.bits, code)
    return PlannedEdit(identity.edit_id(key), settings, scope, sites, base, code)


def alike(swept: Iterable[Attribute], attribute: Attribute) -> dict[str, Attribute]:
    """Returns the attributes that may be neighbours of one, by key: of its kind, swept or bundled in the same file.

    Args:
        swept: the attributes of the sweep.
        attribute: whose neighbours are asked for.
    """
    known = {item.key: item for item in (*swept, *siblings(attribute.key))}
    return {key: item for key, item in known.items() if item.kind == attribute.kind and key != attribute.key}


def restored(spec: SweepSpec, model: ResolvedModel, attribute: Attribute, row: Mapping[str, Any]) -> PlannedEdit | None:
    """Returns the edit of a row of ``edits``; None where this sweep no longer makes it.

    An edit is fitted again where it is measured, so it must come out as it was: it does not where the sweep takes more
    prompts now than when it was fitted, the model's weights are others, or the editor's file is gone or another.
    """
    # Rows of an older version do not say their settings: they are those of the sweep, or they are lost.
    written = row["settings"]
    try:
        options = [EditSettings.model_validate_json(written)] if written else _settings(spec, attribute)
    except ValidationError:
        # Of a newer version, which has editors that this one does not know.
        return None
    sites, base = tuple(row["site_indices"]), row["base"] or ""
    for settings in options:
        if settings.editor.endswith(".py") and not Path(settings.editor).is_file():
            continue
        edit = planned_edit(spec, model, attribute, settings, row["scope"], sites, base)
        if edit.edit_id == row["edit_id"]:
            return edit
    return None

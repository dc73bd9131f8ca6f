"""Which edits a sweep asks for, candidates and what they are held against: pure, and the same on every machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loco_core.attributes import bundled, siblings
from loco_core.editing.base import Baseline, EditSettings, Setting, Targets, editor_code, editor_info
from loco_core.editing.splits import splits
from loco_core.types import Attribute, Window
from orchestrator import identity
from orchestrator.resolve.resolved import ResolvedModel
from orchestrator.spec import EditSpec, SweepSpec
from orchestrator.spec.places import name_of
from orchestrator.stages.edit.plan import SEQUENCE, TOGETHER, Part, PlannedEdit, Step

TARGETS: tuple[Targets, ...] = ("published", "paired")
"""What is fitted where a sweep does not say."""


def candidates(
    spec: SweepSpec,
    model: ResolvedModel,
    attribute: Attribute,
    sites: tuple[int, ...],
    scope: str,
    editor: str = "",
) -> list[PlannedEdit]:
    """Returns every edit that the spec asks for at some sites.

    Args:
        spec: the sweep.
        model: what is edited.
        attribute: what is removed or replaced.
        sites: where.
        scope: of the edits.
        editor: the method that puts its edits there itself; empty means all editors that edit where they are asked to.
    """
    listed = [
        item
        for item in _settings(spec, attribute)
        if (item.editor == editor if editor else editor_info(item.editor).place is None)
    ]
    return [planned_edit(spec, model, attribute, settings, scope, sites) for settings in listed]


def candidates_together(
    spec: SweepSpec, model: ResolvedModel, parts: Sequence[Part], editor: str = ""
) -> list[PlannedEdit]:
    """Returns every edit of several attributes at once that the spec asks for: with the settings that all of them have.

    Args:
        spec: the sweep.
        model: what is edited.
        parts: the attributes, each with its sites, in the order of their keys.
        editor: see `candidates`.
    """
    listed = [candidates(spec, model, part.attribute, part.sites, TOGETHER, editor) for part in parts]
    by_settings = [{edit.settings: edit for edit in edits} for edits in listed]
    shared = [settings for settings in by_settings[0] if all(settings in edits for edits in by_settings)]
    return [_together(model, parts, [edits[settings] for edits in by_settings]) for settings in shared]


def _together(model: ResolvedModel, parts: Sequence[Part], alone: Sequence[PlannedEdit]) -> PlannedEdit:
    """Names an edit of several attributes by those of each, which hold everything that changes its weights."""
    settings, code = alone[0].settings, alone[0].code
    sites = tuple(sorted({site for part in parts for site in part.sites}))
    does = {**settings.model_dump(), "editor": name_of(settings.editor)}
    texts = tuple(f"{part.attribute.key}\n{edit.edit_id}" for part, edit in zip(parts, alone, strict=True))
    # Paired prompts of an attribute counted one by one in earlier versions.
    how = f"{TOGETHER} alike" if settings.targets == "paired" else TOGETHER
    key = identity.EditKey(model.weights, model.dtype, texts, sites, does, how, model.engine.bits, code)
    return PlannedEdit(identity.edit_id(key), settings, TOGETHER, sites, "", code, tuple(parts))


def edits_in_turn(
    model: ResolvedModel, parts: Sequence[Part], chosen: Sequence[Sequence[PlannedEdit]]
) -> list[PlannedEdit]:
    """Returns the edits after every step of a sequence, for every editor and kind of targets that all attributes have.

    Args:
        model: what is edited.
        parts: the attributes, in the order of the sequence.
        chosen: of each attribute, the edits that were chosen for it alone: each step has their settings.
    """
    by_form = [{(edit.settings.editor, edit.settings.targets): edit for edit in edits} for edits in chosen]
    found = list[PlannedEdit]()
    for form in by_form[0]:
        if all(form in each for each in by_form):
            found += _in_turn(model, parts, [each[form] for each in by_form])
    return found


def _in_turn(model: ResolvedModel, parts: Sequence[Part], alone: Sequence[PlannedEdit]) -> list[PlannedEdit]:
    """Names the edits after every step by those of each attribute alone, and by the whole sequence."""
    steps = [
        Step(part.attribute, edit.sites, edit.settings, edit.code) for part, edit in zip(parts, alone, strict=True)
    ]
    names, found = " > ".join(part.attribute.key for part in parts), list[PlannedEdit]()
    for count, last in enumerate(steps, 1):
        made = tuple(steps[:count])
        sites = tuple(sorted({site for step in made for site in step.sites}))
        does = {**last.settings.model_dump(), "editor": name_of(last.settings.editor)}
        texts = (names, *(edit.edit_id for edit in alone[:count]))
        key = identity.EditKey(model.weights, model.dtype, texts, sites, does, SEQUENCE, model.engine.bits, last.code)
        found.append(
            PlannedEdit(identity.edit_id(key), last.settings, SEQUENCE, sites, "", last.code, tuple(parts), made)
        )
    return found


def methods(spec: SweepSpec) -> tuple[str, ...]:
    """Returns the published methods among a sweep's editors: those that put their edits where they belong."""
    return tuple(editor for editor in (spec.edit or EditSpec()).editors if editor_info(editor).place)


def _settings(spec: SweepSpec, attribute: Attribute) -> Iterator[EditSettings]:
    wanted = spec.edit or EditSpec()
    targets = wanted.targets or TARGETS
    for editor in wanted.editors:
        info = editor_info(editor)
        known = info.published
        if known and "published" in targets and attribute.published_records(editor):
            for strength in wanted.method_lambdas.get(editor, (known.strength,)):
                yield EditSettings(
                    editor=editor, targets="published", tokens=known.tokens, strength=strength,
                    **_chosen(wanted, editor, "published"),
                )  # fmt: skip
        if known and "paired" not in targets:
            continue
        if not info.settings:
            if known:
                for strength in wanted.method_lambdas.get(editor, (known.strength,)):
                    yield paired(wanted, editor, {"tokens": known.tokens, "strength": strength})
            continue
        for values in product(*(_values(wanted, setting) for setting in info.settings)):
            yield paired(wanted, editor, dict(zip((item.name for item in info.settings), values, strict=True)))


def paired(wanted: EditSpec, editor: str, values: Mapping[str, Any]) -> EditSettings:
    """Returns the settings of a paired edit.

    Args:
        wanted: the ``edit:`` block.
        editor: key of the editor, or its file.
        values: of the settings that are tried, by their names.
    """
    return EditSettings(editor=editor, **{**_chosen(wanted, editor, "paired"), **values})


def _chosen(wanted: EditSpec, editor: str, targets: Targets) -> dict[str, Any]:
    """Returns the settings of an editor that are not tried at several values."""
    info = editor_info(editor)
    preserve = info.preserve if wanted.preserve is None else wanted.preserve
    chosen = {name: getattr(wanted, name) for name in info.options}
    return {"preserve": preserve if targets in info.preserves else 0, **chosen}


def _values(wanted: EditSpec, setting: Setting) -> tuple[Any, ...]:
    if setting.values and setting.option not in wanted.model_fields_set:
        return setting.values
    values: tuple[Any, ...] = getattr(wanted, setting.option)
    return values


def baselines(
    spec: SweepSpec, model: ResolvedModel, attribute: Attribute, chosen: Sequence[PlannedEdit]
) -> list[PlannedEdit]:
    """Returns what chosen edits are held against, as their editors declare it.

    At all sites that admit an edit the strengths of the chosen token set are made; elsewhere, at every window of such
    sites of the same size that shares none with the chosen edit, and at its own sites, its own settings.
    """
    return [
        made for edit in chosen for baseline in editor_info(edit.settings.editor).baselines
        for made in _baseline(spec, model, attribute, edit, baseline)
    ]  # fmt: skip


def _baseline(
    spec: SweepSpec, model: ResolvedModel, attribute: Attribute, edit: PlannedEdit, baseline: Baseline
) -> Iterator[PlannedEdit]:
    every, scope = model.editable_sites, baseline.scope
    if baseline.at == "own":
        yield planned_edit(spec, model, attribute, edit.settings, scope, edit.sites, base=edit.edit_id)
    elif baseline.at == "all_sites":
        for settings in _settings(spec, attribute):
            if _form(settings) == _form(edit.settings):
                yield planned_edit(spec, model, attribute, settings, scope, every)
    elif spec.evaluate.windows:
        own = Window(edit.sites[0], len(edit.sites))
        for window in (Window(start, own.size) for start in range(model.n_sites - own.size + 1)):
            if not window.overlaps(own) and set(window.sites) <= set(every):
                yield planned_edit(spec, model, attribute, edit.settings, scope, window.sites)


def _form(settings: EditSettings) -> tuple[str, ...]:
    return settings.editor, settings.targets, settings.tokens


def planned_edit(
    spec: SweepSpec,
    model: ResolvedModel,
    attribute: Attribute,
    settings: EditSettings,
    scope: str,
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
    baseline = editor_info(settings.editor).baseline(scope)
    kind = scope if baseline is not None and baseline.make is not None else ""
    code = editor_code(settings.editor)
    # Of a file its content counts, not the folder that it lies in.
    does = {**settings.model_dump(), "editor": name_of(settings.editor)}
    if "retain" not in editor_info(settings.editor).options:
        # As before there was a choice.
        del does["retain"]
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
        # Of a step of a sequence nothing says how it would be named alone.
        if row["edit_id"] in (None, edit.edit_id):
            return edit
    return None


def restored_together(
    spec: SweepSpec, model: ResolvedModel, known: Mapping[str, Attribute], rows: Sequence[Mapping[str, Any]]
) -> PlannedEdit | None:
    """Returns the edit of several attributes that some rows of ``edits`` are of; see `restored`.

    Args:
        spec: the sweep.
        model: the model.
        known: attributes by key.
        rows: all rows of the edit, one per attribute.
    """
    first, sites = rows[0], {row["attribute"]: tuple(row["site_indices"]) for row in rows}
    if set(sites) != set(first["attributes"]) or not sites.keys() <= known.keys():
        return None
    parts = [Part(known[name], sites[name]) for name in sorted(sites)]
    try:
        settings = EditSettings.model_validate_json(first["settings"])
    except ValidationError:
        return None
    if settings.editor.endswith(".py") and not Path(settings.editor).is_file():
        return None
    alone = [planned_edit(spec, model, part.attribute, settings, TOGETHER, part.sites) for part in parts]
    edit = _together(model, parts, alone)
    return edit if edit.edit_id == first["edit_id"] else None


def restored_in_turn(
    spec: SweepSpec,
    model: ResolvedModel,
    known: Mapping[str, Attribute],
    row: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
) -> PlannedEdit | None:
    """Returns the edit of a sequence that a row of ``edits`` is of; see `restored`.

    Args:
        spec: the sweep.
        model: the model.
        known: attributes by key.
        row: the row.
        rows: all rows of its sequence, of every step and attribute.
    """
    alike_ = [each for each in rows if (each["editor"], each["targets"]) == (row["editor"], row["targets"])]
    names, parts, alone = row["attributes"], list[Part](), list[PlannedEdit]()
    for step, name in enumerate(names, 1):
        mine = [each for each in alike_ if (each["step"], each["attribute"]) == (step, name)]
        if len(mine) != 1 or name not in known:
            return None
        edit = restored(spec, model, known[name], {**mine[0], "edit_id": None, "scope": SEQUENCE})
        if edit is None:
            return None
        parts.append(Part(known[name], edit.sites))
        alone.append(edit)
    edit = _in_turn(model, parts, alone)[row["step"] - 1]
    return edit if edit.edit_id == row["edit_id"] else None

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
from orchestrator.stages.edit.plan import PlannedEdit

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
        if edit.edit_id == row["edit_id"]:
            return edit
    return None

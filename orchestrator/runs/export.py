"""From a stored edit to a folder for others: a pipeline, a LoRA, or the new weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from loco_core.diffusion.facts import find_model
from loco_core.diffusion.hub import on_hub
from loco_core.diffusion.model import load_model
from loco_core.editing.base import named
from loco_core.editing.card import Origin, Written
from loco_core.editing.deltas import from_bytes
from loco_core.editing.export import ExportSettings, check_exportable, check_free, export
from loco_core.errors import EditError, did_you_mean
from loco_core.types import Engine
from orchestrator.resolve.lookup import resolve_model
from orchestrator.spec import ModelSpec, SuperResolutionSpec
from orchestrator.stages.edit.chooser import latest_judge
from orchestrator.stages.edit.plan import KEPT, TOGETHER
from orchestrator.stages.edit.summary import Share, summarize
from orchestrator.store import DamagedFileError, Store

_FIGURES = {
    "flipped": "pictures with the attribute that show the donor's class instead",
    "paraphrased": "the same, of prompts of other templates",
    "neighbours_kept": "neighbours' pictures that keep their own attribute",
    "unrelated_kept": "unrelated pictures that show what they showed",
    "content_kept": "pictures with the attribute that keep what else they showed",
    "ceiling": "donor prompts' pictures, unedited, that show the donor's class",
}


_Row = Mapping[str, Any]


@dataclass(frozen=True)
class StoredEdit:
    """One edit whose weights are kept; ``name`` is the editor in words, ``attribute`` names all that it is of."""

    edit_id: str
    model: str
    attribute: str
    name: str
    localization: str
    delta_path: str
    delta_sha256: str


@dataclass(frozen=True)
class Exported:
    """What was exported; ``second_stage`` is drawn with too, changed by no edit, and not written."""

    written: Written
    second_stage: SuperResolutionSpec | None


def find_edit(
    store: Store, edit_id: str | None, wanted: Mapping[str, str | None], attributes: Sequence[str] = ()
) -> StoredEdit:
    """Finds the one edit that is meant.

    Args:
        store: the results.
        edit_id: the edit's id or its beginning; None takes the chosen edits, those at a window named by hand and those
            of published methods only where nothing that is localized is meant.
        wanted: values of ``model``, ``editor`` and ``targets``, None where any will do.
        attributes: the attribute that it is of; several mean the edit that was fitted to these together, or else in
            turn. None at all means any edit of one attribute.

    Raises:
        EditError: there is none, or more than one.
    """
    rows: list[_Row] = [row for row in store.read("edits").to_pylist() if row["delta_path"] and row["scope"] in KEPT]
    if not rows:
        raise EditError(f"{store.root} holds no edits; `loco-sweep edit RESULTS` fits some")
    named_attributes = [("attribute", name) for name in attributes]
    for name, value in (*wanted.items(), *named_attributes):
        known = {row[name] for row in rows if row[name] is not None}
        if value is not None and value not in known:
            raise EditError(f'no edit has the {name} "{value}"{did_you_mean(value, known)}')
        rows = [row for row in rows if name == "attribute" or value in (None, row[name])]
    rows = _of(rows, frozenset(attributes), any_number=bool(edit_id))
    rows = [row for row in rows if (row["edit_id"].startswith(edit_id) if edit_id else row["chosen"])]
    # One edit in both scopes has the same weights in both.
    for scope in ("localized", TOGETHER):
        rows = [row for row in rows if row["scope"] == scope] or rows
    if len(rows) != 1:
        names = ", ".join(
            f"{row['edit_id'][:12]} ({row['model']} {_whole(row)} {named(row['editor'], row['targets'])}, "
            f"{row['localization']})"
            for row in rows
        )
        narrowing = ("model", "attribute", "editor", "targets")
        apart = [f"--{name}" for name in narrowing if len({row[name] for row in rows}) > 1]
        narrower = f", or narrow them down with {' and '.join(apart)}" if apart else ""
        raise EditError(
            f"{len(rows) or 'no'} edits match{': ' + names if names else ''}; name one with --edit{narrower}"
        )
    row = {**rows[0], "name": named(rows[0]["editor"], rows[0]["targets"]), "attribute": _whole(rows[0])}
    return StoredEdit(*(str(row[name]) for name in StoredEdit.__dataclass_fields__))


def _of(rows: Sequence[_Row], attributes: frozenset[str], *, any_number: bool) -> list[_Row]:
    """Returns the rows of edits that are of exactly these attributes, one per edit; of no attributes, of any one.

    Args:
        rows: rows of ``edits``.
        attributes: keys of attributes.
        any_number: whether edits of several attributes are among those of any.
    """
    found: dict[tuple[str, str, str], _Row] = {}
    for row in rows:
        mine = frozenset(row["attributes"] or (row["attribute"],))
        if mine == attributes or (not attributes and (any_number or len(mine) == 1)):
            # An edit of several has a row per attribute; one of one may be of two.
            name = "" if row["attributes"] else row["attribute"]
            found.setdefault((row["edit_id"], row["scope"], name), row)
    return list(found.values())


def _whole(row: _Row) -> str:
    """Names what an edit is of."""
    return " and ".join(row["attributes"] or (row["attribute"],))


def export_edit(store: Store, edit: StoredEdit, out: Path, settings: ExportSettings | None = None) -> Exported:
    """Writes an edit as a folder with a model card; it appears whole or not at all.

    Args:
        store: the results.
        edit: the edit.
        out: the folder, which must not exist.
        settings: what is written; None writes the edited pipeline.

    Raises:
        EditError: the folder exists, the delta is damaged, the model has changed, or plain diffusers cannot hold it.
        StoreError: the delta is gone, or nowhere in the results.
    """
    settings = settings or ExportSettings()
    check_free(out)
    try:
        data = store.delta(edit.delta_path, edit.delta_sha256)
    except DamagedFileError as error:
        raise EditError(str(error)) from error
    delta = from_bytes(data, f"{store.root}/{edit.delta_path}")
    check_exportable(delta, settings.form, f"edit {edit.edit_id[:12]}")
    sweep = store.sweep()
    assert sweep is not None
    spec = next((item for item in sweep.models if item.id == edit.model), None)
    if spec is None:
        raise EditError(
            f"{store.root}: edit {edit.edit_id[:12]} is of the model {edit.model}, which is not in the sweep"
        )
    loaded, weights, second = None, None, spec.super_resolution
    if settings.form != "delta":
        model = resolve_model(spec)
        # No pass is made, and a LoRA looks at few weights: the others stay on the disk.
        engine, weights = Engine(channels_last=False), model.weights
        loaded = load_model(
            model.family, model.path, model.revision, model.dtype, "cpu", engine, sites=False, extras=model.extras
        )
    hub_id, commit = _base(spec, delta.provenance.weights)
    origin = Origin(
        hub_id, commit, edit.edit_id, store.sweep_id() or "", _figures(store, edit),
        "" if second is None else str(second) if on_hub(second.path) else "of a folder",
    )  # fmt: skip
    return Exported(export(loaded, weights, delta, out, settings, origin), second)


def _base(spec: ModelSpec, weights: str) -> tuple[str, str | None]:
    """Returns where others find the model that was edited, and which commit: nowhere, if it is a folder."""
    if not weights.startswith("hub:"):
        return "", None
    return spec.path or find_model(spec.id)[1].hub_id, weights.removeprefix("hub:")


def _figures(store: Store, edit: StoredEdit) -> list[tuple[str, str]]:
    """Returns what the results say that an edit did and spared, in words."""
    rows = [row for row in store.read("edits").to_pylist() if row["edit_id"] == edit.edit_id]
    seen = store.read("evaluations").filter(pc.field("edit_id") == edit.edit_id)
    measured = {item.attribute: item for item in summarize(rows, seen.to_pylist(), judge=latest_judge(store))[::-1]}
    found = [
        (f"{item.attribute}: {words}" if item.others else words, getattr(item, name))
        for item in reversed(measured.values())
        for name, words in _FIGURES.items()
    ]
    return [(words, _share(share)) for words, share in found if share.of]


def _share(share: Share) -> str:
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%}) of {share.of}"

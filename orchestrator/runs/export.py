"""From a stored edit to a model folder that needs nothing of this project."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loco_core.diffusion.model import load_model
from loco_core.editing.base import named
from loco_core.editing.deltas import applied, from_bytes
from loco_core.errors import EditError, did_you_mean
from orchestrator.resolve.lookup import resolve_model
from orchestrator.spec import SuperResolutionSpec
from orchestrator.stages.edit.plan import CANDIDATES
from orchestrator.store import DamagedFileError, Store


@dataclass(frozen=True)
class StoredEdit:
    """One row of ``edits`` whose weights are kept; ``name`` is the editor in words."""

    edit_id: str
    model: str
    attribute: str
    name: str
    localization: str
    delta_path: str
    delta_sha256: str


def find_edit(store: Store, edit_id: str | None, wanted: Mapping[str, str | None]) -> StoredEdit:
    """Finds the one edit that is meant.

    Args:
        store: the results.
        edit_id: the edit's id or its beginning; None takes the chosen edits, those at a window named by hand and those
            of published methods only where nothing that is localized is meant.
        wanted: values of ``model``, ``attribute``, ``editor`` and ``targets``, None where any will do.

    Raises:
        EditError: there is none, or more than one.
    """
    rows = [row for row in store.read("edits").to_pylist() if row["delta_path"] and row["scope"] in CANDIDATES]
    if not rows:
        raise EditError(f"{store.root} holds no edits; `loco-sweep edit RESULTS` fits some")
    for name, value in wanted.items():
        known = {row[name] for row in rows if row[name] is not None}
        if value is not None and value not in known:
            raise EditError(f'no edit has the {name} "{value}"{did_you_mean(value, known)}')
        rows = [row for row in rows if value in (None, row[name])]
    rows = [row for row in rows if (row["edit_id"].startswith(edit_id) if edit_id else row["chosen"])]
    # One edit in both scopes has the same weights in both.
    rows = [row for row in rows if row["scope"] == "localized"] or rows
    if len(rows) != 1:
        names = ", ".join(
            f"{row['edit_id'][:12]} ({row['model']} {row['attribute']} {named(row['editor'], row['targets'])}, "
            f"{row['localization']})"
            for row in rows
        )
        apart = [f"--{name}" for name in wanted if len({row[name] for row in rows}) > 1]
        narrower = f", or narrow them down with {' and '.join(apart)}" if apart else ""
        raise EditError(
            f"{len(rows) or 'no'} edits match{': ' + names if names else ''}; name one with --edit{narrower}"
        )
    row = {**rows[0], "name": named(rows[0]["editor"], rows[0]["targets"])}
    return StoredEdit(*(str(row[name]) for name in StoredEdit.__dataclass_fields__))


def export_edit(store: Store, edit: StoredEdit, out: Path) -> SuperResolutionSpec | None:
    """Writes the edited pipeline; the folder appears whole or not at all.

    Returns:
        the second stage that the sweep draws with, which no edit changes and which is not written; None without one.

    Raises:
        EditError: the folder exists, the delta is damaged, the model has changed, or plain diffusers cannot hold it.
        StoreError: the delta is gone, or nowhere in the results.
    """
    if out.exists():
        raise EditError(f"{out} exists already; name a new folder")
    try:
        data = store.delta(edit.delta_path, edit.delta_sha256)
    except DamagedFileError as error:
        raise EditError(str(error)) from error
    delta = from_bytes(data, f"{store.root}/{edit.delta_path}")
    if delta.runtime_only:
        raise EditError(
            f"edit {edit.edit_id[:12]} exists in this runtime alone: {delta.runtime_only}; draw with it in Python "
            "(loco_core.Model.edited), or export another edit"
        )
    sweep = store.sweep()
    assert sweep is not None
    spec = next((item for item in sweep.models if item.id == edit.model), None)
    if spec is None:
        raise EditError(
            f"{store.root}: edit {edit.edit_id[:12]} is of the model {edit.model}, which is not in the sweep"
        )
    model = resolve_model(spec)
    loaded = load_model(model.family, model.path, model.revision, model.dtype, "cpu")
    temporary = _beside(out)
    # A folder within the temporary one, which only this user may open: the model is for whoever may read its place.
    made = temporary / "model"
    try:
        with applied(loaded, delta, model.weights):
            loaded.pipeline.save_pretrained(made, safe_serialization=True)
        made.rename(out)
    except OSError as error:
        raise EditError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return spec.super_resolution


def _beside(out: Path) -> Path:
    """Makes a folder of our own beside another, on the same disk: one of a fixed name may be somebody's.

    Raises:
        EditError: it cannot be made.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{out.name[:100]}.", suffix=".partial", dir=out.parent))
    except OSError as error:
        raise EditError(f"{out} cannot be written: {error.strerror or error}") from error

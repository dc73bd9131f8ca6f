"""Localizing again from scores that are there: a results root, or any Parquet with these columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loco_core.errors import LocalizationError, StoreError, did_you_mean
from loco_core.kind_claim import KindClaim, claim_kind
from loco_core.localizers import Localization, LocalizeSettings
from loco_core.types import Window
from orchestrator.plan import CELL_KEY, cell_key
from orchestrator.spec import InterventionSpec
from orchestrator.stages.localize import effects_table, localizations_table, localize, under, unless_incomplete
from orchestrator.stages.sweep import planned_units
from orchestrator.store import Lease, MissingFileError, Store, decode_document, open_store
from orchestrator.store.layout import RESOLVED


@dataclass(frozen=True)
class ScoreSource:
    """Scores, and how they are to be localized.

    Attributes:
        scores: the rows.
        store: the results root that they are from; None for other Parquet.
        settings: the sweep's ``localize:`` block, or the default.
        intervention: the sweep's first set of options; None where the rows do not say.
        planned: keys of the cells that the sweep planned, by model and attribute; empty for other Parquet.
    """

    scores: pa.Table
    store: Store | None
    settings: LocalizeSettings
    intervention: InterventionSpec | None
    planned: Mapping[tuple[str, str], frozenset[tuple[object, ...]]]


def read_scores(address: str) -> ScoreSource:
    """Reads scores from a results root, a Parquet file or a folder of them.

    Raises:
        StoreError: there is nothing to read, or it is damaged.
    """
    try:
        store = open_store(address, create=False)
    except MissingFileError:
        return ScoreSource(_read_parquet(address), None, LocalizeSettings(), None, {})
    spec = store.sweep()
    if spec is None:
        raise StoreError(f"{address}: holds no sweep")
    # Units, not published parts: a running sweep has committed more than it has published.
    scores = store.read_units(sorted(store.committed()))
    return ScoreSource(scores, store, spec.localize, spec.interventions[0], _planned(store))


def _planned(store: Store) -> dict[tuple[str, str], frozenset[tuple[object, ...]]]:
    found: dict[tuple[str, str], set[tuple[object, ...]]] = {}
    for unit in planned_units(store):
        found.setdefault((unit.model, unit.attribute), set()).update(row.key for row in unit.rows if row.emit)
    return {block: frozenset(keys) for block, keys in found.items()}


def relocalize(source: ScoreSource, changes: Mapping[str, Any]) -> list[Localization]:
    """Localizes every attribute of every model.

    Args:
        source: the scores.
        changes: settings other than the sweep's.

    Raises:
        SpecError: there is no such localizer.
        LocalizationError: columns or controls are missing.
    """
    settings = LocalizeSettings.model_validate({**source.settings.model_dump(), **changes})
    scores, found = source.scores, []
    if "model" not in scores.column_names or "attribute" not in scores.column_names:
        raise StoreError("the scores have no columns model and attribute; expected those of a results folder's scores")
    blocks = {(row["model"], row["attribute"]) for row in scores.select(["model", "attribute"]).to_pylist()}
    for model, attribute in sorted(blocks):
        mask = pc.and_(pc.equal(scores["model"], model), pc.equal(scores["attribute"], attribute))
        rows = scores.filter(mask)
        item = localize(rows, settings, _site_names(source, model), source.intervention)
        planned = source.planned.get((model, attribute))
        if planned is not None:
            missing = planned - {cell_key(row) for row in rows.select(CELL_KEY).to_pylist()}
            item = unless_incomplete(item, len(missing), len(planned))
        found.append(item)
    return found


def claim(source: ScoreSource, kind: str, window: Window, changes: Mapping[str, Any]) -> list[KindClaim]:
    """Tests, a model, the claim that a kind of attribute sits at a window; see :func:`loco_core.kind_claim.claim_kind`.

    Raises:
        LocalizationError: a model has fewer than two attributes of the kind, or did not sweep the window.
    """
    settings = LocalizeSettings.model_validate({**source.settings.model_dump(), **changes})
    scores = source.scores.filter(pc.equal(source.scores["attribute_kind"], kind))
    if not scores.num_rows:
        kinds = pc.unique(source.scores["attribute_kind"]).to_pylist()
        raise LocalizationError(f'there are no scores of the kind "{kind}"{did_you_mean(kind, kinds)}')
    found = []
    for model in sorted(pc.unique(scores["model"]).to_pylist()):
        mine = scores.filter(pc.equal(scores["model"], model))
        if source.intervention:
            mine = under(mine, source.intervention)
        tables = [mine.filter(pc.equal(mine["attribute"], name)) for name in pc.unique(mine["attribute"]).to_pylist()]
        found.append(claim_kind(tables, window, settings, _site_names(source, model)))
    return found


def write_back(source: ScoreSource, found: Sequence[Localization]) -> None:
    """Replaces ``effects`` and ``localizations`` of a results root that no driver is at."""
    assert source.store is not None
    identity = source.store.sweep_id() or ""
    lease = Lease(source.store.blobs)
    lease.acquire()
    try:
        source.store.write_derived("effects", effects_table(identity, found))
        source.store.write_derived("localizations", localizations_table(identity, found))
    finally:
        lease.release()


def _site_names(source: ScoreSource, model: str) -> tuple[str, ...]:
    """Returns the model's sites as its results recorded them."""
    found = source.store.blobs.read_versioned(RESOLVED) if source.store else None
    if found is None or source.store is None:
        return ()
    pinned = decode_document(found.data, f"{source.store.root}/{RESOLVED}")
    return tuple(pinned["sites"].get(model, ()))


def _read_parquet(address: str) -> pa.Table:
    if not Path(address).exists():
        raise StoreError(
            f"no file or folder {address}; expected a results folder, or Parquet with the columns of scores"
        )
    try:
        return pq.read_table(address)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{address} is not Parquet that can be read: {str(error).splitlines()[0]}") from error

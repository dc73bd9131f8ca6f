"""Localizing again from scores that are there: a results root, or any Parquet with these columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loco_core.errors import StoreError
from loco_core.localizers import Localization, LocalizeSettings
from orchestrator.spec import InterventionSpec
from orchestrator.stages import RESOLVED
from orchestrator.stages.localize import effects_table, localizations_table, localize
from orchestrator.store import Lease, MissingFileError, Store, open_store


@dataclass(frozen=True)
class ScoreSource:
    """Scores, and how they are to be localized.

    Attributes:
        scores: the rows.
        store: the results root that they are from; None for other Parquet.
        settings: the sweep's ``localize:`` block, or the default.
        intervention: the sweep's first set of options; None where the rows do not say.
    """

    scores: pa.Table
    store: Store | None
    settings: LocalizeSettings
    intervention: InterventionSpec | None


def read_scores(address: str) -> ScoreSource:
    """Reads scores from a results root, a Parquet file or a folder of them.

    Raises:
        StoreError: there is nothing to read, or it is damaged.
    """
    try:
        store = open_store(address, create=False)
    except MissingFileError:
        return ScoreSource(_read_parquet(address), None, LocalizeSettings(), None)
    spec = store.sweep()
    if spec is None:
        raise StoreError(f"{address}: holds no sweep")
    # Units, not published parts: a running sweep has committed more than it has published.
    return ScoreSource(store.read_units(sorted(store.committed())), store, spec.localize, spec.interventions[0])


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
        found.append(localize(rows, settings, _site_names(source, model), source.intervention))
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
    return tuple(json.loads(found.data)["sites"].get(model, ())) if found else ()


def _read_parquet(address: str) -> pa.Table:
    if not Path(address).exists():
        raise StoreError(
            f"no file or folder {address}; expected a results folder, or Parquet with the columns of scores"
        )
    try:
        return pq.read_table(address)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{address} is not Parquet that can be read: {str(error).splitlines()[0]}") from error

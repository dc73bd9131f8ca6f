"""Localizing again from scores and traces that are there: a results root, or any Parquet with the columns of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loco_core import plugins
from loco_core.errors import LocalizationError, StoreError, did_you_mean, first_line
from loco_core.localization.base import Grid, Localization, LocalizeSettings
from loco_core.tables import distinct, rows_where, where
from loco_core.tracing.base import reads, tracer_id
from loco_core.types import Attribute, Window
from orchestrator.resolve.lookup import named_attributes
from orchestrator.spec import InterventionSpec, SweepSpec
from orchestrator.stages.localize import (
    localize,
    under,
    unless_incomplete,
    unscored,
    write_localizations,
)
from orchestrator.stages.sweep.stored import planned
from orchestrator.stages.sweep.variants import ModelAttribute, grid
from orchestrator.stages.trace.plan import PAIR, pair_of
from orchestrator.store import MissingFileError, Store, check_whole, drop_derived, layout, leased, open_store
from orchestrator.store.documents import Pinned
from orchestrator.store.layout import RESOLVED
from orchestrator.store.reads import committed_rows, published_units, unit_rows
from orchestrator.store.schemas import TABLES

if TYPE_CHECKING:
    from loco_core.localization.kind_claim import KindClaim


@dataclass(frozen=True)
class ScoreSource:
    """Scores, and how they are to be localized.

    Attributes:
        scores: the rows.
        store: the results root that they are from; None for other Parquet.
        settings: the sweep's ``localize:`` block, or the default.
        intervention: the sweep's first set of options; None where the rows do not say.
        planned: how many cells the sweep planned, by model and attribute; empty for other Parquet.
        traces: rows of the results root; none of other Parquet.
        pairs: prompts and seeds that the sweep wants to have traced of every attribute.
        spec: the sweep; None for other Parquet.
        attributes: of the sweep, by key.
    """

    scores: pa.Table
    store: Store | None
    settings: LocalizeSettings
    intervention: InterventionSpec | None
    planned: Mapping[ModelAttribute, int]
    traces: pa.Table
    pairs: int = 0
    spec: SweepSpec | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


def read_scores(address: str, store: Store | None = None) -> ScoreSource:
    """Reads scores from a results root, a Parquet file or a folder of them.

    Args:
        address: the results root, file or folder.
        store: the results, opened; None opens what `address` names.

    Raises:
        StoreError: there is nothing to read, or it is damaged.
    """
    try:
        store = store or open_store(address, create=False)
    except MissingFileError:
        none = TABLES["traces"].empty_table()
        return ScoreSource(_read_parquet(address), None, LocalizeSettings(), None, {}, none)
    spec = store.sweep()
    if spec is None:
        raise StoreError(f"{address}: holds no sweep")
    check_whole(store)
    # Units beside published parts: a running sweep has committed more than it has published.
    units = planned(store, spec.generation.steps)
    there = store.committed() & set(units.unit_ids)
    scores = unit_rows(store, sorted(there), published_units(store))
    traces = committed_rows(store, "traces", TABLES["traces"].names, published_units(store), store.committed())
    pairs = spec.prompts * len(spec.seeds)
    attributes = {item.key: item for item in named_attributes(spec)}
    first = spec.interventions[0]
    cells = {key: units.cells_of(*key) for key in units.model_attributes}
    return ScoreSource(scores, store, spec.localize, first, cells, traces, pairs, spec, attributes)


def localize_results(source: ScoreSource, changes: Mapping[str, Any]) -> tuple[list[Localization], list[Localization]]:
    """Localizes every attribute of every model.

    Args:
        source: the scores.
        changes: settings other than the sweep's.

    Returns:
        what the localizer finds that edits follow, and what those find that stand beside it.

    Raises:
        SpecError: there is no such localizer.
        LocalizationError: columns or controls are missing.
    """
    known, name = source.settings, changes.get("localizer", source.settings.localizer)
    others = tuple(item for item in known.localizers if item not in (name, known.localizer))
    settings = LocalizeSettings.model_validate({**known.model_dump(), **changes, "compare": others})
    plugins.look_again(settings.localizers)
    found = _all(source, settings)
    if not found:
        raise LocalizationError(
            f"{settings.localizer} reads traces, and there are none; name it in the sweep's localize block "
            f"(localizer, or compare: [{settings.localizer}]) and run it"
        )
    # Traces may not be there yet.
    beside = [item for other in others for item in _all(source, settings.model_copy(update={"localizer": other}))]
    return found, beside


def _all(source: ScoreSource, settings: LocalizeSettings) -> list[Localization]:
    tracer = reads(settings.localizer)
    rows = source.scores if tracer is None else rows_where(source.traces, method=tracer_id(tracer))
    if "model" not in rows.column_names or "attribute" not in rows.column_names:
        raise StoreError("the scores have no columns model and attribute; expected those of a results folder's scores")
    found = []
    for block in sorted({(row["model"], row["attribute"]) for row in rows.select(["model", "attribute"]).to_pylist()}):
        mine = rows_where(rows, model=block[0], attribute=block[1])
        options, sites = source.intervention if tracer is None else None, site_names(source, block[0])
        try:
            item = localize(mine, settings, sites, options, _grid(source, block[1], len(sites)))
        except LocalizationError as error:
            # Of a sweep the other attributes go on, as in its run.
            if block[1] not in source.attributes:
                raise
            found.append(unscored(block[0], source.attributes[block[1]], settings, str(error)))
            continue
        if tracer is not None:
            item = unless_incomplete(
                item, source.pairs - len({pair_of(row) for row in mine.select(PAIR).to_pylist()}), source.pairs
            )
        elif (cells := source.planned.get(block)) is not None:
            item = unless_incomplete(item, cells - mine.num_rows, cells)
        found.append(item)
    return found


def named_beforehand(source: ScoreSource, window: Window, changes: Mapping[str, Any]) -> list[Localization]:
    """Measures one window in every attribute, as if no other had been swept: its bounds pay for no pick.

    Its effects alone count. Outcomes speak of windows that were looked for, and none was.

    Raises:
        LocalizationError: it was not swept.
    """
    scores = source.scores
    here = where(window_start=window.start, window_size=window.size)
    kept = here | pc.field("window_start").is_null()
    if not scores.filter(here & where(control="window")).num_rows:
        raise LocalizationError(f"window {window.start},{window.size} was not swept")
    settings = {**source.settings.model_dump(), **changes, "localizer": "window", "compare": ()}
    alone = replace(source, scores=scores.filter(kept), planned={})
    return _all(alone, LocalizeSettings.model_validate(settings))


def claim(source: ScoreSource, kind: str, window: Window, changes: Mapping[str, Any]) -> list[KindClaim]:
    """Tests, a model, the claim that a kind of attribute sits at a window.

    See :func:`loco_core.localization.kind_claim.claim_kind`.

    Raises:
        LocalizationError: a model has fewer than two attributes of the kind, or did not sweep the window.
    """
    from loco_core.localization.kind_claim import claim_kind

    settings = LocalizeSettings.model_validate({**source.settings.model_dump(), **changes})
    scores = rows_where(source.scores, attribute_kind=kind)
    if not scores.num_rows:
        kinds = distinct(source.scores, "attribute_kind")
        raise LocalizationError(f'there are no scores of the kind "{kind}"{did_you_mean(kind, kinds)}')
    found = []
    for model in distinct(scores, "model"):
        mine = under(rows_where(scores, model=model), source.intervention)
        tables = [rows_where(mine, attribute=name) for name in distinct(mine, "attribute")]
        found.append(claim_kind(tables, window, settings, site_names(source, model)))
    return found


def write_back(source: ScoreSource, found: Sequence[Localization], beside: Sequence[Localization]) -> None:
    """Replaces ``effects`` and ``localizations`` of a results root that no driver is at."""
    assert source.store is not None
    identity = source.store.sweep_id() or ""
    with leased(source.store) as held:
        listed = [*found, *beside]
        stays = {
            layout.derived(name, item.model, item.attribute, item.localizer)
            for name in ("effects", "localizations")
            for item in listed
        } | {layout.part(name, 0) for name in ("effects", "localizations")}
        there = [path for name in ("localizations", "effects") for path in held.store.blobs.list(name)]
        drop_derived(held.store, (path for path in there if layout.is_derived(path) and path not in stays))
        write_localizations(held.store, identity, listed, found[0].localizer if found else "")


def site_names(source: ScoreSource, model: str) -> tuple[str, ...]:
    """Returns the model's sites as its results recorded them."""
    pinned = source.store.document(RESOLVED, Pinned) if source.store else None
    return pinned.sites.get(model, ()) if pinned else ()


def _grid(source: ScoreSource, attribute: str, n_sites: int) -> Grid | None:
    """Returns what the sweep may have run of an attribute; None where the scores are not of a results root."""
    named = source.attributes.get(attribute)
    return grid(source.spec, named, n_sites) if source.spec and named and n_sites else None


def _read_parquet(address: str) -> pa.Table:
    if not Path(address).exists():
        raise StoreError(
            f"no file or folder {address}; expected a results folder, or Parquet with the columns of scores"
        )
    try:
        return pq.read_table(address)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{address} is not Parquet that can be read: {first_line(error)}") from error

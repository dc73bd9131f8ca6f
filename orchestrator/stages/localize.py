"""From committed scores to the tables ``effects`` and ``localizations``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from loco_core.localization.base import Grid, Localization, LocalizeSettings, name_of, rule
from loco_core.localization.estimates import MISSING_SHARE
from loco_core.tables import rows_where, where
from loco_core.types import Attribute
from orchestrator.spec import InterventionSpec
from orchestrator.store import Store, drop_derived, layout, write_derived
from orchestrator.store.keyed import Key, keys_of
from orchestrator.store.rows import make_table

_NOT_COLUMNS = ("effects", "wants")


def localize(
    scores: pa.Table,
    settings: LocalizeSettings,
    site_names: Sequence[str],
    intervention: InterventionSpec | None,
    grid: Grid | None = None,
) -> Localization:
    """Localizes one attribute of one model.

    Args:
        scores: its score rows, or its traces where the localizer reads these.
        settings: the ``localize:`` block; names the localizer.
        site_names: the model's sites in execution order.
        intervention: the sweep's first set of options: windows under other options are factors of their own, and never
            mixed into one effect. None takes all rows, as of traces.
        grid: all that a sequential localizer may ask for; None takes that for all that there is.

    Raises:
        SpecError: there is no such localizer.
        LocalizationError: columns or controls are missing.
    """
    rows = under(scores, intervention)
    return rule(settings.localizer)(rows, settings, site_names, grid)


def unless_incomplete(found: Localization, missing: int, cells: int) -> Localization:
    """Takes back a localization where cells are missing: a seed that is missing whole does not show in the scores.

    Args:
        found: what the scores there are say.
        missing: planned cells without a score.
        cells: planned cells.
    """
    if missing <= MISSING_SHARE * cells:
        return found
    reason = f"{missing} of {cells} cells have no score; `loco-sweep run` goes on, `retry` computes failed cells again"
    return replace(
        found, outcome="incomplete", reason=reason, window_start=None, window_size=None, site_names=(),
        relative_depth=None, wants=(),
    )  # fmt: skip


def unscored(model: str, attribute: Attribute, settings: LocalizeSettings, reason: str) -> Localization:
    """Returns the localization of an attribute of which nothing could be measured.

    Args:
        model: id of the model.
        attribute: the attribute.
        settings: the ``localize:`` block; names the localizer.
        reason: why, in a sentence.
    """
    return Localization(
        model, attribute.key, attribute.kind, attribute.mode, "incomplete", reason,
        localizer=name_of(settings.localizer), threshold=settings.threshold,
    )  # fmt: skip


def under(scores: pa.Table, intervention: InterventionSpec | None) -> pa.Table:
    """Keeps rows without an intervention, identity swaps, and those under one set of options; all rows for None."""
    if intervention is None:
        return scores
    start, end = intervention.steps or (0, None)
    options = {name: getattr(intervention, name) for name in ("part", "tokens", "guidance_half", "pooled", "source")}
    until = pc.field("steps") if end is None else pc.scalar(end)
    matches = where(step_start=start, **options) & (pc.field("step_end") == until)
    return scores.filter(pc.field("control").isin(["clean", "donor", "identity"]) | matches)


def effects_table(sweep_id: str, found: Iterable[Localization], *, compared: bool) -> pa.Table:
    """Returns the rows of ``effects``.

    Args:
        sweep_id: identity of the sweep.
        found: what was found.
        compared: whether by localizers to compare with, not by the one that edits follow.
    """
    known = {"sweep_id": sweep_id, "compared": compared}
    names = ("model", "attribute", "localizer")
    rows = (
        {**known, **{name: getattr(item, name) for name in names}, **asdict(row)}
        for item in found
        for row in item.effects
    )
    return make_table("effects", rows)


def localizations_table(sweep_id: str, found: Iterable[Localization], *, compared: bool) -> pa.Table:
    """Returns the rows of ``localizations``; see `effects_table`."""
    rows = []
    for item in found:
        values = {key: value for key, value in asdict(item).items() if key not in _NOT_COLUMNS}
        rows.append({"sweep_id": sweep_id, "compared": compared, **values})
    return make_table("localizations", rows)


def main_rows(table: pa.Table) -> pa.Table:
    """Returns the rows of ``effects`` or ``localizations`` of the localizer that edits follow."""
    return table.filter(pc.field("compared").is_null() | ~pc.field("compared"))


class Tables:
    """Keeps ``effects`` and ``localizations`` in step with what is found."""

    def __init__(self, store: Store, sweep_id: str, settings: LocalizeSettings) -> None:
        """Starts with nothing found.

        Args:
            store: the results.
            sweep_id: identity of the sweep.
            settings: the ``localize:`` block.
        """
        self._store, self._sweep_id = store, sweep_id
        self._names = [name_of(name) for name in settings.localizers]
        self._found: dict[Key, Localization] = {}
        self._tidied: set[Key] = set()

    @property
    def main(self) -> tuple[Localization, ...]:
        """What the localizer that edits follow found, by model and attribute."""
        found = dict(self._found)
        return tuple(item for key, item in sorted(found.items()) if key[2] == self._names[0])

    def add(self, found: Sequence[Localization]) -> None:
        """Writes what was found, beside what was before; for one thread at a time."""
        self._found |= {_key(item): item for item in found}
        for block in {_key(item)[:2] for item in found} - self._tidied:
            self._tidy(block)
            self._tidied.add(block)
        write_localizations(self._store, self._sweep_id, found, self._names[0])

    def _tidy(self, block: Key) -> None:
        """Keeps what localizers of the sweep said in an earlier run, as to be followed or to be compared with now."""
        for name in ("localizations", "effects"):
            rows = rows_where(self._before[name], model=block[0], attribute=block[1])
            for key in keys_of(name, rows):
                if key in self._found:
                    continue
                if key[2] not in self._names:
                    drop_derived(self._store, [layout.derived(name, *key)])
                    continue
                mine = rows_where(rows, localizer=key[2])
                at, compared = mine.schema.get_field_index("compared"), key[2] != self._names[0]
                flags = pa.array([compared] * len(mine), pa.bool_())
                write_derived(self._store, {name: mine.set_column(at, mine.schema.field(at), flags)})

    @cached_property
    def _before(self) -> dict[str, pa.Table]:
        """What earlier runs said."""
        return {name: self._store.read(name) for name in ("localizations", "effects")}


def write_localizations(store: Store, sweep_id: str, found: Sequence[Localization], main: str) -> None:
    """Replaces what ``effects`` and ``localizations`` say of some attributes by some localizers.

    Args:
        store: the results.
        sweep_id: identity of the sweep.
        found: what these localizers found.
        main: name of the localizer that edits follow; others are to be compared with it.
    """
    tables = {}
    for name, table in (("effects", effects_table), ("localizations", localizations_table)):
        parts = ([item for item in found if (item.localizer != main) == beside] for beside in (False, True))
        rows = [table(sweep_id, part, compared=compared) for compared, part in zip((False, True), parts, strict=True)]
        tables[name] = pa.concat_tables(rows).combine_chunks()
    write_derived(store, tables, [_key(item) for item in found])


def _key(found: Localization) -> Key:
    return found.model, found.attribute, found.localizer

"""From committed scores to the tables ``effects`` and ``localizations``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.compute as pc

from loco_core.evidence import MISSING_SHARE
from loco_core.localizers import Grid, Localization, LocalizeSettings, name_of, rule
from loco_core.tables import where
from loco_core.types import Attribute
from orchestrator.spec import InterventionSpec
from orchestrator.store import Store
from orchestrator.store.schemas import make_table

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
    rows = under(scores, intervention) if intervention else scores
    found = rule(settings.localizer)(rows, settings, site_names, grid)
    return replace(found, localizer=name_of(settings.localizer))


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
        model=model, attribute=attribute.key, attribute_kind=attribute.kind, mode=attribute.mode,
        localizer=name_of(settings.localizer), outcome="incomplete", window_start=None, window_size=None,
        best_start=None, best_size=None, site_names=(), relative_depth=None, effect=None, ci_low=None, ci_high=None,
        runner_up_start=None, runner_up_effect=None, tie_set=(), sufficiency=None, damage=None, all_sites_effect=None,
        threshold=settings.threshold, n_prompts=0, n_seeds=0, cells=0, exploratory=True, reason=reason,
        possible_size=None, effects=(), wants=(),
    )  # fmt: skip


def under(scores: pa.Table, intervention: InterventionSpec) -> pa.Table:
    """Keeps rows without an intervention, identity swaps, and those under one set of options."""
    start, end = intervention.steps or (0, None)
    options = {name: getattr(intervention, name) for name in ("part", "tokens", "guidance_half", "pooled")}
    until = pc.field("steps") if end is None else pc.scalar(end)
    matches = where(step_start=start, **options) & (pc.field("step_end") == until)
    return scores.filter(pc.field("control").isin(["clean", "donor", "identity"]) | matches)


def effects_table(sweep_id: str, found: Iterable[Localization], *, beside: bool) -> pa.Table:
    """Returns the rows of ``effects``.

    Args:
        sweep_id: identity of the sweep.
        found: what was found.
        beside: whether by localizers to compare with, not by the one that edits follow.
    """
    known = {"sweep_id": sweep_id, "beside": beside}
    rows = ({**known, "localizer": item.localizer, **asdict(row)} for item in found for row in item.effects)
    return make_table("effects", rows)


def localizations_table(sweep_id: str, found: Iterable[Localization], *, beside: bool) -> pa.Table:
    """Returns the rows of ``localizations``; see `effects_table`."""
    rows = []
    for item in found:
        values = {key: value for key, value in asdict(item).items() if key not in _NOT_COLUMNS}
        rows.append({"sweep_id": sweep_id, "beside": beside, **values})
    return make_table("localizations", rows)


def main_rows(table: pa.Table) -> pa.Table:
    """Returns the rows of ``effects`` or ``localizations`` of the localizer that edits follow."""
    return table.filter(pc.field("beside").is_null() | ~pc.field("beside"))


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
        self._found: dict[tuple[str, str, str], Localization] = {}

    @property
    def main(self) -> tuple[Localization, ...]:
        """What the localizer that edits follow found, by model and attribute."""
        return tuple(item for key, item in sorted(self._found.items()) if key[2] == self._names[0])

    def add(self, found: Iterable[Localization]) -> None:
        """Writes what was found, beside what was before."""
        self._found |= {(item.model, item.attribute, item.localizer): item for item in found}
        order = sorted(self._found, key=lambda key: (self._names.index(key[2]), *key[:2]))
        beside = [self._found[key] for key in order if key[2] != self._names[0]]
        for name, table in (("effects", effects_table), ("localizations", localizations_table)):
            rows = [table(self._sweep_id, self.main, beside=False), table(self._sweep_id, beside, beside=True)]
            self._replace(name, pa.concat_tables(rows))

    def _replace(self, table: str, rows: pa.Table) -> None:
        """Replaces what a table says of the attributes of this run; of others an earlier run's word stands.

        So does what another localizer of the sweep said of these, which is one to follow or to compare with as the
        sweep has it now.
        """
        blocks = {key[:2] for key in self._found}

        def replaced(old: pa.Table) -> pa.Table:
            keys = list(zip(*(old[name].to_pylist() for name in ("model", "attribute", "localizer")), strict=True))
            mine = [key[:2] in blocks for key in keys]
            stands = [
                not here or (key[2] in self._names and key not in self._found)
                for key, here in zip(keys, mine, strict=True)
            ]
            beside = [
                key[2] != self._names[0] if here else flag
                for key, here, flag in zip(keys, mine, old["beside"].to_pylist(), strict=True)
            ]
            at = old.schema.get_field_index("beside")
            old = old.set_column(at, old.schema.field(at), pa.array(beside, pa.bool_()))
            return pa.concat_tables([old.filter(pa.array(stands, pa.bool_())), rows]).combine_chunks()

        self._store.update_derived(table, replaced)

"""From committed scores to the tables ``effects`` and ``localizations``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.compute as pc

from loco_core import registry
from loco_core.evidence import MISSING_SHARE
from loco_core.localizers import Localization, LocalizeSettings
from orchestrator.plan import PlannedRow
from orchestrator.spec import InterventionSpec
from orchestrator.store.schemas import make_table

_NOT_COLUMNS = ("effects", "wants_complements")


def localize(
    scores: pa.Table,
    settings: LocalizeSettings,
    site_names: Sequence[str],
    intervention: InterventionSpec | None,
) -> Localization:
    """Localizes one attribute of one model.

    Args:
        scores: its score rows.
        settings: the ``localize:`` block; names the localizer.
        site_names: the model's sites in execution order.
        intervention: the sweep's first set of options: windows under other options are factors of their own, and never
            mixed into one effect. None takes all rows.

    Raises:
        SpecError: there is no such localizer.
        LocalizationError: columns or controls are missing.
    """
    run = registry.function("localizers", settings.localizer, "localize")
    found: Localization = run(under(scores, intervention) if intervention else scores, settings, site_names)
    return found


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
        relative_depth=None, wants_complements=(),
    )  # fmt: skip


def unscored(row: PlannedRow, threshold: float, localizer: str, reason: str) -> Localization:
    """Returns the localization of an attribute of which nothing could be scored.

    Args:
        row: any of its planned cells.
        threshold: of the localizer's settings.
        localizer: its key.
        reason: why, in a sentence.
    """
    return Localization(
        model=row.model, attribute=row.attribute, attribute_kind=row.attribute_kind, mode=row.mode,
        localizer=localizer, outcome="incomplete", window_start=None, window_size=None, best_start=None,
        best_size=None, site_names=(), relative_depth=None, effect=None, ci_low=None, ci_high=None,
        runner_up_start=None, runner_up_effect=None, tie_set=(), sufficiency=None, damage=None, all_sites_effect=None,
        threshold=threshold, n_prompts=0, n_seeds=0, cells=0, exploratory=True, reason=reason, possible_size=None,
        effects=(), wants_complements=(),
    )  # fmt: skip


def under(scores: pa.Table, intervention: InterventionSpec) -> pa.Table:
    """Keeps rows without an intervention, identity swaps, and those under one set of options."""
    steps = intervention.steps
    start, end = (steps[0], pc.scalar(steps[1])) if steps else (0, scores["steps"])
    matches = pc.and_(pc.equal(scores["part"], intervention.part), pc.equal(scores["tokens"], intervention.tokens))
    for option in ("guidance_half", "pooled"):
        matches = pc.and_(matches, pc.equal(scores[option], getattr(intervention, option)))
    matches = pc.and_(matches, pc.and_(pc.equal(scores["step_start"], start), pc.equal(scores["step_end"], end)))
    always = pc.is_in(scores["control"], pa.array(["clean", "donor", "identity"]))
    return scores.filter(pc.or_(always, matches))


def effects_table(sweep_id: str, found: Iterable[Localization]) -> pa.Table:
    """Returns the rows of ``effects``."""
    return make_table("effects", ({"sweep_id": sweep_id, **asdict(row)} for item in found for row in item.effects))


def localizations_table(sweep_id: str, found: Iterable[Localization]) -> pa.Table:
    """Returns the rows of ``localizations``."""
    rows = []
    for item in found:
        values = {key: value for key, value in asdict(item).items() if key not in _NOT_COLUMNS}
        rows.append({"sweep_id": sweep_id, **values})
    return make_table("localizations", rows)

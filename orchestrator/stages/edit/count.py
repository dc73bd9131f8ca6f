"""How many pictures edits may take: known before anything is localized, as it is the same at every window."""

from __future__ import annotations

from typing import Literal

from loco_core.attributes import siblings
from loco_core.errors import SpecError
from loco_core.types import Attribute, Window
from orchestrator.resolve.resolved import Resolved, ResolvedModel
from orchestrator.spec import SweepSpec
from orchestrator.stages.base import Count
from orchestrator.stages.edit.candidates import baselines, candidates, methods
from orchestrator.stages.edit.plan import PlannedEdit, check_editable, evaluate_units, probes, watched


def count_edits(spec: SweepSpec, resolved: Resolved) -> Count:
    """Returns what edits take at most, if every attribute is localized in every model.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
    """
    if spec.edit is None:
        return Count()
    pairs = ((model, attribute) for model in resolved.models for attribute in resolved.attributes)
    return sum((_of_pair(spec, resolved, model, attribute) for model, attribute in pairs), start=Count())


def _of_pair(spec: SweepSpec, resolved: Resolved, model: ResolvedModel, attribute: Attribute) -> Count:
    known = {item.key: item for item in (*siblings(attribute.key), *resolved.attributes) if item.kind == attribute.kind}
    known.pop(attribute.key, None)
    beside, found = watched(spec, known, known), Count()
    # The smallest window has most others of its size, at each of which an edit is made, too.
    window = Window(0, spec.sizes(model.n_sites)[0])
    for editor, scope in (("", "localized"), *((editor, "method") for editor in methods(spec))):
        try:
            sites = model.method_sites(editor) if editor else window.sites
            check_editable(attribute, spec.prompts, model, () if editor else sites)
        except SpecError:
            # Not edited, which is said elsewhere.
            continue
        first = candidates(spec, model, attribute, sites, scope, editor)
        chosen = {(edit.settings.editor, edit.settings.targets): edit for edit in first}
        others = baselines(spec, model, attribute, list(chosen.values()))
        splits: tuple[tuple[Literal["select", "report"], list[PlannedEdit]], ...] = (
            ("select", first), ("report", [*first, *others])
        )  # fmt: skip
        for split, edits in splits:
            units = evaluate_units(
                spec, model, attribute, edits, "", probes(spec, attribute, beside, split, resolved.judge_id), split, 0
            )  # fmt: skip
            images = sum(len(unit.payload.probes) * (1 + len(unit.payload.edits)) for unit in units)
            found += Count(len(units), images, 0, sum(unit.expected_seconds for unit in units))
    return found

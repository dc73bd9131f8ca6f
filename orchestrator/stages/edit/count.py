"""How many pictures edits may take: known before anything is localized, as it is the same at every window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from loco_core.attributes import siblings
from loco_core.errors import SpecError
from loco_core.types import Attribute, Window
from orchestrator.resolve.resolved import Resolved, ResolvedModel
from orchestrator.scheduler.protocol import Unit
from orchestrator.spec import SweepSpec
from orchestrator.stages.base import Count
from orchestrator.stages.edit.candidates import baselines, candidates, candidates_together, edits_in_turn, methods
from orchestrator.stages.edit.plan import Part, PlannedEdit, check_editable, evaluate_units, probes, watched

_Splits = tuple[tuple[Literal["select", "report"], list[PlannedEdit]], ...]


def count_edits(spec: SweepSpec, resolved: Resolved) -> Count:
    """Returns what edits take at most, if every attribute is localized in every model.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
    """
    if spec.edit is None:
        return Count()
    pairs = ((model, attribute) for model in resolved.models for attribute in resolved.attributes)
    found = sum((_of_pair(spec, resolved, model, attribute) for model, attribute in pairs), start=Count())
    groups = ((model, group) for model in resolved.models for group in spec.edit.together)
    found = sum((_of_group(spec, resolved, model, sorted(group)) for model, group in groups), start=found)
    sequences = ((model, names) for model in resolved.models for names in spec.edit.sequence)
    return sum((_of_sequence(spec, resolved, model, names) for model, names in sequences), start=found)


def _editable(
    spec: SweepSpec, model: ResolvedModel, attributes: Sequence[Attribute]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the editors that all of these attributes admit, each with its sites; "" for those of localized windows."""
    # The smallest window has most others of its size, at each of which an edit is made, too.
    window = Window(0, spec.sizes(model.n_sites)[0])
    for editor in ("", *methods(spec)):
        try:
            sites = model.method_sites(editor) if editor else window.sites
            for attribute in attributes:
                check_editable(attribute, spec.prompts, model, () if editor else sites)
        except SpecError:
            # Not edited, which is said elsewhere.
            continue
        yield editor, sites


def _scope(editor: str) -> str:
    return "method" if editor else "localized"


def _of_sequence(spec: SweepSpec, resolved: Resolved, model: ResolvedModel, names: Sequence[str]) -> Count:
    found, attributes = Count(), [resolved.attribute(name) for name in names]
    for editor, sites in _editable(spec, model, attributes):
        first = [candidates(spec, model, attribute, sites, _scope(editor), editor) for attribute in attributes]
        chosen = [_one_of_each(edits) for edits in first]
        edits = edits_in_turn(model, [Part(attribute, sites) for attribute in attributes], chosen)
        for attribute in attributes:
            beside = _beside(spec, resolved, attribute, names)
            drawn = probes(spec, attribute, beside, "report", resolved.judge_id, edited=names)
            found += _counted(evaluate_units(spec, model, attribute, edits, "", drawn, "report", 0))
    return found


def _one_of_each(edits: Sequence[PlannedEdit]) -> list[PlannedEdit]:
    """Returns as many edits as will be chosen."""
    return list({(edit.settings.editor, edit.settings.targets): edit for edit in edits}.values())


def _beside(spec: SweepSpec, resolved: Resolved, attribute: Attribute, names: Sequence[str]) -> list[Attribute]:
    """Returns as many neighbours as will be watched, none of them edited."""
    known = {key: item for key, item in _neighbours(resolved, attribute).items() if key not in names}
    return watched(spec, known, known)


def _of_group(spec: SweepSpec, resolved: Resolved, model: ResolvedModel, names: Sequence[str]) -> Count:
    found, attributes = Count(), [resolved.attribute(name) for name in names]
    for editor, sites in _editable(spec, model, attributes):
        first = candidates_together(spec, model, [Part(attribute, sites) for attribute in attributes], editor)
        splits: _Splits = (("select", first), ("report", _one_of_each(first)))
        for attribute in attributes:
            beside = _beside(spec, resolved, attribute, names)
            for split, edits in splits:
                drawn = probes(spec, attribute, beside, split, resolved.judge_id, edited=names)
                found += _counted(evaluate_units(spec, model, attribute, edits, "", drawn, split, 0))
    return found


def _neighbours(resolved: Resolved, attribute: Attribute) -> dict[str, Attribute]:
    known = {item.key: item for item in (*siblings(attribute.key), *resolved.attributes) if item.kind == attribute.kind}
    known.pop(attribute.key, None)
    return known


def _counted(units: Sequence[Unit]) -> Count:
    images = sum(len(unit.payload.probes) * (1 + len(unit.payload.edits)) for unit in units)
    return Count(len(units), images, 0, sum(unit.expected_seconds for unit in units))


def _of_pair(spec: SweepSpec, resolved: Resolved, model: ResolvedModel, attribute: Attribute) -> Count:
    known = _neighbours(resolved, attribute)
    beside, found = watched(spec, known, known), Count()
    for editor, sites in _editable(spec, model, [attribute]):
        first = candidates(spec, model, attribute, sites, _scope(editor), editor)
        others = baselines(spec, model, attribute, _one_of_each(first))
        splits: _Splits = (("select", first), ("report", [*first, *others]))
        for split, edits in splits:
            units = evaluate_units(
                spec, model, attribute, edits, "", probes(spec, attribute, beside, split, resolved.judge_id), split, 0
            )  # fmt: skip
            found += _counted(units)
    return found

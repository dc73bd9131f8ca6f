"""What is attacked, with what, and which pictures say whether the attribute returned: pure, without torch.

Attacked are the chosen edits of a place, the model without an edit (the ceiling) and, where one is given, a model that
never learned the attribute (the floor). Pictures are drawn of the target prompts and seeds that edits are reported on;
an attack is given pictures of other prompts and other seeds. It is made anew for every seed that is drawn, with noise
and clean pictures of its own, so that what differs from one attack to the next is part of what differs between seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from loco_core.attacking.base import AttackChoice, attack_id, attack_info, attack_settings
from loco_core.attributes import as_scored
from loco_core.editing.splits import splits
from loco_core.errors import SpecError
from loco_core.types import Attribute, PromptRecord
from orchestrator import identity
from orchestrator.resolve.attacks import beside
from orchestrator.resolve.resolved import Resolved, ResolvedModel
from orchestrator.scheduler.protocol import Unit
from orchestrator.spec import SweepSpec
from orchestrator.stages.base import Count, batch_size, make_unit, seconds_per_image, sweep_id
from orchestrator.stages.edit.candidates import candidates, methods
from orchestrator.stages.edit.plan import Fit, PlannedEdit, Probe, check_editable, probes

Who = Literal["edited", "unedited", "floor"]
FIRST_CLEAN_SEED = 3_000_000
"""Of the pictures that attacks are given; far from any seed of a sweep, and of what edits are measured on."""
TRIES = 4
"""How many pictures are drawn at most for each clean one that an attack is given: not all show the attribute."""


@dataclass(frozen=True)
class Attacking(Fit):
    """One attack on one model, edited or not.

    Attributes:
        choice: the attack, with all that the sweep says of it.
        attack: what it is called in results.
        settings: all of its settings, as JSON.
        who: what is attacked.
        probes: what is drawn then.
        batch_size: rows per forward pass; frozen here.
        floor: the model that never learned the attribute, where that is attacked.
    """

    choice: AttackChoice
    attack: str
    settings: str
    who: Who
    probes: tuple[Probe, ...]
    batch_size: int
    floor: ResolvedModel | None = None

    @property
    def edit(self) -> PlannedEdit | None:
        """The edit that is attacked, if one is."""
        return self.edits[0] if self.edits else None


def targets(spec: SweepSpec, attribute: Attribute, judge: str | None) -> tuple[Probe, ...]:
    """Returns the target prompts and seeds that edits are reported on."""
    return tuple(probe for probe in probes(spec, attribute, [], "report", judge) if probe.role == "target")


def seeds_of(drawn: Sequence[Probe]) -> tuple[int, ...]:
    """Returns the seeds of what is drawn, in order; each has an attack of its own."""
    return tuple(dict.fromkeys(probe.seed for probe in drawn))


def attack_units(
    spec: SweepSpec,
    resolved: Resolved,
    model: ResolvedModel,
    attribute: Attribute,
    edits: Sequence[PlannedEdit],
    localization: str,
    first_order: int,
) -> list[Unit]:
    """Returns a unit for every attack on every edit, on the model without one, and on the floor.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        model: the model.
        attribute: what was edited.
        edits: the chosen edits.
        localization: what picked their sites.
        first_order: number in the plan from which the units count.

    Returns:
        units whose payload is an `Attacking`.
    """
    drawn = targets(spec, attribute, resolved.judge_id)
    # Clean pictures are judged as those that are counted are.
    records = splits(as_scored(attribute, spec.margin), spec.prompts)["fit"]
    if not drawn:
        return []
    turns = len(seeds_of(drawn))
    # Pictures of one attack are drawn together.
    together = math.ceil(len(drawn) / turns)
    batch = math.ceil(together / math.ceil(together / batch_size(spec, model)))
    units: list[Unit] = []
    for item in spec.evaluate.attacks:
        choice = item.choice
        settings = attack_settings(choice)
        said = json.dumps(settings.model_dump(), sort_keys=True)
        for who, edit in _attacked(edits, resolved.floor):
            floor = beside(resolved.floor, model) if who == "floor" and resolved.floor is not None else None
            payload = Attacking(
                attribute, (edit,) if edit else (), records, localization, spec.prompts, choice, attack_id(choice.use),
                said, who, drawn, batch, floor,
            )  # fmt: skip
            images = len(drawn) + turns * settings.pictures
            # A picture takes a pass of two rows a step.
            learned = turns * attack_info(choice.use).passes(settings) / (2 * spec.generation.steps)
            cost = seconds_per_image(spec, model) * (images + learned)
            units.append(
                make_unit("attack", _name(spec, model, payload), model, first_order + len(units), cost, payload)
            )
    return units


def count_attacks(spec: SweepSpec, resolved: Resolved) -> Count:
    """Returns what attacks take at most, if every attribute is localized in every model.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
    """
    if spec.edit is None or not spec.evaluate.attacks:
        return Count()
    found = Count()
    for model in resolved.models:
        for attribute in resolved.attributes:
            try:
                check_editable(attribute, spec.prompts, model)
            except SpecError:
                # Not edited, which is said elsewhere.
                continue
            units = attack_units(spec, resolved, model, attribute, _chosen_at_most(spec, model, attribute), "", 0)
            images = sum(len(unit.payload.probes) for unit in units)
            found += Count(len(units), images, 0, sum(unit.expected_seconds for unit in units))
    return found


def _chosen_at_most(spec: SweepSpec, model: ResolvedModel, attribute: Attribute) -> list[PlannedEdit]:
    """Returns as many edits as can be chosen: one of each editor and its targets."""
    first = candidates(spec, model, attribute, (0,), "localized")
    for editor in methods(spec):
        try:
            first += candidates(spec, model, attribute, model.method_sites(editor), "method", editor)
        except SpecError:
            continue
    return list({(edit.settings.editor, edit.settings.targets): edit for edit in first}.values())


def _attacked(edits: Sequence[PlannedEdit], floor: ResolvedModel | None) -> Iterator[tuple[Who, PlannedEdit | None]]:
    yield from (("edited", edit) for edit in edits)
    yield "unedited", None
    if floor is not None:
        yield "floor", None


def _name(spec: SweepSpec, model: ResolvedModel, planned: Attacking) -> str:
    edit, floor = planned.edit, planned.floor
    items = (
        planned.attack, planned.settings, "anew for every seed", planned.who,
        f"{edit.scope} {edit.edit_id}" if edit else "",
        # Of a floor both: its clean pictures are the model's.
        *(_made_with(each) for each in (model, floor) if each is not None),
        *(
            "\n".join((record.prompt, record.donor, *_texts(record))) for record in planned.records
        ),
        *(
            " ".join(map(str, (probe.seed, probe.judge, probe.record.prompt, *_texts(probe.record))))
            for probe in planned.probes
        ),
    )  # fmt: skip
    key = identity.UnitKey(sweep_id(spec), "attack", model.id, planned.attribute.key, items)
    return identity.unit_id(key)


def _made_with(model: ResolvedModel) -> str:
    """Returns what changes a model's pictures."""
    return json.dumps([model.weights_id, model.dtype, model.engine.bits, model.guidance_scale], sort_keys=True)


def _texts(record: PromptRecord) -> tuple[str, ...]:
    return record.score_text, *record.against

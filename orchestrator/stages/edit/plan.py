"""What is edited, and on what an edit is measured: pure, and the same on every machine.

An attribute's prompts are split so that an edit is never measured on what it was fitted or chosen on, see
`loco_core.editing.splits`; seeds of ``select`` and ``report`` are used nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from loco_core.attributes import as_scored
from loco_core.editing.base import EditSettings
from loco_core.editing.splits import Split, fit_templates, splits
from loco_core.errors import SpecError
from loco_core.scoring.base import UNKNOWN as UNNAMED
from loco_core.types import Attribute, PromptRecord
from orchestrator import identity
from orchestrator.resolve.resolved import ResolvedModel
from orchestrator.scheduler.protocol import Unit
from orchestrator.spec import SweepSpec
from orchestrator.stages.base import batch_size, images_in, make_unit, seconds_per_image, short_seconds, sweep_id
from orchestrator.stages.edit.prompts import donor, of_other_kinds_in, words_of

Role = Literal["target", "paraphrase", "donor", "neighbour", "unrelated"]
Pair = tuple[str, str, str, str, str, int, str | None, tuple[str, ...]]
"""An edit in its scope, and a probe that it is measured on, with the texts of its margin; see `pair`."""

CANDIDATES = ("localized", "by_hand", "method")
"""Scopes of edits that one is chosen of: where a localizer said, where a person did, and where a published method puts
them, whatever was localized. All others are baselines."""
TOGETHER, SEQUENCE = "together", "sequence"
"""Scopes of edits of several attributes: fitted at once, or one after the other."""
KEPT = (*CANDIDATES, TOGETHER, SEQUENCE)
"""Scopes of edits whose weights are kept, so that they can be exported."""
INVALID = "invalid"
"""What is named in a picture that is none: an edit that destroys pictures keeps nothing and finds nothing."""
UNKNOWN = (*UNNAMED, INVALID)
"""What a judge says where it names no class."""
FIRST_SEED = {"select": 1_000_000, "report": 2_000_000}
"""Far from any seed of a sweep."""
LEAST_TOGETHER = 4
"""Edits that a unit measures beside the same pictures without an edit, however long that takes."""


@dataclass(frozen=True)
class Part:
    """One of the attributes that an edit of several is of.

    Attributes:
        attribute: the attribute.
        sites: where it is edited; none where a method edits a text encoder.
    """

    attribute: Attribute
    sites: tuple[int, ...]


@dataclass(frozen=True)
class Step(Part):
    """One of the edits that are fitted one after the other.

    Attributes:
        settings: of the editor.
        code: see `PlannedEdit`.
    """

    settings: EditSettings
    code: str = ""


@dataclass(frozen=True)
class PlannedEdit:
    """One edit to be fitted.

    Attributes:
        edit_id: identity of the edit.
        settings: of the editor.
        scope: where it is made, and why: see ``edits.scope``.
        sites: the sites it changes; none where it changes a text encoder.
        base: of a baseline at an edit's own sites, the id of that edit.
        code: hash of what an outside editor is executed from; empty of one of this project.
        parts: the attributes of an edit of several, by their keys, in a sequence in its order; none of an edit of one.
        steps: of a sequence, those that were made, the last one last.
    """

    edit_id: str
    settings: EditSettings
    scope: str
    sites: tuple[int, ...]
    base: str = ""
    code: str = ""
    parts: tuple[Part, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def attributes(self) -> tuple[str, ...]:
        """Keys of the attributes of an edit of several; none of an edit of one."""
        return tuple(part.attribute.key for part in self.parts)


@dataclass(frozen=True)
class Probe:
    """One picture that is drawn before and after an edit.

    Attributes:
        role: what it shows about the edit.
        record: its prompt, with the texts that score it.
        seed: of the initial noise.
        judge: what names what is seen, as it is called in results.
        metrics: what compares the two pictures, as they are called in results.
    """

    role: Role
    record: PromptRecord
    seed: int
    judge: str | None = None
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fit:
    """Edits of one (model, attribute) that are fitted together; reads no image.

    Attributes:
        attribute: what is edited.
        edits: the edits.
        records: prompts that they are fitted on.
        localization: what picked the sites.
        prompts: how many records the sweep takes, which decides the splits.
    """

    attribute: Attribute
    edits: tuple[PlannedEdit, ...]
    records: tuple[PromptRecord, ...]
    localization: str
    prompts: int


@dataclass(frozen=True)
class Evaluation(Fit):
    """Probes drawn without an edit, then with each of some edits, on one device in one batch shape.

    Attributes:
        split: which prompts and seeds the probes are of.
        probes: the pictures.
        batch_size: rows per forward pass; frozen here.
    """

    split: Split
    probes: tuple[Probe, ...]
    batch_size: int


def check_editable(attribute: Attribute, localized_on: int, model: ResolvedModel, sites: tuple[int, ...] = ()) -> None:
    """Refuses an edit that cannot be made.

    Args:
        attribute: the attribute.
        localized_on: how many of its records the sweep takes.
        model: the model.
        sites: where it would be edited.

    Raises:
        SpecError: the attribute has too few contents, a prompt says what its donor says, or a site shares its K and V
            with the image.
    """
    shared = sorted(set(sites) - set(model.editable_sites))
    if shared:
        model.check_sites()
        raise SpecError(
            f"site {shared[0]} of {model.id} ({model.site_names[shared[0]]}) has one K and V for text and image, so "
            f"that no edit of the text alone exists there; sites that admit one: 0 to {len(model.editable_sites) - 1}"
        )
    found = splits(attribute, localized_on)
    for record in (*found["fit"], *found["select"], *found["report"]):
        if record.prompt.split() == record.donor.split():
            raise SpecError(f'{attribute.key}: the prompt "{record.prompt}" equals its donor; nothing to edit')


def watched(spec: SweepSpec, known: Mapping[str, Attribute], names: Iterable[str]) -> list[Attribute]:
    """Returns the neighbours that edits are to spare: the nearest that have prompts enough to be measured on.

    Args:
        spec: the sweep.
        known: attributes by key.
        names: keys of the nearest attributes, nearest first.
    """
    found = []
    for item in (known[name] for name in names if name in known):
        try:
            splits(item, spec.prompts)
        except SpecError:
            continue
        found.append(item)
    return found[: spec.evaluate.neighbours]


def probes(
    spec: SweepSpec,
    attribute: Attribute,
    neighbours: Sequence[Attribute],
    split: Literal["select", "report"],
    judge: str | None = None,
    metrics: tuple[str, ...] = (),
    edited: Collection[str] = (),
) -> list[Probe]:
    """Returns what edits of an attribute are measured on, in one split; no prompt has two roles.

    Prompts are unrelated that say nothing of the attribute's kind. Where the donors leave the attribute out, they are
    these donors; where they put another of the kind in its place, prompts of other kinds. Of the latter the donors are
    drawn too, as what no edit can do better than, see ``ceiling`` of `orchestrator.stages.edit.summary.EditSummary`.

    Args:
        spec: the sweep.
        attribute: what is edited.
        neighbours: attributes of the same kind that should be spared.
        split: ``select`` or ``report``.
        judge: what names what is seen, as it is called in results; None where the sign of the scorer's margin does.
        metrics: ids of what compares pictures on ``report``.
        edited: keys of all attributes that are edited: their prompts are not unrelated.
    """
    # Neighbours may be bundled, and no part of the sweep.
    neighbours = [as_scored(item, spec.margin) for item in neighbours]
    familiar, mine = fit_templates(attribute), splits(as_scored(attribute, spec.margin), spec.prompts)[split]
    count = spec.evaluate.prompts
    taken: set[str] = set()

    def new(records: Iterable[PromptRecord], most: int) -> list[PromptRecord]:
        """Takes the first records whose prompt has no role yet."""
        found: dict[str, PromptRecord] = {}
        for record in records:
            if len(found) < most and (text := words_of(record.prompt)) not in taken:
                found.setdefault(text, record)
        taken.update(found)
        return list(found.values())

    donors = [donor(record) for record in mine]
    roles: dict[Role, list[PromptRecord]] = {
        "target": new((record for record in mine if record.template_id in familiar), count),
        "paraphrase": new((record for record in mine if record.template_id not in familiar), count),
    }
    if attribute.mode == "remove":
        roles["unrelated"] = new(donors, count)
    elif split == "report":
        roles["donor"] = new(donors, count)
    # A donor shows what the edit aims at, which no edit spoils.
    taken.update(words_of(record.prompt) for record in donors)
    each = max(1, math.ceil(count / max(1, len(neighbours))))
    roles["neighbour"] = [
        record for other in neighbours for record in new(splits(other, spec.prompts)[split], each)
    ]  # fmt: skip
    if attribute.mode == "replace":
        roles["unrelated"] = new(of_other_kinds_in(spec, attribute, split, edited), count)
    seeds = range(FIRST_SEED[split], FIRST_SEED[split] + spec.evaluate.seeds)
    compared = metrics if split == "report" else ()
    return [
        Probe(role, record, seed, judge, compared)
        for role, records in roles.items()
        for record in records
        for seed in seeds
    ]


def pair(edit: PlannedEdit, probe: Probe) -> Pair:
    """Names an edit measured on a probe; the seed tells the split."""
    record = probe.record
    said = probe.role, record.prompt, record.score_text, probe.seed, probe.judge
    return edit.edit_id, edit.scope, *said, record.against


def measured_pair(row: Mapping[str, Any]) -> Pair:
    """Returns the `pair` that a row of ``evaluations`` is about."""
    names = ("edit_id", "scope", "prompt_role", "prompt", "clip_text", "seed", "judge")
    # Rows of an older version do not say their texts: they are nobody's.
    return *(row[name] for name in names), tuple(row["margin_texts"] or ())


def fit_unit(
    spec: SweepSpec,
    model: ResolvedModel,
    attribute: Attribute,
    edits: Sequence[PlannedEdit],
    localization: str,
    order: int,
) -> Unit:
    """Returns the unit that fits some edits; its payload is a `Fit`."""
    items = tuple(f"{edit.scope} {edit.edit_id}" for edit in edits)
    name = identity.unit_id(identity.UnitKey(sweep_id(spec), "fit", model.id, attribute.key, items))
    records = splits(attribute, spec.prompts)["fit"]
    payload = Fit(attribute, tuple(edits), records, localization, spec.prompts)
    return make_unit("edit", name, model, order, 1.0 + 0.2 * sum(max(1, len(edit.parts)) for edit in edits), payload)


def evaluate_units(
    spec: SweepSpec,
    model: ResolvedModel,
    attribute: Attribute,
    edits: Sequence[PlannedEdit],
    localization: str,
    drawn: Sequence[Probe],
    split: Literal["select", "report"],
    first_order: int,
    measured: Collection[Pair] = (),
) -> list[Unit]:
    """Cuts edits x probes into units of about half a minute, each with its own pictures without an edit.

    What is measured already is left out. The rest is cut as if it were still there: probes come in batches as large as
    all of them together ask for, edits that lack the same probes are taken together. A unit that is committed takes
    whole batches away, so that those beside it are cut, and named, as they were before. Payloads are `Evaluation`.
    """
    if not drawn:
        return []
    seconds = seconds_per_image(spec, model)
    batch = math.ceil(len(drawn) / math.ceil(len(drawn) / batch_size(spec, model)))
    # With fewer edits a unit, most of what is drawn on a slow model would be the pictures without an edit, again.
    together = max(LEAST_TOGETHER, int(images_in(short_seconds(spec), spec, model) / batch) - 1)
    lacking: dict[tuple[Probe, ...], list[PlannedEdit]] = {}
    for edit in edits:
        lacking.setdefault(tuple(probe for probe in drawn if pair(edit, probe) not in measured), []).append(edit)
    records, units = splits(attribute, spec.prompts)["fit"], list[Unit]()
    for left, alike in lacking.items():
        for start in range(0, len(left), batch):
            for first in range(0, len(alike), together):
                part, some = left[start : start + batch], tuple(alike[first : first + together])
                name = _evaluation_name(spec, model, attribute, some, part)
                payload = Evaluation(attribute, some, records, localization, spec.prompts, split, part, batch)
                cost = seconds * batch * (1 + len(some))
                units.append(make_unit("edit", name, model, first_order + len(units), cost, payload))
    return units


def _evaluation_name(
    spec: SweepSpec, model: ResolvedModel, attribute: Attribute, edits: Sequence[PlannedEdit], drawn: Sequence[Probe]
) -> str:
    # The scope stands in every row, and the same weights may be a candidate in one place and a baseline in another.
    items = tuple(f"{edit.scope} {edit.edit_id}" for edit in edits) + tuple(
        "\n".join(
            (
                f"{probe.role} {probe.seed} {probe.judge}",
                *probe.metrics,
                probe.record.prompt,
                probe.record.score_text,
                *probe.record.against,
            )
        )
        for probe in drawn
    )
    return identity.unit_id(identity.UnitKey(sweep_id(spec), "evaluate", model.id, attribute.key, items))

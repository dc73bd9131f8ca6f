"""What edits of several attributes have in common: a place per group, measured on the prompts of every attribute."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from loco_core.localization.base import Localization
from loco_core.types import Attribute
from orchestrator.scheduler.protocol import Unit
from orchestrator.stages.base import StageContext
from orchestrator.stages.edit.chooser import chooser, chosen_by
from orchestrator.stages.edit.ledger import Key, Ledger, with_choice
from orchestrator.stages.edit.places import Place, known_attributes
from orchestrator.stages.edit.plan import Part, PlannedEdit, Probe, evaluate_units, probes, watched
from orchestrator.stages.edit.summary import EditSummary, summarize
from orchestrator.store import drop_derived, layout, write_derived
from orchestrator.store.keyed import METHOD

logger = logging.getLogger(__name__)
Rows = Sequence[Mapping[str, Any]]
SplitName = Literal["select", "report"]


@dataclass(frozen=True)
class PlaceOfSeveral:
    """Where an edit of several attributes is made.

    Attributes:
        places: those of its attributes, of one model and one method.
        name: names of the attributes, as its localization has them.
    """

    places: tuple[Place, ...]
    name: str

    @property
    def model(self) -> str:
        """Id of the model."""
        return self.places[0].model

    @property
    def editor(self) -> str:
        """The method; empty where all editors edit that edit where they are asked to."""
        return self.places[0].editor

    @property
    def attributes(self) -> tuple[str, ...]:
        """Keys of the attributes."""
        return tuple(place.attribute for place in self.places)

    @property
    def localization(self) -> str:
        """What tells its rows of ``edits`` from others."""
        return self.name + (f" ({self.places[0].localization.removeprefix(METHOD)})" if self.editor else "")

    @property
    def key(self) -> Key:
        """What tells its units from those of other places."""
        return self.model, "", self.localization


class EditsOfSeveral:
    """Measures edits of several attributes, and writes their rows of ``edits``.

    Attributes:
        words: how they are edited, in words.
        names: the attributes of each group, by the name of the group.
    """

    words = ""

    def __init__(self, context: StageContext, ledger: Ledger, names: Mapping[str, tuple[str, ...]]) -> None:
        """Starts with no place.

        Args:
            context: see `StageContext`.
            ledger: the units of the edit stage.
            names: the attributes of each group, by the name that localizations have.
        """
        self._store, self._spec, self._resolved = context.store, context.spec, context.resolved
        self._on_edited = context.on_edited
        self._ledger, self.names = ledger, names
        self._places: dict[Key, PlaceOfSeveral] = {}

    def missed(self, found: Localization) -> None:
        """Says which groups are not edited at localized sites, as an attribute is localized nowhere."""
        for names in (names for names in self.names.values() if found.attribute in names):
            self._say_missed(found.model, names, f"{found.attribute} is {found.outcome.replace('_', ' ')}")

    def begun(self, places: Sequence[Place]) -> None:
        """Says which groups are not edited at localized sites, as not all of their attributes are among some places."""
        there: dict[str, set[str]] = {}
        for place in places:
            if place.scope == "localized":
                there.setdefault(place.model, set()).add(place.attribute)
        for model, known in there.items():
            for names in self.names.values():
                missing = [name for name in names if name not in known]
                if 0 < len(missing) < len(names):
                    self._say_missed(model, names, f"{missing[0]} is not localized, or not asked for")

    def _say_missed(self, model: str, names: Sequence[str], why: str) -> None:
        logger.warning(
            "%s: %s are not edited %s where they are localized: %s", model, " and ".join(names), self.words, why
        )

    def withdraw(self, model: str, attribute: str) -> None:
        """Takes edits out of ``edits`` that were made where an attribute was localized before."""
        for name, names in self.names.items():
            if attribute in names:
                drop_derived(self._store, [layout.derived("edits", model, member, name) for member in names])

    def has(self, key: Key) -> bool:
        """Tells whether a place is one of these."""
        return key in self._places

    def _parts(self, place: PlaceOfSeveral) -> list[Part]:
        return [Part(self._resolved.attribute(one.attribute), one.sites) for one in place.places]

    def _probes(self, place: PlaceOfSeveral, rows: Rows, split: SplitName) -> list[tuple[Attribute, list[Probe]]]:
        """Returns what each attribute is measured on; of the others none is its neighbour, nor unrelated to it."""
        near = {row["attribute"]: row["neighbours"] or () for row in rows}
        found = []
        for name in place.attributes:
            others = [each for each in near[name] if each not in place.attributes]
            beside = watched(self._spec, known_attributes(self._resolved), others)
            attribute = self._resolved.attribute(name)
            judge, metrics = self._resolved.judge_id, self._resolved.metric_ids
            found.append((attribute, probes(self._spec, attribute, beside, split, judge, metrics, place.attributes)))
        return found

    def _unmeasured(
        self,
        place: PlaceOfSeveral,
        rows: Rows,
        edits: Sequence[PlannedEdit],
        split: SplitName,
    ) -> list[Unit]:
        units: list[Unit] = []
        for attribute, drawn in self._probes(place, rows, split):
            units += evaluate_units(
                self._spec, self._resolved.model(place.model), attribute, edits, place.localization, drawn, split,
                self._ledger.order + len(units),
                self._ledger.measured.pairs(place.model, attribute.key, edits, drawn),
            )  # fmt: skip
        return units

    def _summaries(
        self,
        place: PlaceOfSeveral,
        rows: Rows,
        edits: Sequence[PlannedEdit],
        split: SplitName,
    ) -> list[EditSummary]:
        """Returns what edits did on a split, one per edit and attribute; on ``select`` as the chooser sees it."""
        found, ids = list[EditSummary](), {edit.edit_id for edit in edits}
        for attribute, drawn in self._probes(place, rows, split):
            mine = [row for row in rows if row["attribute"] == attribute.key and row["edit_id"] in ids]
            seen: Sequence[Mapping[str, Any]] = self._ledger.measured.rows(place.model, attribute.key, edits, drawn)
            if split == "select":
                seen = chosen_by(self._spec, self._resolved, attribute.kind, seen)
            else:
                mine = [{**row, "chosen": True, "localization": place.localization} for row in mine]
            found += summarize(mine, seen, split)
        return found

    def _finish(self, place: PlaceOfSeveral, fit: Unit, chosen: Collection[str]) -> None:
        table = self._ledger.fitted(fit)
        flags = [edit in chosen for edit in table["edit_id"].to_pylist()]
        table = with_choice(table, flags, place.localization, chooser(self._spec, self._resolved))
        owners = [(place.model, name, place.localization) for name in place.attributes]
        write_derived(self._store, {"edits": table}, owners)

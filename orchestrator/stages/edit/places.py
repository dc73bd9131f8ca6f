"""Where edits are made: where a localizer found an attribute, a person said so, or a published method puts them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from loco_core.attributes import bundled
from loco_core.errors import SpecError
from loco_core.types import Attribute, Window
from orchestrator.resolve.resolved import Resolved
from orchestrator.spec import SweepSpec
from orchestrator.stages.edit.candidates import methods
from orchestrator.stages.edit.ledger import Key
from orchestrator.store.keyed import BY_HAND, METHOD

logger = logging.getLogger(__name__)
Owner = tuple[str, str, str]
"""Model, attribute, and the localization where no localizer found it."""


@dataclass(frozen=True)
class Place:
    """Where an attribute's edits are made, and what says so.

    Attributes:
        model: id of the model.
        attribute: key of the attribute.
        sites: the sites; none where a method edits a text encoder.
        localization: what picked them: a localizer, a hand, or a method.
        scope: of the candidates.
        editor: the method; empty where all editors edit that edit where they are asked to.
    """

    model: str
    attribute: str
    sites: tuple[int, ...]
    localization: str
    scope: str
    editor: str = ""

    @property
    def key(self) -> Key:
        """What tells its units from those of other places."""
        return self.model, self.attribute, self.localization

    @property
    def owner(self) -> Owner:
        """What tells its rows of ``edits`` from those of other places; see `orchestrator.store.derived.key_of`."""
        return self.model, self.attribute, "" if self.scope == "localized" else self.localization


def localized_place(model: str, attribute: str, window: Window, localizer: str) -> Place:
    """Returns the place that a localizer found."""
    return Place(model, attribute, window.sites, f"{localizer}: {_sites(window)}", "localized")


def place_by_hand(model: str, attribute: str, window: Window) -> Place:
    """Returns a place that a person named."""
    return Place(model, attribute, window.sites, f"{BY_HAND}{_sites(window)}", "by_hand")


def method_places(spec: SweepSpec, resolved: Resolved, model: str, attribute: str) -> list[Place]:
    """Returns the places of the published methods among a sweep's editors, which need no localization.

    Methods that the model admits no edit of are passed over, with a warning.
    """
    found = []
    for editor in methods(spec):
        try:
            sites = resolved.model(model).method_sites(editor)
        except SpecError as error:
            logger.warning("%s %s is not edited by %s: %s", model, attribute, editor, error)
            continue
        where = "all sites" if sites else "text encoder"
        found.append(Place(model, attribute, sites, f"{METHOD}{editor}, {where}", "method", editor))
    return found


def known_attributes(resolved: Resolved) -> Mapping[str, Attribute]:
    """Returns the attributes that may be neighbours, by key."""
    return {**bundled(), **{item.key: item for item in resolved.attributes}}


def _sites(window: Window) -> str:
    return f"sites {window.start}-{window.start + window.size - 1}"

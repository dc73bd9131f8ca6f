"""One edit of several attributes: each at its own sites, and where they meet, fitted at once.

A closed-form edit solves every site by itself. So an attribute takes part at those sites alone where it was localized:
elsewhere it is not held, and changing it there would only spoil more. A site that one attribute has gets the solution
of this attribute alone, bit for bit; a site that several have gets one system with the keys of all of them (UCE,
Gandikota et al., WACV 2024, eq. 7, sums over concepts), which is not the same as their edits one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import Concept, EditSettings, Target, fit_edit
from loco_core.errors import EditError

if TYPE_CHECKING:
    from loco_core.editing.deltas import WeightDelta


@dataclass(frozen=True)
class Member:
    """One attribute of an edit of several.

    Attributes:
        concept: what is removed or replaced.
        sites: where; none where a method edits a text encoder.
        preserve: attributes that must read as before at these sites; at each, those that are edited there are left out.
    """

    concept: Concept
    sites: tuple[int, ...]
    preserve: tuple[Concept, ...] = ()


def fit_together(
    model: LoadedModel,
    members: Sequence[Member],
    settings: EditSettings,
    model_id: str,
    weights: str,
    localization: str = "by hand",
) -> WeightDelta:
    """Fits one edit of several attributes; their order does not matter.

    Args:
        model: a loaded model.
        members: the attributes, two or more, each once.
        settings: settings of the editor.
        model_id: the model's id in the sweep.
        weights: hash of its weights.
        localization: what picked the sites, for provenance.

    Raises:
        EditError: see :func:`loco_core.editing.base.fit_edit`; or an attribute is given twice, or none at all,
            or some have sites and others none.
    """
    # Sums of floats, and neurons that two attributes claim, depend on the order: it is always the same one.
    members = sorted(members, key=lambda member: member.concept.attribute)
    names = [member.concept.attribute for member in members]
    if len(set(names)) < max(1, len(names)):
        raise EditError(f"an edit of several attributes takes each once; got {', '.join(names) or 'none'}")
    placed = [member for member in members if member.sites]
    if placed and len(placed) < len(members):
        raise EditError("some of the attributes have sites and others none; expected sites of each, or of none")
    found = []
    for meeting, sites in meetings([member.sites for member in members]):
        mine = [members[number] for number in meeting]
        edited = {member.concept.attribute for member in mine}
        kept = {each.attribute: each for member in mine for each in member.preserve if each.attribute not in edited}
        preserve = tuple(record for each in kept.values() for record in each.records)
        concepts = tuple(member.concept for member in mine)
        found.append(fit_edit(model, Target(model_id, weights, sites, concepts, preserve, localization), settings))
    return _joined(found, members)


def meetings(sites: Sequence[Sequence[int]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns which attributes meet where, each site once.

    Args:
        sites: of each attribute.

    Returns:
        numbers of the attributes that meet, and the sites where exactly these do, in the order of the first site; all
        of them at no site where none has any.
    """
    if not any(sites):
        return [(tuple(range(len(sites))), ())]
    found: dict[tuple[int, ...], list[int]] = {}
    for site in sorted({site for each in sites for site in each}):
        found.setdefault(tuple(number for number, each in enumerate(sites) if site in each), []).append(site)
    return [(meeting, tuple(each)) for meeting, each in found.items()]


def _joined(parts: Sequence[WeightDelta], members: Sequence[Member]) -> WeightDelta:
    """Returns edits of different sites as one."""
    from loco_core.editing.deltas import WeightDelta

    concepts = [member.concept for member in members]
    made = replace(
        parts[0].provenance,
        sites=tuple(sorted({site for part in parts for site in part.provenance.sites})),
        attributes=tuple(concept.attribute for concept in concepts),
        components=tuple(dict.fromkeys(name for part in parts for name in part.provenance.components)),
        prompts=tuple((record.prompt, record.donor) for concept in concepts for record in concept.records),
    )
    return WeightDelta(made, tuple(change for part in parts for change in part.changes))

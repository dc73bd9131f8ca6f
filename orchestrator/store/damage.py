"""What can be wrong with a file of results, and what is done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.store import layout
from orchestrator.store.blobs import Kind

LOST_PLANS = f"{layout.PLANS}/missing"
"""Stands for plan files that are gone: nobody knows their numbers."""
STRAY = "holds another unit than its name says, as a copy does"
UNPUBLISHED = "not published by loco-sweep"


@dataclass(frozen=True)
class Damage:
    """A file that is not what was written.

    Attributes:
        path: under the results root.
        problem: what is wrong with it.
        remedy: what ``repair`` does about it.
        mended: whether it does; what is no file must be moved away by hand.
    """

    path: str
    problem: str
    remedy: str
    mended: bool = True


@dataclass(frozen=True)
class Examination:
    """What a look at all files found.

    Attributes:
        damages: files that are not what was written, by path.
        foreign: files that loco-sweep did not write and does not read, with a word on each; they are left alone.
        uncovered: what was not compared with any sum, in words.
    """

    damages: tuple[Damage, ...]
    foreign: Mapping[str, str]
    uncovered: tuple[str, ...]


@dataclass
class Survey:
    """What a look at all files found; problems by path, unit id or number of a part."""

    entries: dict[str, Kind]
    manifests: dict[int, tuple[str, ...]] = field(default_factory=dict)
    published: frozenset[int] = frozenset()
    bad_units: dict[str, str] = field(default_factory=dict)
    bad_manifests: dict[int, str] = field(default_factory=dict)
    bad_parts: dict[int, dict[str, str]] = field(default_factory=dict)
    bad_others: dict[str, str] = field(default_factory=dict)
    sums: dict[int, dict[str, str]] = field(default_factory=dict)
    immovable: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)
    uncovered: list[str] = field(default_factory=list)


def damages(survey: Survey) -> list[Damage]:
    """Returns what is damaged, with what is done about it."""
    in_sound_part = {
        unit_id
        for number, units in survey.manifests.items()
        if number in survey.sums and number not in survey.bad_parts
        for unit_id in units
    }
    found = [
        Damage(
            layout.unit(unit_id),
            problem,
            "restored from its published rows"
            if unit_id in in_sound_part
            else "set aside; computed again where one of its name is planned"
            if problem == STRAY
            else "set aside, to be computed again",
        )
        for unit_id, problem in survey.bad_units.items()
    ]
    found += [
        Damage(layout.manifest(number), problem, "its units are published anew")
        for number, problem in survey.bad_manifests.items()
    ]
    found += [
        Damage(path, problem, "made again from its units")
        for problems in survey.bad_parts.values()
        for path, problem in problems.items()
    ]
    found += [Damage(path, problem, _remedy(path, problem)) for path, problem in survey.bad_others.items()]
    found += [Damage(path, problem, "move it away by hand", mended=False) for path, problem in survey.immovable.items()]
    return sorted(found, key=lambda damage: damage.path)


def _remedy(path: str, problem: str) -> str:
    if path.startswith(layout.DELTAS):
        return "set aside, to be fitted again"
    if path == layout.REPORT:
        return "set aside; `loco-sweep report` writes it anew"
    if path == layout.RESOLVED:
        return "the next run writes it again; weights stay those that rows were made with"
    if path == LOST_PLANS:
        return "what is committed is taken into account, and not planned again"
    if layout.is_derived(path):
        return f"{'' if problem == 'missing' else 'set aside; '}the command that wrote it writes it again"
    if layout.is_read_with(path) and problem == UNPUBLISHED:
        return "set aside: who reads the folder reads it, too"
    return "set aside"

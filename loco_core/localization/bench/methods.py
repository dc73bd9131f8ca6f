"""Methods side by side on planted models: bundled ones and those of others, behind one interface."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from loco_core.errors import SpecError
from loco_core.localization.base import LocalizeSettings, Rule
from loco_core.localization.bench.planted import (
    Card,
    PlantedRates,
    PlantedResult,
    count_tables,
    endings,
    rates,
    read_cards,
    run_all_planted,
)
from loco_core.statistics import wilson

COLUMNS = (
    "planted in", "method", "tables", "named sites that are right", "right sites that are named", "exact set",
    "named where no run of sites holds it", "images", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A localizer as the bench takes it.

    Attributes:
        name: what it is called.
        rule: the localizer.
        tracer: what its traces are called in tables; None where it reads scores.
    """

    name: str
    rule: Rule
    tracer: str | None = None


@dataclass(frozen=True)
class MethodsReport:
    """What methods said of planted models; a person reads its parts, a program its JSON.

    Attributes:
        results: of every method by its name, those of tables that it can read.
        tables: how many tables there are.
        cards: what the sets of these tables are cited by, of those that say it.
    """

    results: Mapping[str, tuple[PlantedResult, ...]]
    tables: int
    cards: tuple[Card, ...] = ()

    @property
    def left_out(self) -> str:
        """Says which methods are not held against all tables; empty where all are."""
        few = {name: len(found) for name, found in self.results.items() if len(found) < self.tables}
        said = ", ".join(f"{name} {self.tables - count} of {self.tables}" for name, count in few.items())
        return f"left out, as these tables have no traces to read: {said}" if said else ""

    def lines(self) -> list[tuple[str, ...]]:
        """Returns the cells of `COLUMNS`, a line for each way of planting and method."""
        found = [(rate, name) for name, results in self.results.items() for rate in rates(results)]
        ways = list(dict.fromkeys(rate.planted for rate, _ in found))
        return [line_of(rate, name) for rate, name in sorted(found, key=lambda pair: ways.index(pair[0].planted))]

    def to_json(self) -> str:
        """The whole report as one JSON object."""
        methods = {
            name: {"planted": [asdict(one) for one in found], "planted_rates": [asdict(rate) for rate in rates(found)]}
            for name, found in self.results.items()
        }
        whole = {"methods": methods, "left_out": self.left_out, "planted_sets": [asdict(card) for card in self.cards]}
        return json.dumps(whole, indent=2)

    def parts(self) -> list[Table | str]:
        """Returns what a person reads of it."""
        table = Table(title=f"{self.tables} tables of planted models; counts with 95 % bounds in percent")
        for name in COLUMNS:
            table.add_column(name)
        for cells in self.lines():
            table.add_row(*cells)
        return [table, *endings(self.left_out, self.cards)]


def run_methods(
    folders: Sequence[Path], methods: Sequence[Method], settings: LocalizeSettings | None = None
) -> MethodsReport:
    """Holds methods against all planted tables that each of them can read.

    Args:
        folders: of tables, see `run_planted`.
        methods: what is compared.
        settings: given to all of them.

    Raises:
        SpecError: two methods have one name.
        LocalizationError: from a localizer, or about a folder.
    """
    settings = settings or LocalizeSettings()
    names = [method.name for method in methods]
    if again := {name for name in names if names.count(name) > 1}:
        raise SpecError(f"{', '.join(sorted(again))}: named twice; expected every localizer once")
    cards = read_cards(folders)
    results = {method.name: run_all_planted(folders, method.rule, settings, method.tracer) for method in methods}
    return MethodsReport(results, sum(map(count_tables, folders)), cards)


def line_of(rate: PlantedRates, name: str) -> tuple[str, ...]:
    """Returns the cells of `COLUMNS` of one method and way of planting."""
    return (
        rate.planted, name, str(rate.exact[1] + rate.false[1]),
        *(counted(*pair) for pair in (rate.precise, rate.recalled, rate.exact, rate.false)),
        f"{rate.images:.0f}", "-" if rate.seconds is None else f"{rate.seconds:.1f}",
    )  # fmt: skip


def counted(hits: int, of: int) -> str:
    """Returns a count with the Wilson interval of its share in percent, 95 %; a dash where nothing was counted."""
    low, high = wilson(hits, of)
    return f"{hits} of {of} ({100 * low:.0f}-{100 * high:.0f})" if of else "-"

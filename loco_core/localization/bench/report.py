"""What a localizer got right, with the uncertainty of the benchmark itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from loco_core.localization.base import LocalizeSettings
from loco_core.localization.bench.methods import COLUMNS, counted, line_of
from loco_core.localization.bench.planted import Card, PlantedResult, endings, rates
from loco_core.localization.bench.replay import Answer
from loco_core.localization.bench.truths import KINDS
from loco_core.statistics import wilson


@dataclass(frozen=True)
class Measure:
    """A rate with its Wilson bounds and what it should be.

    Attributes:
        name: name of what is counted.
        hits: number of hits.
        trials: number of trials.
        at_least: aim, where there is one.
        at_most: aim, where there is one.
    """

    name: str
    hits: int
    trials: int
    at_least: float = 0.0
    at_most: float = 1.0

    @property
    def value(self) -> float | None:
        """The rate; None if the localizer gave nothing to count."""
        return self.hits / self.trials if self.trials else None

    @property
    def bounds(self) -> tuple[float, float]:
        """Wilson bounds of the rate, 95 %."""
        return wilson(self.hits, self.trials)

    @property
    def passed(self) -> bool:
        """The rate itself lies where it should; of nothing nothing is asked."""
        return self.value is None or self.at_least <= self.value <= self.at_most

    @property
    def aim(self) -> str:
        """The aim in words; empty without one."""
        if self.at_least > 0 and self.at_most < 1:
            return f"{self.at_least:.0%}-{self.at_most:.0%}"
        if self.at_least > 0:
            return f"at least {self.at_least:.0%}"
        return f"at most {self.at_most:.0%}" if self.at_most < 1 else ""


@dataclass(frozen=True)
class OutcomeCount:
    """How often a truth kind got an outcome."""

    kind: str
    outcome: str
    tables: int
    right: bool


@dataclass(frozen=True)
class Savings:
    """What a localizer that begins small saves against one that is given the whole grid, and how often they agree.

    Attributes:
        tables: number of tables.
        same_outcome: number of tables with the same outcome.
        same: number with the same window too, where there is one.
        images: number of images that were scored for it, complements included.
        all_images: number of images that were scored for the other.
        drawn: images that were drawn for it, clean and donor images that go with every round included.
        all_drawn: number of images that were drawn for the other.
    """

    tables: int = 0
    same_outcome: int = 0
    same: int = 0
    images: int = 0
    all_images: int = 0
    drawn: int = 0
    all_drawn: int = 0

    def plus(self, few: Answer, whole: Answer) -> Savings:
        """Adds a table."""
        same_outcome = few.found.outcome == whole.found.outcome
        return Savings(
            self.tables + 1,
            self.same_outcome + same_outcome,
            self.same + (same_outcome and few.found.window == whole.found.window),
            self.images + few.images,
            self.all_images + whole.images,
            self.drawn + few.drawn,
            self.all_drawn + whole.drawn,
        )

    def __str__(self) -> str:
        def rate(hits: int) -> str:
            low, high = wilson(hits, self.tables)
            return f"{hits / self.tables:.1%} ({low:.1%}-{high:.1%})"

        return (
            f"{self.images / self.all_images:.1%} of the whole grid's scores, {self.drawn / self.all_drawn:.1%} of its "
            f"images (every round draws clean and donor again); same outcome in "
            f"{rate(self.same_outcome)} of {self.tables} tables, same window too in {rate(self.same)}"
        )


@dataclass(frozen=True)
class BenchReport:
    """The result of a benchmark; a person reads its parts, a program its JSON.

    Attributes:
        localizer: its name.
        settings: settings that it was given.
        condition: condition that says what the tables are like.
        seed: seed of the draw.
        tables: number of tables that were drawn.
        measures: rates with aims.
        flattery: mean excess of reported effects of localized windows over the true ones; None without any.
        savings: what it saves against a localizer that is given the whole grid; None where it was not compared.
        outcomes: number of tables by kind of truth and reported outcome.
        planted: results on tables of planted models; empty if none were given.
        cards: what the sets of these tables are cited by, of those that say it.
        left_out: which tables it is not held against, and why; empty where it is held against all.
        cpu_seconds: CPU time it took.
    """

    localizer: str
    settings: LocalizeSettings
    condition: str
    seed: int
    tables: int
    measures: tuple[Measure, ...]
    flattery: float | None
    savings: Savings | None
    outcomes: tuple[OutcomeCount, ...]
    planted: tuple[PlantedResult, ...]
    cards: tuple[Card, ...]
    left_out: str
    cpu_seconds: float

    @property
    def passed(self) -> bool:
        """All aims are met, as far as so many tables tell, and no answer on tables of captions' plants is wrong.

        Those tables are large enough to tell. Plants by the place of parameters are swept as people sweep, and of them
        rates are given.
        """
        return all(measure.passed for measure in self.measures) and all(
            result.right for result in self.planted if result.truth.planted == "captions"
        )

    def to_json(self) -> str:
        """The whole report as one JSON object."""
        measures = [
            asdict(m) | {"value": m.value, "low": m.bounds[0], "high": m.bounds[1], "passed": m.passed}
            for m in self.measures
        ]
        whole = {
            "localizer": self.localizer,
            "settings": self.settings.model_dump(),
            "condition": self.condition,
            "seed": self.seed,
            "tables": self.tables,
            "passed": self.passed,
            "measures": measures,
            "flattery": self.flattery,
            "savings": asdict(self.savings) if self.savings else None,
            "outcomes": [asdict(count) for count in self.outcomes],
            "planted": [asdict(result) for result in self.planted],
            "planted_sets": [asdict(card) for card in self.cards],
            "planted_rates": [asdict(rate) for rate in rates(self.planted)],
            "left_out": self.left_out,
            "cpu_seconds": self.cpu_seconds,
        }
        return json.dumps(whole, indent=2)

    def parts(self) -> list[Table | str]:
        """Returns what a person reads of it: tables, and sentences between them."""
        tables: list[Table | str] = [self._measure_table(), self._outcome_table()] if self.tables else []
        if self.flattery is not None:
            tables.append(f"reported effect of a localized window minus the true one, on average: {self.flattery:+.3f}")
        if self.savings and self.savings.tables:
            tables.append(f"drawn tables: {self.savings}")
        if self.planted:
            tables += [self._planted_table(), self._rates_table()]
        return [*tables, *endings(self.left_out, self.cards)]

    def _measure_table(self) -> Table:
        title = f"{self.localizer}: {self.tables} tables, {self.condition}, {self.cpu_seconds:.0f} s of CPU"
        table = Table(title=title)
        for name in ("measure", "rate", "95 % bounds", "of", "aim", ""):
            table.add_column(name)
        for m in self.measures:
            rate = "not given" if m.value is None else f"{m.value:.1%}"
            verdict = ("ok" if m.passed else "missed") if m.aim and m.value is not None else ""
            table.add_row(m.name, rate, f"{m.bounds[0]:.1%}-{m.bounds[1]:.1%}", str(m.trials), m.aim, verdict)
        return table

    def _outcome_table(self) -> Table:
        table = Table(title="what was said of what")
        for name in ("truth", "outcome", "tables", ""):
            table.add_column(name)
        for count in self.outcomes:
            known = count.kind in KINDS
            table.add_row(count.kind, count.outcome, str(count.tables), "" if count.right or not known else "wrong")
        return table

    def _planted_table(self) -> Table:
        right = sum(result.right for result in self.planted)
        title = f"planted models: {right} of {len(self.planted)} right"
        images, all_images = (sum(getattr(r, name) for r in self.planted) for name in ("images", "all_images"))
        table = Table(title=f"{title}, from {images:,} images; {all_images:,} are in the tables")
        for name in ("model", "attribute", "planted in", "planted", "found", ""):
            table.add_column(name)
        for r in self.planted:
            planted = f"{r.truth.outcome} {list(r.truth.sites)}"
            found = f"{r.outcome} {list(r.sites) or ''}"
            verdict = "" if r.right else f"wrong: {r.reason}"
            table.add_row(r.model, r.attribute, r.truth.planted, planted, found, verdict)
        return table

    def _rates_table(self) -> Table:
        table = Table(title=f"{self.localizer} on planted models; counts with 95 % bounds in percent")
        for name in (*COLUMNS, "named sites with trained weights"):
            table.add_column(name)
        for rate in rates(self.planted):
            table.add_row(*line_of(rate, self.localizer), counted(*rate.changed))
        return table


def side_by_side(reports: Sequence[BenchReport]) -> Table:
    """Returns one line per condition: every rate in percent, with its bounds."""
    table = Table(title=f"{reports[0].localizer}: {reports[0].tables} tables a condition, percent with 95 % bounds")
    table.add_column("condition")
    for measure in reports[0].measures:
        table.add_column(measure.name + (f" ({measure.aim})" if measure.aim else ""))
    table.add_column("reported minus true effect")
    for report in reports:
        rates = ["" if m.value is None else _percent(m) for m in report.measures]
        table.add_row(report.condition, *rates, "" if report.flattery is None else f"{report.flattery:+.3f}")
    return table


def _percent(measure: Measure) -> str:
    low, high = measure.bounds
    missed = "" if measure.passed else " missed"
    return f"{100 * (measure.value or 0):.1f} ({100 * low:.1f}-{100 * high:.1f}){missed}"

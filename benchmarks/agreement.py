"""Do weights and swaps say the same of plants by the place of parameters? Four questions about one run of sites each.

Surgery on weights names a run of sites without whose planted rows the look is gone. Where it names none, the window is
asked about whose swap does most. Of these sites: is the look gone where their rows are taken back (*revert*), is it
drawn where their rows alone are there (*transplant*), does it return where an edit of all sites is behind it and the
planted rows are restored (*restore*; of all planted rows, so it is asked where a run holds the look), and does swapping
what they read take it away (*swap*), with the bundled donor and with a name that nobody knows?
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.methods import print_table
from loco_core.localization.base import Effect, Localization, LocalizeSettings, rule
from loco_core.localization.bench.methods import counted
from loco_core.localization.bench.planted import REPORTS, UNKNOWN_DONOR
from loco_core.localization.bench.replay import ReplayedTable
from loco_core.statistics import wilson
from loco_core.toyworld.plants.draw import plant_from_json
from loco_core.toyworld.plants.surgery import TAKEN, Rate, least_drawn, unknown_names

REVERT, SWAP, UNKNOWN_SWAP = "revert", "swap", "swap, unknown donor"
QUESTIONS = (REVERT, "transplant", "restore", SWAP, UNKNOWN_SWAP)
NEAR = "near the line"
PUSHED_IN = "the donor pushed itself in: an unknown donor does not take the look away"
OUTSIDE = "sites outside this run hold a part of the look"
ENCODER = "the text encoder holds the name, and these sites read it"
NO_RUN = "by surgery no run of sites holds the look"
UNEXPLAINED = "none of these reasons"


@dataclass(frozen=True)
class Answer:
    """What one question gave.

    Attributes:
        says: whether these sites hold the look.
        near: the line lies in the 95 % interval of what was measured.
        shown: what was measured, in a word.
    """

    says: bool
    near: bool
    shown: str

    def __str__(self) -> str:
        return f"{'yes' if self.says else 'no'}, {self.shown}"


@dataclass(frozen=True)
class Reading:
    """All answers about one plant.

    Attributes:
        plant: its name.
        changed: sites with planted rows; none where the text encoder was planted.
        runs: runs that hold the look, by surgery.
        asked: the sites that are asked about.
        answers: by question; without those that were not asked, or cannot be answered.
        donor: the unknown donor, and in how many pictures it draws the look.
        named: what the localizer `window` makes of all swaps: its outcome, and the sites that it names.
    """

    plant: str
    changed: tuple[int, ...]
    runs: tuple[tuple[int, ...], ...]
    asked: tuple[int, ...]
    answers: Mapping[str, Answer]
    donor: str
    named: str

    @property
    def differing(self) -> dict[str, str]:
        """Questions that are answered otherwise than by reverting rows, each with the reason."""
        right = self.answers[REVERT].says
        return {name: self._reason(name) for name, answer in self.answers.items() if answer.says != right}

    def _reason(self, question: str) -> str:
        answer, unknown = self.answers[question], self.answers.get(UNKNOWN_SWAP)
        if answer.near or self.answers[REVERT].near:
            return NEAR
        if not answer.says:
            return OUTSIDE if set(self.changed) - set(self.asked) else UNEXPLAINED
        if question == SWAP and unknown is not None and not unknown.says:
            return PUSHED_IN
        if not self.changed:
            return ENCODER
        return NO_RUN if not self.runs else UNEXPLAINED


def read_plant(said: Mapping[str, Any], swaps: Mapping[str, Localization]) -> Reading:
    """Returns the answers about one plant.

    Args:
        said: its report.
        swaps: what `window` says of swept windows, by question; without those that were not swept.
    """
    changed = tuple(said["plant"]["sites"])
    runs = tuple(tuple(run) for run in said["surgery"]["runs"])
    best = max(swaps[SWAP].effects, key=lambda row: row.effect or 0.0)
    asked = runs[0] if runs else tuple(range(best.window_start, best.window_start + best.window_size))
    mine = [site for site in changed if site in asked]
    taught = said["taught"]["hits"] / said["taught"]["of"]

    def rate(of: Mapping[str, Any], line: float, at_most: bool) -> Answer:
        share, (low, high) = of["hits"] / of["of"], wilson(of["hits"], of["of"])
        says = share <= line + 1e-9 if at_most else share >= line - 1e-9
        return Answer(says, low <= line <= high, f"{of['hits']}/{of['of']}")

    def subset(name: str, without: Mapping[str, Any]) -> Mapping[str, Any]:
        return next(row for row in said["surgery"]["subsets"] if row[name] == mine) if mine else without

    answers = {
        REVERT: rate(subset("reverted", said["taught"]), (1 - TAKEN) * taught, at_most=True),
        "transplant": rate(subset("transplanted", said["unknown"]), TAKEN * taught, at_most=False),
    }
    # Behind an edit that leaves the look there is nothing to bring back.
    if runs and "restore" in said and rate(said["restore"]["edited"], (1 - TAKEN) * taught, at_most=True).says:
        answers["restore"] = rate(said["restore"]["restored"], TAKEN * taught, at_most=False)
    for question, swapped in swaps.items():
        of = {(row.window_start, row.window_size): row for row in swapped.effects}
        if (row := of.get((asked[0], len(asked)))) is not None and row.effect is not None:
            answers[question] = _swapped(row)
    window = swaps[SWAP].window
    named = f"{swaps[SWAP].outcome} {list(window.sites) if window else ''}".rstrip()
    word, leaks = unknown_donor(said)
    donor = f"{word}, {leaks.hits}/{leaks.of}"
    return Reading(plant_from_json(said["plant"]).key, changed, runs, asked, answers, donor, named)


def _swapped(row: Effect) -> Answer:
    threshold, effect = LocalizeSettings().threshold, row.effect or 0.0
    if row.ci_low is None or row.ci_high is None:
        return Answer(effect >= threshold, near=True, shown=f"{effect:.2f}")
    near = row.ci_low <= threshold <= row.ci_high
    return Answer(effect >= threshold, near, f"{effect:.2f} ({row.ci_low:.2f}-{row.ci_high:.2f})")


def unknown_donor(said: Mapping[str, Any]) -> tuple[str, Rate]:
    """Returns that of the measured other names which draws the look least, and how often it does.

    Args:
        said: the report of a plant.
    """
    plant, rates = plant_from_json(said["plant"]), [Rate(rate["hits"], rate["of"]) for rate in said["other_names"]]
    name = least_drawn(plant, rates)
    return name, rates[unknown_names(plant).index(name)]


def localized(table: Path) -> Localization:
    """Returns what the localizer `window` says of a table."""
    return ReplayedTable(pq.read_table(table)).answer(rule("window"), LocalizeSettings()).found


def readings(tables: Path) -> list[Reading]:
    """Returns the answers about all plants of a folder of tables."""
    found = []
    for path in sorted(tables.glob("*.parquet")):
        files = {SWAP: path, UNKNOWN_SWAP: tables / UNKNOWN_DONOR / path.name}
        swaps = {question: localized(file) for question, file in files.items() if file.exists()}
        said = json.loads((tables / REPORTS / f"{path.stem}.json").read_text())
        found.append(read_plant(said, swaps))
    return found


def print_agreement(tables: Path) -> None:
    """Prints, a plant a line, all answers, and then how many plants they agree on, and why not."""
    found = readings(tables)
    print_table(
        ("plant", "changed at", "asked of", *QUESTIONS, "unknown donor", "`window` says", "differs"), map(_cells, found)
    )
    print()
    same = sum(not reading.differing for reading in found)
    print(f"All answers are the same in {counted(same, len(found))} plants (95 % bounds in percent).\n")
    rows = []
    for question in QUESTIONS[1:]:
        asked = [reading for reading in found if question in reading.answers]
        reasons = Counter(reading.differing[question] for reading in asked if question in reading.differing)
        agree = len(asked) - sum(reasons.values())
        why = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common()) or "-"
        rows.append((question, counted(agree, len(asked)), why))
    print_table(("question", "as by revert", "where not, why"), rows)


def _cells(reading: Reading) -> tuple[str, ...]:
    answers = [str(reading.answers.get(question, "-")) for question in QUESTIONS]
    differs = "; ".join(f"{question}: {reason}" for question, reason in reading.differing.items())
    asked = f"{list(reading.asked)}" + ("" if reading.runs else ", no run holds it")
    return (
        reading.plant,
        str(list(reading.changed) or "text encoder"),
        asked,
        *answers,
        reading.donor,
        reading.named,
        differs or "-",
    )

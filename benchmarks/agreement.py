"""Do weights and swaps say the same of plants by the place of parameters? Four questions about one run of sites each.

Surgery on weights names a run of sites without whose planted rows the look is gone. Of these sites: is the look gone
where their rows are taken back (*revert*), is it drawn where their rows alone are there (*transplant*), does it return
where an edit of all sites is behind it and the planted rows are restored (*restore*; of all planted rows, so it is
asked where a run holds the look), and does swapping what they read take it away (*swap*), with the bundled donor and
with a name that nobody knows, if that seldom draws the look itself?

Where surgery names no run, the strongest window of thousands of pictures would pass by luck. There a swap answers by
what the localizer `window` says of its sweep: is there any window whose swap takes the look away?
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.methods import print_table
from loco_core.localization.base import Localization, LocalizeSettings, rule
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
UNEXPLAINED = "none of these reasons"
SWAPPED_AWAY = ("localized", "multiple", "damaging")
"""Outcomes of `window` by which some window's swap takes the look away."""
UNDECIDED = ("inconclusive", "incomplete")
"""Outcomes of `window` that answer nothing."""


@dataclass(frozen=True)
class Answer:
    """What one question gave.

    Attributes:
        says: whether these sites hold the look.
        near: the line lies in the 95 % interval of what was measured.
        shown: what was measured, in a word.
        given: nothing was asked, as all planted rows or none lie at these sites; then it counts as no agreement.
    """

    says: bool
    near: bool
    shown: str
    given: bool = False

    def __str__(self) -> str:
        return f"{'yes' if self.says else 'no'}, {self.shown}{' (given)' if self.given else ''}"


@dataclass(frozen=True)
class Reading:
    """All answers about one plant.

    Attributes:
        plant: its name.
        changed: sites with planted rows; none where the text encoder was planted.
        runs: runs that hold the look, by surgery.
        asked: the sites that weights are asked about: the first run, or the window that `window` speaks of.
        answers: by question; without those that were not asked, or cannot be answered.
        donor: the unknown donor, and in how many pictures it draws the look.
        leaks: the donor draws so much of the look that a swap with it cannot take the look away, and is not asked.
        named: what the localizer `window` makes of all swaps: its outcome, and the sites that it names.
    """

    plant: str
    changed: tuple[int, ...]
    runs: tuple[tuple[int, ...], ...]
    asked: tuple[int, ...]
    answers: Mapping[str, Answer]
    donor: str
    leaks: bool
    named: str

    @property
    def complete(self) -> bool:
        """All questions have an answer."""
        return set(self.answers) == set(QUESTIONS)

    @property
    def differing(self) -> dict[str, str]:
        """Questions that are answered otherwise than by reverting rows, each with the reason."""
        right = self.answers[REVERT].says
        return {name: self._reason(name) for name, answer in self.answers.items() if answer.says != right}

    def _reason(self, question: str) -> str:
        answer, unknown = self.answers[question], self.answers.get(UNKNOWN_SWAP)
        if answer.near:
            return NEAR
        if question == "transplant" and not answer.says and set(self.changed) - set(self.asked):
            return OUTSIDE
        if question == SWAP and answer.says and unknown is not None and not unknown.says:
            return PUSHED_IN
        return ENCODER if answer.says and not self.changed else UNEXPLAINED


def read_plant(said: Mapping[str, Any], swaps: Mapping[str, Localization]) -> Reading:
    """Returns the answers about one plant.

    Args:
        said: its report.
        swaps: what `window` says of swept windows, by question; without those that were not swept.
    """
    plant, known = plant_from_json(said["plant"]), swaps[SWAP]
    runs = tuple(tuple(run) for run in said["surgery"]["runs"])
    asked = runs[0] if runs else _spoken_of(known)
    word, drawn = unknown_donor(said)
    leaks = drawn.share > (1 - TAKEN) * said["taught"]["hits"] / said["taught"]["of"] + 1e-9
    answers = _by_weights(said, asked, restore=bool(runs))
    for question, swapped in swaps.items():
        answer = _of_window(swapped, asked) if runs else _of_all_windows(swapped)
        if answer is not None and not (leaks and question == UNKNOWN_SWAP):
            answers[question] = answer
    named = f"{known.outcome} {list(known.window.sites) if known.window else ''}".rstrip()
    donor = f"{word}, {drawn.hits}/{drawn.of}"
    return Reading(plant.key, tuple(plant.sites), runs, asked, answers, donor, leaks, named)


def _spoken_of(found: Localization) -> tuple[int, ...]:
    """Returns the sites that `window` speaks of; where it speaks of none, those of the strongest window."""
    if found.best_start is not None and found.best_size is not None:
        return tuple(range(found.best_start, found.best_start + found.best_size))
    return max(found.effects, key=lambda row: row.effect or 0.0).window.sites


def _by_weights(said: Mapping[str, Any], asked: Sequence[int], *, restore: bool) -> dict[str, Answer]:
    """Returns what surgery answers about some sites."""
    changed, taught = said["plant"]["sites"], said["taught"]["hits"] / said["taught"]["of"]
    mine = [site for site in changed if site in asked]
    given = len(mine) in (0, len(changed))
    gone, there = (1 - TAKEN) * taught, TAKEN * taught

    def subset(name: str, without: Mapping[str, Any]) -> Mapping[str, Any]:
        return next(row for row in said["surgery"]["subsets"] if row[name] == mine) if mine else without

    answers = {
        REVERT: _rate(subset("reverted", said["taught"]), gone, at_most=True, given=given),
        "transplant": _rate(subset("transplanted", said["unknown"]), there, at_most=False, given=given),
    }
    # Behind an edit that leaves the look there is nothing to bring back.
    if restore and "restore" in said and _rate(said["restore"]["edited"], gone, at_most=True).says:
        answers["restore"] = _rate(said["restore"]["restored"], there, at_most=False)
    return answers


def _rate(of: Mapping[str, Any], line: float, *, at_most: bool, given: bool = False) -> Answer:
    share, (low, high) = of["hits"] / of["of"], wilson(of["hits"], of["of"])
    says = share <= line + 1e-9 if at_most else share >= line - 1e-9
    return Answer(says, low <= line <= high, f"{of['hits']}/{of['of']}", given)


def _of_window(found: Localization, sites: Sequence[int]) -> Answer | None:
    """Returns what swapping one window does; None where it was not swept."""
    of = {(row.window_start, row.window_size): row for row in found.effects}
    row = of.get((sites[0], len(sites)))
    if row is None or row.effect is None:
        return None
    threshold = LocalizeSettings().threshold
    if row.ci_low is None or row.ci_high is None:
        return Answer(row.effect >= threshold, near=True, shown=f"{row.effect:.2f}")
    near = row.ci_low <= threshold <= row.ci_high
    return Answer(row.effect >= threshold, near, f"{row.effect:.2f} ({row.ci_low:.2f}-{row.ci_high:.2f})")


def _of_all_windows(found: Localization) -> Answer | None:
    """Returns whether any window's swap takes the look away, by bounds of all; None where these leave it open."""
    if found.outcome in UNDECIDED:
        return None
    return Answer(found.outcome in SWAPPED_AWAY, near=False, shown=found.outcome.replace("_", " "))


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
    complete = [reading for reading in found if reading.complete]
    same = sum(not reading.differing for reading in complete)
    print(f"All five answers are the same in {counted(same, len(complete))} plants that have all five.")
    swept = [reading for reading in found if (tables / UNKNOWN_DONOR / f"{reading.plant}.parquet").exists()]
    print(f"The unknown donor seldom draws the look in {sum(not one.leaks for one in swept)} of {len(swept)} plants.\n")
    held = {"a run holds it": True, "no run holds it": False}
    rows = [
        (words, *line)
        for words, runs in held.items()
        for line in agreement([reading for reading in found if bool(reading.runs) == runs])
    ]
    print_table(("plants", "question", "as by surgery", "where not, why"), rows)


def agreement(found: Sequence[Reading]) -> list[tuple[str, str, str]]:
    """Returns a line a question: its name, in how many plants it answers as `REVERT` does, and why not in others.

    Args:
        found: plants; those that a question was not asked of are left out, and those whose answer was given.
    """
    rows = []
    for question in QUESTIONS[1:]:
        asked = [one for one in found if question in one.answers and not one.answers[question].given]
        reasons = Counter(one.differing[question] for one in asked if question in one.differing)
        why = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common()) or "-"
        rows.append((question, counted(len(asked) - reasons.total(), len(asked)), why))
    return rows


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

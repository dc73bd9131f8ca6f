"""Drawings of a report: what each mark stands for, and that words and marks say the same."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

import pytest

from loco_core.localization.swap_words import swap_words
from orchestrator.reporting.denoiser import draw
from orchestrator.reporting.profile import profile
from orchestrator.reporting.triangle import UNKNOWN, colours, edges, triangle
from orchestrator.reporting.verdicts import badge, place, state, verdict
from orchestrator.reporting.windows import WindowEffect
from orchestrator.store.schemas import TABLES

UNET = [f"{block}.attentions.{i}" for block in ("down_blocks.0", "mid_block", "up_blocks.0") for i in (0, 1)]


def row(**known: Any) -> dict[str, Any]:
    return {**dict.fromkeys(TABLES["localizations"].names), "model": "toy", "attribute": "style/lumio", **known}


def localized(**known: Any) -> dict[str, Any]:
    window = {"window_start": 2, "window_size": 2, "best_start": 2, "best_size": 2}
    return row(
        outcome="localized", about="these_prompts", n_prompts=8, effect=0.9, localizer="window", **window, **known
    )


def windows(effects: Mapping[tuple[int, int], float | None]) -> list[WindowEffect]:
    return [
        WindowEffect(start, size, effect, None if effect is None else effect - 0.1, effect, None)
        for (start, size), effect in effects.items()
    ]


@pytest.mark.parametrize("threshold", [0.25, 0.8, 1.0])
def test_the_colour_changes_at_the_threshold(threshold: float) -> None:
    scale = colours(threshold)
    assert threshold in edges(threshold)
    assert scale[0][0] == 0
    assert scale[-1][1] == 1
    assert [high for _, high, _ in scale[:-1]] == [low for low, _, _ in scale[1:]]
    assert len({number for *_, number in scale}) == len(scale)
    below, at = threshold - 1e-9, threshold
    drawn = triangle(row(), 2, windows({(0, 1): below, (1, 1): at}), threshold)
    assert [number for number in drawn.cells if number in (7, 8)] == [7, 8]


def test_every_window_is_a_cell_in_its_row_and_column() -> None:
    effects: dict[tuple[int, int], float | None]
    effects = {(start, size): start / 10 for size in (1, 2, 4) for start in range(7 - size)}
    effects[0, 4] = None
    drawn = triangle(localized(), 6, windows(effects), 0.8)
    cells = [
        (colour, (int(x) - drawn.left) // drawn.step, drawn.sizes[(int(y) - drawn.top) // drawn.row])
        for colour, path in drawn.cells.items()
        for x, y in re.findall(r"M(\d+) (\d+)h", path)
    ]
    assert sorted((start, size) for _, start, size in cells) == sorted(effects)
    assert [(start, size) for colour, start, size in cells if colour == UNKNOWN] == [(0, 4)]
    assert drawn.outline == (drawn.left + 2 * drawn.step, drawn.top + drawn.row, drawn.step)
    assert drawn.picked
    candidate = triangle(row(outcome="inconclusive", best_start=1, best_size=1), 6, windows(effects), 0.8)
    assert (candidate.outline, candidate.picked) == ((drawn.left + drawn.step, drawn.top, drawn.step), False)


def test_bars_are_those_of_the_size_that_the_finding_speaks_of() -> None:
    effects = {(start, size): 0.5 for size in (1, 2) for start in range(7 - size)}
    drawn = profile(localized(), UNET, windows(effects), 0.8, "localized: sites 2–3")
    assert drawn.size == 2
    assert [bar.words.partition(":")[0] for bar in drawn.bars] == ["0–1", "1–2", "2–3", "3–4", "4–5"]
    assert [bar.words for bar in drawn.bars if bar.marked] == ["2–3: 50 % [40, 50]"]
    assert list(drawn.marked) == [2, 3]
    assert [text for _, text in drawn.drawing.labels] == ["0", "5", "mid"]
    centres = [bar.x + bar.width / 2 for bar in drawn.bars]
    assert centres == sorted(centres)
    assert drawn.left < centres[0] < centres[-1] < drawn.right


def test_a_finding_without_windows_shows_its_sites_alone() -> None:
    drawn = profile(row(outcome="incomplete"), UNET, [], 0.8, place(row(outcome="incomplete")))
    assert (drawn.bars, drawn.levels, drawn.size, list(drawn.marked)) == ((), (), 0, [])
    assert len(drawn.drawing.sites) == 6
    assert "no window named" in drawn.words


def test_effects_beyond_what_is_drawn_stay_inside() -> None:
    drawn = profile(localized(), UNET, windows({(0, 2): -7.0, (2, 2): 9.0}), 0.8, "")
    assert all(bar.y >= 0 and bar.y + bar.height <= drawn.below for bar in drawn.bars)
    assert [bar.words.partition("%")[0].strip() for bar in drawn.bars] == ["0–1: -700", "2–3: 900"]


def test_the_coarsest_maps_of_a_unet_lie_lowest() -> None:
    at = {site.name: site.y for site in draw(UNET, 20).sites}
    assert at["mid_block.attentions.0"] > at["down_blocks.0.attentions.0"] == at["up_blocks.0.attentions.0"]
    assert {site.y for site in draw(["blocks.0", "blocks.1"], 20).sites} == {0}


@pytest.mark.parametrize(
    ("about", "word"),
    [("these_pictures", "picked"), ("these_prompts", "localized"), ("prompts_like_these", "localized")],
)
def test_badge_line_and_drawing_use_one_word(about: str, word: str) -> None:
    other = {"picked": "localized", "localized": "picked"}[word]
    found = localized() | {"about": about}
    assert state(found) == word
    for text in (badge(found), place(found)):
        assert text.startswith(word)
    assert other not in f"{badge(found)} {place(found)} {verdict(found)}"


def test_a_verdict_is_one_line_of_what_was_found() -> None:
    found = localized(ci_low=0.8, ci_high=1.0, holds_in=7)
    assert verdict(found) == "Sites 2–3 hold it: swapping removes 90 % [80, 100], in 7 of 8 prompts."
    weak = row(outcome="distributed", best_start=4, best_size=1, effect=0.3, ci_low=0.2, ci_high=0.4)
    assert verdict(weak) == "No window that was swept holds it. Strongest window: site 4, which removes 30 % [20, 40]."
    assert verdict(row(outcome="no_effect")) == "Even the donor prompt does not remove it."
    said = verdict(row(outcome="no_effect"), swap_words("weights"))
    assert said == "Even the donor model at all sites does not remove it."
    outcomes = ("multiple", "redundant", "inconclusive", "absent", "no_effect", "damaging", "incomplete")
    said = [verdict(row(outcome=outcome)) for outcome in outcomes]
    assert all(text.endswith(".") for text in said)
    assert all(a != b for a, b in itertools.combinations(said, 2))

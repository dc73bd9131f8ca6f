"""What a localization takes from its table and its effects, so that a localizer need not say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from loco_core.errors import LocalizationError
from loco_core.localization.base import Effect, Localization, LocalizeSettings, Rule, in_words, rule
from loco_core.localization.score_table import ScoreTable, read_scores
from loco_core.testing.localizers import SETTINGS, SITE_NAMES, a_table
from loco_core.types import Window

EFFECTS = (Effect(3, 1, 0.5), Effect(4, 1, 0.9, 0.8, 1.0, damage=0.02, in_tie_set=True), Effect(4, 2, 0.95))


@pytest.fixture
def table() -> ScoreTable:
    return read_scores(a_table().scores, SITE_NAMES)


def test_what_follows_from_the_table_and_the_effects_is_filled_in(table: ScoreTable) -> None:
    found = Localization.of(table, "localized", "because", best=Window(4, 1), effects=EFFECTS)
    assert (found.model, found.attribute, found.mode) == ("simulated", "style/simulated", "remove")
    assert (found.window, found.best_start, found.site_names) == (Window(4, 1), 4, ("site.4",))
    assert (found.effect, found.ci_low, found.ci_high, found.damage, found.tie_set) == (0.9, 0.8, 1.0, 0.02, (4,))
    assert (found.n_prompts, found.n_seeds, found.cells) == (len(table.prompts), len(table.seeds), table.cells)
    assert {row.n_prompts for row in found.effects} == {len(table.prompts)}
    assert found.relative_depth == pytest.approx(4 / 15)


def test_without_a_pick_there_is_no_window_but_the_best_one_is_known(table: ScoreTable) -> None:
    found = Localization.of(table, "inconclusive", "why", best=Window(4, 1), effects=EFFECTS)
    assert (found.window, found.site_names, found.relative_depth) == (None, (), None)
    assert (found.best_start, found.best_size, found.effect) == (4, 1, 0.9)
    nothing = Localization.of(table, "no_effect", "why")
    assert (nothing.best_start, nothing.effect, nothing.tie_set, nothing.effects) == (None, None, (), ())


def test_what_a_localizer_knows_stands_in_place_of_what_follows(table: ScoreTable) -> None:
    effects = [Effect(4, 1, 0.9, n_prompts=0)]
    found = Localization.of(table, "localized", "x", best=Window(4, 1), effects=effects, effect=None, n_prompts=2)
    assert (found.effect, found.n_prompts, found.exploratory) == (None, 2, True)
    assert found.effects[0].n_prompts == 0, "a window without cells has none"


def test_whoever_calls_a_localizer_fills_in_its_name_and_the_threshold() -> None:
    scores, settings = a_table().scores, LocalizeSettings(threshold=0.7)
    found = rule("argmin")(scores, settings, SITE_NAMES, None)
    assert (found.localizer, found.threshold) == ("argmin", 0.7)
    own = Rule(lambda *given: found)(scores, settings, (), None)
    assert own.localizer == "argmin"


def test_what_a_localizer_says_of_itself_in_reports_takes_no_file(tmp_path: object) -> None:
    assert in_words("causal_tracing", "SHARE") == "brought back"
    assert in_words(f"{tmp_path}/none.py", "SHARE") == ""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return 3", r"odd: localize returned '3'; expected a Localization"),
        ("return [][0]", r"odd: localize raised IndexError: list index out of range"),
        ("return replace(honest(*args), outcome='found')", r'odd: localize gives the outcome "found"; expected one of'),
        (
            "return replace(honest(*args), outcome='localized', window_start=15, window_size=2)",
            r"odd: localize picks sites 15 to 16 of 16",
        ),
        ("return replace(honest(*args), outcome='localized', window_start=None)", r"odd: localize says localized and"),
    ],
)
def test_what_is_no_localization_is_refused_in_one_line(tmp_path: Path, body: str, expected: str) -> None:
    path = tmp_path / "odd.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from loco_core.localization.localizers.window import localize as honest\n\n\n"
        f"def localize(*args):\n    {body}\n"
    )
    with pytest.raises(LocalizationError, match=expected):
        rule(str(path))(a_table().scores, SETTINGS, SITE_NAMES, None)

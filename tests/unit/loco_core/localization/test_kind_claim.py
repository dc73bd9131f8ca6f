from __future__ import annotations

from functools import cache
from itertools import islice

import pyarrow as pa
import pytest

from loco_core.errors import LocalizationError
from loco_core.localization.bench import Noise
from loco_core.localization.kind_claim import claim_kind
from loco_core.testing.localizers import SETTINGS, a_table
from loco_core.types import Window

QUIET = Noise(prompt_full=0.005, window_prompt=0.002, window_seed=0.002, image=0.004)


@cache
def drawn(window: Window) -> tuple[pa.Table, ...]:
    """Tables of four attributes that truly sit at one window."""
    tables = (a_table("single", seed, QUIET) for seed in range(5000))
    return tuple(table.scores for table in islice((t for t in tables if t.window == window), 4))


def tables_at(window: Window, count: int) -> list[pa.Table]:
    return [named(scores, f"style/{i}") for i, scores in enumerate(drawn(window)[:count])]


def named(scores: pa.Table, name: str) -> pa.Table:
    return scores.set_column(scores.column_names.index("attribute"), "attribute", pa.array([name] * scores.num_rows))


def test_attributes_at_one_window_support_the_claim() -> None:
    claim = claim_kind(tables_at(Window(8, 1), 4), Window(8, 1), SETTINGS)
    assert claim.holds
    assert claim.ci_low < 0.95 < claim.ci_high
    assert [a.holds for a in claim.attributes] == [True] * 4


def test_one_attribute_elsewhere_breaks_the_claim_and_is_named() -> None:
    elsewhere = named(tables_at(Window(2, 1), 1)[0], "style/elsewhere")
    claim = claim_kind([*tables_at(Window(8, 1), 3), elsewhere], Window(8, 1), SETTINGS)
    assert not claim.holds
    assert {a.attribute: a.holds for a in claim.attributes} == {
        "style/0": True,
        "style/1": True,
        "style/2": True,
        "style/elsewhere": False,
    }


def test_an_attribute_that_is_not_drawn_counts_against_the_claim() -> None:
    absent = named(a_table("absent", 0, QUIET).scores, "style/absent")
    claim = claim_kind([*tables_at(Window(8, 1), 3), absent], Window(8, 1), SETTINGS)
    assert not claim.holds
    assert next(a for a in claim.attributes if a.attribute == "style/absent").effect is None


def test_order_of_tables_does_not_matter() -> None:
    tables = tables_at(Window(8, 1), 3)
    assert claim_kind(tables, Window(8, 1), SETTINGS) == claim_kind(tables[::-1], Window(8, 1), SETTINGS)


def test_what_cannot_be_claimed_is_refused() -> None:
    one, two = tables_at(Window(8, 1), 2)
    with pytest.raises(LocalizationError, match="two or more attributes"):
        claim_kind([one], Window(8, 1), SETTINGS)
    with pytest.raises(LocalizationError, match="two or more attributes"):
        claim_kind([one, one], Window(8, 1), SETTINGS)
    with pytest.raises(LocalizationError, match=r"window \(8, 5\) was not swept"):
        claim_kind([one, two], Window(8, 5), SETTINGS)

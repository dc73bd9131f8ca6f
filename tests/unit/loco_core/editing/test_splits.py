from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loco_core.attributes import bundled
from loco_core.editing.splits import fit_templates, splits
from loco_core.errors import SpecError
from loco_core.types import Attribute, PromptRecord
from tests.support.edit_specs import STYLE


def contents(records: tuple[PromptRecord, ...]) -> set[str]:
    return {record.content_text for record in records}


@given(st.sampled_from(sorted(bundled())), st.integers(1, 24))
def test_no_content_is_used_in_two_splits(key: str, localized_on: int) -> None:
    item = bundled()[key]
    found = splits(item, min(localized_on, len(item.records)))
    parts = [contents(found[name]) for name in ("fit", "select", "report")]  # type: ignore[index]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    assert {record.template_id for record in (*found["fit"], *found["select"])} <= fit_templates(item)


def test_contents_that_the_sweep_has_not_seen_are_kept_for_measuring() -> None:
    found = splits(STYLE, 4)
    assert contents(found["fit"]) == contents(found["localize"])
    assert not contents(found["localize"]) & (contents(found["select"]) | contents(found["report"]))


def test_too_few_contents_are_refused() -> None:
    few = Attribute("style", "x", "remove", tuple(r for r in STYLE.records if r.content_text == "a red circle"))
    with pytest.raises(SpecError, match=r"style/x: .* need 3 different content texts or more; it has 1"):
        splits(few, 1)

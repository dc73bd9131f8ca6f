from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loco_core.attributes import attribute, bundled
from loco_core.scoring.classes import classes_of

ALL = classes_of([attribute("style/van-gogh"), attribute("style/lumio")])


def test_a_judge_chooses_among_all_artists_and_what_the_donor_shows() -> None:
    paper = classes_of([attribute("style/van-gogh")])
    assert len(paper["style"].names) == 10
    assert {"van-gogh", "monet", "munch", "a painting"} <= set(paper["style"].names)
    texts = {item.name: item.text for item in paper["style"].classes}
    assert texts["monet"] == "a painting in the style of Monet"
    assert set(paper) == {"style", "object", "fact"}
    assert {"snoopy", "a cartoon dog"} <= set(paper["object"].names)


@given(st.sampled_from(sorted(bundled())))
def test_every_bundled_prompt_says_its_attribute_and_its_donor_another_class(key: str) -> None:
    item = attribute(key)
    kind = classes_of([item])[item.kind]
    for record in item.records:
        assert kind.said(record.prompt) == item.name
        assert kind.said(record.donor) not in (None, item.name)
        assert kind.said(record.donor) in kind.names


@pytest.mark.parametrize(
    ("kind", "prompt", "said"),
    [
        ("style", "a big cat in the style of Van Gogh", "van-gogh"), ("style", "a cat on a mat", None),
        ("style", "VAN  GOGH!", "van-gogh"), ("style", "a van", None), ("object", "Snoopy, by Monet", "snoopy"),
        # A donor that is another attribute's prompt is that attribute.
        ("object", "a red cross", "cross"), ("colour", "a very red thing", "red"), ("colour", "one orange", "orange"),
        ("fact", "the flag of zandia in the style of velor", "zandia"),
        ("style", "the flag of zandia in the style of velor", "velor"), ("style", "", None),
    ],
)  # fmt: skip
def test_a_prompt_says_the_class_whose_own_words_it_has(kind: str, prompt: str, said: str | None) -> None:
    assert ALL[kind].said(prompt) == said


def test_a_donor_that_all_attributes_share_names_nothing_where_it_replaces() -> None:
    def of(mode: str) -> tuple[str | None, ...]:
        items = []
        for name in ("oval", "kite"):
            records = tuple(
                replace(record, prompt=f"{name} {n}", donor=f"shape {n}", score_text=f"a {name}", donor_text="a shape")
                for n, record in enumerate(attribute("style/lumio").records)
            )
            items.append(replace(attribute("style/lumio"), kind="form", name=name, mode=mode, records=records))
        kind = classes_of(items)["form"]
        return kind.said("oval 1"), kind.said("shape 1")

    assert of("replace") == ("oval", None)
    assert of("remove") == ("oval", "a shape")

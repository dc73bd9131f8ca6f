"""Drawers: what they hold, how a third party adds to them, and what is said of a wrong name."""

from __future__ import annotations

from pathlib import Path

import pytest

from loco_core import registry
from loco_core.attributes import attribute, bundled
from loco_core.errors import SpecError
from loco_core.models import find_model


def test_a_file_in_a_drawer_is_an_entry() -> None:
    assert {"argmin", "window"} <= set(registry.keys("localizers"))
    assert {"clip", "judge"} <= set(registry.keys("scorers"))
    assert "stable_diffusion" in registry.keys("models")


def test_a_python_file_is_an_entry_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def localize(scores, settings, site_names=()):\n    return 'found'\n")
    assert registry.load("localizers", str(file)).localize(None, None) == "found"
    with pytest.raises(SpecError, match="no file"):
        registry.load("localizers", str(tmp_path / "none.py"))


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: registry.load("localizers", "windw"), "window"),
        (lambda: attribute("style/van-gog"), "style/van-gogh"),
        (lambda: find_model("sd-15"), "sd15"),
    ],
)
def test_a_wrong_name_names_its_neighbour(call: object, near: str) -> None:
    with pytest.raises(SpecError, match=f'did you mean "{near}"'):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("key", sorted(bundled()))
def test_every_bundled_attribute_is_sound(key: str) -> None:
    item = attribute(key)
    assert item.key == key
    assert len(item.records) >= 16
    assert len({(r.prompt, r.donor) for r in item.records}) == len(item.records)
    for record in item.records:
        assert record.prompt != record.donor
        assert record.score_text != record.donor_text
        assert not set("{}") & set(" ".join(vars(record).values()))
    first = item.records[:8]
    assert len({r.template_id for r in first}) > 1


def test_words_of_the_bundled_world_are_all_in_its_vocabulary() -> None:
    from loco_core.toyworld.world import vocabulary

    known = set(vocabulary())
    for key, item in bundled().items():
        if key in ("style/velor", "object/star", "colour/orange", "fact/zandia"):
            for record in item.records:
                texts = (record.prompt, record.donor, record.score_text, record.donor_text, record.content_text)
                assert {word for text in texts for word in text.split()} <= known

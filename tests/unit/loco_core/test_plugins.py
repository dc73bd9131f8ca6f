"""Plug-in groups: what they hold, how a third party adds to them, and what is said of a wrong name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from loco_core import plugins
from loco_core.attributes import attribute, bundled
from loco_core.diffusion.facts import find_model
from loco_core.editing.base import editor_info
from loco_core.errors import SpecError
from loco_core.scoring.base import judge_id


def test_a_file_in_the_folder_of_a_group_is_an_entry() -> None:
    assert {"argmin", "window"} <= set(plugins.keys("localizers"))
    assert {"clip", "toy-clip", "toy-judge"} <= set(plugins.keys("scorers"))
    assert "toy-judge" in plugins.keys("judges")
    assert "stable_diffusion" in plugins.keys("families")


def test_a_python_file_is_an_entry_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def localize(scores, settings, site_names=()):\n    return 'found'\n")
    assert plugins.load("localizers", str(file)).localize(None, None) == "found"
    with pytest.raises(SpecError, match="no file"):
        plugins.load("localizers", str(tmp_path / "none.py"))


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: plugins.load("localizers", "windw"), "window"),
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
        assert not set("{}") & set(" ".join(" ".join(text) for text in vars(record).values()))
        assert record.siblings
        assert not {record.score_text, record.donor_text} & set(record.siblings)
    first = item.records[:8]
    assert len({r.template_id for r in first}) > 1


def left_over(text: str, other: str) -> str:
    """Returns what a text says between the words that it begins and ends with like another."""
    here, there = text.split(), other.split()
    while here and there and here[0] == there[0]:
        here, there = here[1:], there[1:]
    while here and there and here[-1] == there[-1]:
        here, there = here[:-1], there[:-1]
    return " ".join(here)


@pytest.mark.parametrize("key", sorted(bundled()))
def test_a_bundled_donor_differs_from_its_prompt_in_the_attribute_alone(key: str) -> None:
    item = bundled()[key]
    only = {""} if item.mode == "remove" else {left_over(r.donor_text, r.score_text) for r in item.records}
    for record in item.records:
        pairs = (record.prompt, record.donor), (record.score_text, record.donor_text)
        said = {re.sub(r"^(in|by|an?|the style of) | style$", "", left_over(*pair)) for pair in pairs}
        said = {text.removeprefix("the style of ").removeprefix("a ") for text in said}
        assert len(said) == 1, said
        # A name, and nothing of the medium or of the motif.
        assert not said & {"photo", "painting", "picture", "image", "artwork"}
        assert {left_over(donor, prompt) for prompt, donor in pairs} <= only | {
            text.removeprefix("a ") for text in only
        }


def test_words_of_the_bundled_world_are_all_in_its_vocabulary() -> None:
    from loco_core.toyworld.world import vocabulary

    known = set(vocabulary())
    for key, item in bundled().items():
        if key in ("style/velor", "object/star", "colour/orange", "fact/zandia"):
            for record in item.records:
                texts = (record.prompt, record.donor, record.score_text, record.donor_text, record.content_text)
                assert {word for text in texts for word in text.split()} <= known


def test_a_package_inside_the_project_adds_to_groups_by_its_entry_points(tmp_path: Path) -> None:
    assert find_model("toy")[0] == "stable_diffusion"
    assert "style/velor" in bundled()
    assert plugins.source("judges", "toy-judge") == b""
    file = tmp_path / "mine.py"
    file.write_text("class Judge: ...\n")
    assert judge_id("toy-judge") == "toy-judge"
    assert re.fullmatch(r"mine@[0-9a-f]{8}", judge_id(str(file)))
    assert judge_id(str(file)) == judge_id(str(file))


def test_what_a_plug_in_says_of_itself_has_a_type(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("INFO = 3\ndef edit(): ...\n")
    with pytest.raises(SpecError, match=r"mine\.py: INFO is 3; expected an EditorInfo"):
        editor_info(str(file))

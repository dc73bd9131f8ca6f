from __future__ import annotations

import dataclasses
import hashlib
from pathlib import PurePosixPath
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from loco_core.types import Engine, Generation, Intervention
from orchestrator.identity import (
    IDENTITY_VERSION,
    CellKey,
    ImageKey,
    SweepKey,
    UnitKey,
    cell_id,
    image_id,
    safe_name,
    sweep_id,
    unit_id,
)

IMAGE = ImageKey("w0", "float32", "a red dog", "a dog", 3, Intervention((4, 5)), Generation(steps=20))
CELL = CellKey("i0", "clip", "r0", "red", "", "dog")
UNIT = UnitKey("s0", "sweep", "toy", "style/mori", ("c0", "c1"))
SWEEP = SweepKey("s", Generation(), "clip")


def test_identities_are_the_same_in_every_version_of_the_code() -> None:
    assert image_id(IMAGE) == "3e49e861360ae5d8222d404376025ea9c3e06eaaf0f2bec144f11111b8f6e487"
    assert cell_id(CELL) == "b7a15e91d7463f23a12752fa1a348f3dc78eb5470b302cd422f7e89468b975b2"
    assert unit_id(UNIT) == "6c4efc3eac72adce263af5b5ca4ba28ed8a8ab49eb3070ed43c758c2b5fe3f20"
    assert sweep_id(SWEEP) == "32e773157fff90ba7e690986236456d0c98f5eabddf43c9311e50dcfcb01dba5"


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "w1"},
        {"dtype": "float16"},
        {"prompt": "a blue dog"},
        {"donor": "a cat"},
        {"seed": 4},
        {"intervention": Intervention((4, 6))},
        {"intervention": Intervention((4, 5), part="k")},
        {"intervention": Intervention((4, 5), pooled="donor")},
        {"intervention": Intervention((4, 5), source="own")},
        {"intervention": Intervention((4, 5), step_start=1)},
        {"intervention": Intervention((4, 5), step_end=19)},
        {"intervention": Intervention((4, 5), tokens="words")},
        {"intervention": Intervention((4, 5), guidance_half="both")},
        {"generation": Generation(steps=21)},
        {"generation": Generation(steps=20, guidance_scale=7)},
        {"generation": Generation(steps=20, height=64)},
        {"generation": Generation(steps=20, width=64)},
        {"generation": Generation(steps=20, scheduler="DDIMScheduler")},
        {"engine": Engine(attention="math").bits},
        {"engine": Engine(channels_last=False).bits},
        {"engine": Engine(compile=True).bits},
        {"engine": Engine(vae_slicing=True).bits},
        {"engine": Engine(vae_tiling=True).bits},
    ],
)
def test_whatever_changes_the_pixels_changes_the_image(change: dict[str, Any]) -> None:
    assert image_id(dataclasses.replace(IMAGE, **change)) != image_id(IMAGE)


def test_where_weights_wait_changes_no_image() -> None:
    for engine in (Engine(), Engine(offload="model"), Engine(device_map="balanced")):
        assert image_id(dataclasses.replace(IMAGE, engine=engine.bits)) == image_id(IMAGE)


@pytest.mark.parametrize(
    "same",
    [
        Intervention((5, 4)),
        Intervention((4, 5, 5)),
        Intervention((4, 5), step_end=20),
        Intervention((4, 5), step_end=99),
    ],
)
def test_ways_to_write_the_same_intervention_are_one_image(same: Intervention) -> None:
    assert image_id(dataclasses.replace(IMAGE, intervention=same)) == image_id(IMAGE)


def test_a_clean_image_does_not_depend_on_donor_or_options() -> None:
    clean = image_id(dataclasses.replace(IMAGE, intervention=Intervention()))
    for nothing in (
        Intervention((), part="v", tokens="words"),
        Intervention((4,), step_start=20),
        Intervention((4,), step_end=0),
    ):
        assert image_id(dataclasses.replace(IMAGE, donor="a cat", intervention=nothing)) == clean
    assert clean != image_id(IMAGE)


def test_the_identity_control_is_an_image_of_its_own() -> None:
    swapped = dataclasses.replace(IMAGE, donor=IMAGE.prompt)
    assert image_id(swapped) != image_id(dataclasses.replace(swapped, intervention=Intervention()))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(CellKey)])
def test_every_field_changes_the_cell(field: str) -> None:
    assert cell_id(dataclasses.replace(CELL, **{field: ("other",) if field == "siblings" else "other"})) != cell_id(
        CELL
    )


def test_a_cell_without_siblings_has_the_name_that_it_had_before_there_were_any() -> None:
    assert cell_id(dataclasses.replace(CELL, siblings=())) == cell_id(CELL)
    pair = [dataclasses.replace(CELL, siblings=texts) for texts in (("a", "b"), ("a b",), ("b", "a"))]
    assert len({cell_id(key) for key in pair}) == 3


def test_a_unit_is_its_items_in_their_order_and_its_round() -> None:
    for other in ({"items": ("c1", "c0")}, {"items": ("c0",)}, {"round": 1}, {"kind": "fit"}, {"model": "m"}):
        assert unit_id(dataclasses.replace(UNIT, **other)) != unit_id(UNIT)


def test_equal_content_of_different_kinds_is_not_the_same_thing() -> None:
    assert len({image_id(IMAGE), cell_id(CELL), unit_id(UNIT), sweep_id(SWEEP)}) == 4


@given(st.text(max_size=400))
def test_a_safe_name_is_one_plain_file_name(text: str) -> None:
    name = safe_name(text)
    assert name.isascii()
    assert 1 <= len(name) <= 64
    assert PurePosixPath(name).parts == (name,)
    assert name not in (".", "..")
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@given(st.text(max_size=60), st.text(max_size=60))
def test_different_texts_have_different_names(one: str, other: str) -> None:
    assert (safe_name(one) == safe_name(other)) == (one == other)


@pytest.mark.parametrize("text", ["../x", "a/b", "..", "", "A", "a=b", "élan", "x" * 300, "\ud800"])
def test_texts_that_are_no_names_get_a_hash(text: str) -> None:
    assert safe_name(text) != text
    assert len(safe_name(text).rpartition("-")[2]) == 12


def test_a_plain_name_stays() -> None:
    assert safe_name("toy-planted-a") == "toy-planted-a"


@given(st.text(), st.text(), st.integers(0, 2**53 - 1), st.floats(0, 100), st.booleans())
@example("a\x7fb", "\x00\x1f\u20ac", 0, 7.5, True)
def test_an_identity_is_the_hash_of_a_canonical_text(
    prompt: str, donor: str, seed: int, guidance: float, swapped: bool
) -> None:
    intervention = Intervention((3, 4), step_end=20) if swapped else Intervention(step_end=20)
    key = ImageKey("w", "float16", prompt, donor if swapped else "", seed, intervention, Generation(20, guidance))
    content = {name: value for name, value in dataclasses.asdict(key).items() if name != "engine"}
    # What all interventions had before there was a choice is not in it.
    del content["intervention"]["source"]
    document = {"what": "image", "version": IDENTITY_VERSION, "content": content}
    assert image_id(key) == hashlib.sha256(rfc8785.dumps(document)).hexdigest()

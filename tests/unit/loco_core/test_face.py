"""The public face of the science: one model, many rows; scores as they come; edits in plain pipelines."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from diffusers import StableDiffusionPipeline

import loco_core
from loco_core.errors import EditError, LocalizationError, SpecError, StoreError
from loco_core.toyworld import PLANTED_TABLES

TABLE = PLANTED_TABLES / "toy-planted-a-style-lumio-0.parquet"
PROMPT, DONOR = "a red circle in the style of lumio", "a red circle"
FAST = {"steps": 2, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def model() -> loco_core.Model:
    return loco_core.load_model("toy")


def test_rows_of_one_call_are_what_calls_of_one_row_draw(model: loco_core.Model) -> None:
    swaps = [loco_core.Intervention(), loco_core.Intervention((11, 12)), loco_core.Intervention((11,), part="k")]
    together = model.draw(PROMPT, DONOR, swaps, seed=[0, 1, 2], batch_size=4, **FAST)
    alone = [model.draw(PROMPT, DONOR, swap, seed=at, batch_size=4, **FAST)[0] for at, swap in enumerate(swaps)]
    assert [picture.tobytes() for picture in together] == [picture.tobytes() for picture in alone]
    assert len({picture.tobytes() for picture in together}) == 3


def test_a_swap_is_a_window_or_a_list_of_sites(model: loco_core.Model) -> None:
    window, listed, all_sites, donor = (
        model.draw(PROMPT, DONOR, swap, batch_size=2, **FAST)[0].tobytes()
        for swap in (loco_core.Window(11, 2), [11, 12], range(16), ())
    )
    assert window == listed
    assert all_sites != donor


def test_rows_that_do_not_go_together_are_refused(model: loco_core.Model) -> None:
    with pytest.raises(SpecError, match="2 values of seed for 3 rows"):
        model.draw(["a", "b", "c"], seed=[0, 1], **FAST)
    with pytest.raises(SpecError, match="expected a donor"):
        model.draw(PROMPT, swap=[3], **FAST)
    with pytest.raises(SpecError, match='no model "toi"; did you mean "toy"'):
        loco_core.load_model("toi")


def test_a_folder_is_loaded_like_a_name(model: loco_core.Model) -> None:
    other = loco_core.load_model(Path(model.path))
    assert (other.weights, other.sites) == (model.weights, model.sites)
    assert other.draw(DONOR, **FAST)[0].tobytes() == model.draw(DONOR, **FAST)[0].tobytes()


def test_scores_of_pictures_and_of_their_tensor_are_alike(model: loco_core.Model) -> None:
    pictures = model.draw([PROMPT, DONOR], **FAST)
    tensor = torch.stack([torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8) for picture in pictures])
    tensor = tensor.reshape(2, 32, 32, 3).permute(0, 3, 1, 2) / 255
    found, same = (loco_core.score(images, [PROMPT, DONOR], "toy-clip") for images in (pictures, tensor))
    assert found.shape == (2, 2)
    assert (found == same).all()


def test_a_table_is_localized_in_whatever_form_it_comes() -> None:
    table = pq.read_table(TABLE)
    forms = [loco_core.localize(form) for form in (TABLE, str(TABLE), table, table.to_pandas())]
    assert {form.window for form in forms} == {loco_core.Window(12, 2)}
    assert len({repr(form) for form in forms}) == 1
    assert loco_core.localize(table, "argmin", threshold=0.5).localizer == "argmin"


def test_what_is_no_table_of_one_attribute_is_refused(tmp_path: Path) -> None:
    table = pq.read_table(TABLE)
    with pytest.raises(LocalizationError, match='no scores of the model "toy-planted-b"; did you mean "toy-planted-a"'):
        loco_core.localize(table, model="toy-planted-b")
    with pytest.raises(LocalizationError, match="no column attribute"):
        loco_core.localize(table.drop_columns(["attribute"]))
    with pytest.raises(StoreError, match="no file or folder"):
        loco_core.localize(tmp_path / "nothing.parquet")


def test_an_edit_acts_in_a_plain_pipeline_and_leaves_every_bit_behind(model: loco_core.Model, tmp_path: Path) -> None:
    plain = StableDiffusionPipeline.from_pretrained(model.path, dtype=torch.float32, use_safetensors=True)
    plain.set_progress_bar_config(disable=True)

    def draw() -> bytes:
        generator = torch.Generator("cpu").manual_seed(0)
        drawn = plain(PROMPT, num_inference_steps=2, guidance_scale=3.0, generator=generator)
        found: bytes = drawn.images[0].tobytes()
        return found

    edit = loco_core.fit_edit(model, "style/lumio", [11, 12], preserve=["style/velor"])
    loco_core.save_edit(edit, tmp_path / "edit")
    clean = draw()
    with loco_core.apply_edit(plain, loco_core.load_edit(tmp_path / "edit")):
        assert draw() != clean
        with model.edited(edit):
            assert all(
                torch.equal(mine, theirs)
                for mine, theirs in zip(model.pipeline.unet.parameters(), plain.unet.parameters(), strict=True)
            )
    assert draw() == clean


def test_what_a_plain_pipeline_cannot_hold_is_refused(model: loco_core.Model) -> None:
    edit = loco_core.fit_edit(model, "style/lumio", [11], editor="neurons")
    plain = StableDiffusionPipeline(**model.pipeline.components)
    with pytest.raises(EditError, match="cannot act in a plain pipeline: the conditional half"):
        loco_core.apply_edit(plain, edit)
    with pytest.raises(EditError, match="loco_edit edits at sites that it is given; expected some"):
        loco_core.fit_edit(model, "style/lumio")


def test_methods_bring_their_sites(model: loco_core.Model) -> None:
    assert loco_core.fit_edit(model, "style/lumio", editor="uce").provenance.sites == tuple(range(16))
    assert loco_core.fit_edit(model, "style/lumio", editor="diff_quick_fix").provenance.components == ("text_encoder",)


def test_all_that_is_public_is_there() -> None:
    assert set(loco_core.__all__) <= set(dir(loco_core))
    assert all(getattr(loco_core, name) is not None for name in loco_core.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = loco_core.nothing

"""What is particular to Wan: one frame is a picture, and of two denoisers that take turns none is swept."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

import loco_core
from loco_core.checking.plain import draw_plainly
from loco_core.diffusion.facts import families
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import load_model
from loco_core.editing.deltas import Provenance, WeightDelta
from loco_core.errors import ModelError
from loco_core.types import Generation, Intervention, Row
from orchestrator.resolve.lookup import outline, resolve
from tests.support.sweeps import tiny_sweep
from tests.support.tiny_cross import wan
from tests.support.tiny_models import SIDE, save

PROMPT, DONOR = "a red circle in the style of lumio", "a blue star"
SETTINGS = Generation(3, 3.0, SIDE, SIDE)
ONE = ".* expected a model of one, such as Wan-AI/Wan2.2-TI2V-5B"
TURNS, SECOND = f"two denoisers take turns, one at the early steps {ONE}", f"it holds a second denoiser, and no {ONE}"


def test_a_model_of_2_2_whose_times_are_those_of_tokens_draws_one_frame_as_its_pipeline(tmp_path: Path) -> None:
    save(partial(wan, expand_timesteps=True), tmp_path / "wan")
    model = load_model("wan", str(tmp_path / "wan"), None, "float32", "cpu")
    every = tuple(range(len(model.sites)))
    rows = [Row(PROMPT, PROMPT, 3, Intervention(every)), Row(PROMPT, DONOR, 3, Intervention(every))]
    (found,) = generate(model, rows, SETTINGS, 2)
    assert found.images.shape == (2, 3, SIDE, SIDE)
    for number, text in enumerate((PROMPT, DONOR)):
        alone = draw_plainly(model.pipeline, [text], [3], SETTINGS, arguments={"num_frames": 1})
        assert alone.images.shape == (1, 1, 3, SIDE, SIDE)
        assert torch.allclose(found.images[number], alone.images[0, 0], atol=1e-4)
        assert (found.latents[number] - alone.latents[0]).norm() < 1e-4 * alone.latents.norm()
    assert (found.images[0] - found.images[1]).abs().max() > 1e-2


def test_an_index_whose_second_denoiser_is_empty_is_of_one() -> None:
    refuses = families()["wan"].refuses
    assert refuses({"transformer_2": []}) == refuses({"transformer_2": [None, None]}) == refuses({}) == ""


@pytest.mark.parametrize(("how", "said"), [("both experts", TURNS), ("a second one that never draws", SECOND)])
def test_two_denoisers_that_take_turns_are_refused_at_plan_and_in_python(how: str, said: str, tmp_path: Path) -> None:
    late = wan().transformer
    changes = {"boundary_ratio": 0.5} if how == "both experts" else {"boundary_ratio": None}
    save(partial(wan, transformer_2=late, **changes), tmp_path / "wan")
    folder = str(tmp_path / "wan")
    spec = tiny_sweep("unused", models=[{"id": "mine", "path": folder}], generation={"steps": 2, "height": SIDE})
    for act in (lambda: resolve(spec), lambda: outline(spec), lambda: loco_core.load_model(folder, device="cpu")):
        with pytest.raises(ModelError, match=f'is a "WanPipeline" that no family supports: {said}') as error:
            act()
        assert "\n" not in str(error.value)
    delta = WeightDelta(Provenance("mine", "w", "float32", (), (), "loco_edit", "{}", "by hand"), ())
    with pytest.raises(ModelError, match=f'the pipeline is a "WanPipeline" that no family supports: {said}'):
        loco_core.apply_edit(wan(transformer_2=late, **changes), delta)

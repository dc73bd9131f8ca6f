"""Models that are saved as pipelines with perturbed-attention guidance are drawn as the plain ones of their weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import loco_core
from loco_core.diffusion.facts import families, plain_class
from loco_core.diffusion.generate import generate
from loco_core.types import Generation, Intervention, Row
from tests.support import tiny_cross, tiny_models
from tests.support.folders import said
from tests.support.sweeps import Command, tiny_sweep
from tests.support.tiny_models import SIDE

SETTINGS = Generation(2, 3.0, SIDE, SIDE)
ROWS = [Row("a red circle", "a blue star", 3, Intervention(sites)) for sites in ((), (1,))]
TINY: dict[str, Any] = {
    "StableDiffusionXLPipeline": (tiny_models, "sdxl"),
    "PixArtSigmaPipeline": (tiny_models, "pixart_sigma"),
    "SanaPipeline": (tiny_models, "sana"),
    "StableDiffusion3Pipeline": (tiny_models, "sd3"),
    "KolorsPipeline": (tiny_cross, "kolors"),
    "HunyuanDiTPipeline": (tiny_cross, "hunyuan_dit"),
}


def with_guidance(folder: Path) -> str:
    """Names the class of a pipeline's folder with that guidance, and returns it."""
    plain: str = json.loads((folder / "model_index.json").read_text())["_class_name"]
    name = plain.replace("Pipeline", "PAGPipeline")
    said("model_index.json", _class_name=name)(folder)
    return name


@pytest.mark.parametrize("plain", TINY)
def test_a_model_saved_with_the_guidance_draws_what_the_plain_one_draws(plain: str, tmp_path: Path) -> None:
    tiny, name = TINY[plain]
    folder = tiny.build(name, tmp_path / name)

    def drawn() -> torch.Tensor:
        model = loco_core.load_model(folder, device="cpu").loaded
        assert type(model.pipeline).__name__ == plain
        return torch.cat([part.latents for part in generate(model, ROWS, SETTINGS, 4)])

    before, named = drawn(), with_guidance(folder)
    assert plain_class(named) == plain
    # What diffusers itself loads from that folder has the same parts.
    loaded = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    assert type(loaded).__name__ == named
    assert torch.equal(drawn(), before)


def test_all_of_diffusers_are_known_by_their_plain_form() -> None:
    kinds = diffusers.pipelines.auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()
    served = {name for family in families().values() for name in family.pipelines}
    plain = {plain_class(kind.__name__) for kind in kinds if "PAG" in kind.__name__ and "Control" not in kind.__name__}
    assert plain <= served
    # That of Kolors is there where sentencepiece is.
    assert plain | {"KolorsPipeline"} == {*TINY, "StableDiffusionPipeline"}


def test_plan_says_so(tiny_pipeline: Path, command: Command, tmp_path: Path) -> None:
    folder, file = tmp_path / "mine", tmp_path / "sweep.yaml"
    shutil.copytree(tiny_pipeline, folder)
    file.write_text(tiny_sweep(folder).model_dump_json(exclude_unset=True))
    code, out, err = command("plan", file, "--results", tmp_path / "results")
    assert code == 0
    assert "perturbed" not in out + err
    with_guidance(folder)
    code, out, err = command("plan", file, "--results", tmp_path / "results")
    assert code == 0, err
    assert "is saved as a StableDiffusionPAGPipeline and drawn as a StableDiffusionPipeline" in out + err

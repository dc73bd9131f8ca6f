"""Folders of models as people have them, beside what plain diffusers and transformers make of them.

Each is drawn as by the plain library, bit for bit nearly, or refused in one line. None is drawn otherwise.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import load_model
from loco_core.errors import LocoError
from loco_core.quiet import quiet_libraries
from loco_core.scoring.base import load_scorer
from loco_core.toyworld import WEIGHTS
from loco_core.types import Generation, Row
from orchestrator.resolve.lookup import resolve
from tests.support.folder_cases import CASES, FAMILIES, NESTED, SCORER, Case
from tests.support.folders import (
    change,
    linked,
)
from tests.support.sweeps import tiny_sweep
from tests.support.tiny_models import SIDE, save, stable_diffusion

PROMPT, STEPS, SCALE, BATCH = "a red circle in the style of lumio", 2, 3.0, 2

TEXTS = ("a red circle", "a blue star in the style of velor")

SAME = 1e-4

CALLS: Mapping[str, Mapping[str, Any]] = {
    "stable_diffusion": {}, "sdxl": {}, "sd3": {},
    "pixart": {"use_resolution_binning": False, "clean_caption": False, "height": SIDE, "width": SIDE},
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    quiet_libraries()
    folder = tmp_path_factory.mktemp("bases")
    for name, (make, _) in FAMILIES.items():
        save(make, folder / name)
    shutil.copytree(WEIGHTS / "clip", folder / "scorer")
    return {name: folder / name for name in (*FAMILIES, "scorer")}


def sweep(**changes: Any) -> Any:
    generation = {"steps": STEPS, "guidance_scale": SCALE, "batch_size": BATCH, "height": SIDE, "width": SIDE}
    return tiny_sweep("unused", **{"generation": generation, "attributes": ["style/velor"], **changes})


def our_picture(folder: Path) -> torch.Tensor:
    """Drawn as a sweep does: looked up, then loaded by what was found."""
    (model,) = resolve(sweep(models=[{"id": "mine", "path": str(folder)}])).models
    torch.manual_seed(1)
    loaded = load_model(model.family, model.path, model.revision, model.dtype, "cpu")
    assert tuple(site.name for site in loaded.sites) == model.site_names
    # A row whose donor must be drawn beside it takes a batch of two.
    (found,) = generate(loaded, [Row(PROMPT, PROMPT, 7)], Generation(STEPS, SCALE, SIDE, SIDE), BATCH)
    return found.images[0]


def plain_picture(family: str, folder: Path, options: Mapping[str, Any]) -> torch.Tensor:
    """Drawn by diffusers alone; what it would make up at random differs from what the other side makes up."""
    torch.manual_seed(2)
    parts = {"safety_checker": None, "requires_safety_checker": False} if family == "stable_diffusion" else {}
    # The class that the folder names: only its own call knows which parts may be left out.
    cls = getattr(diffusers, json.loads((folder / "model_index.json").read_text())["_class_name"])
    pipeline = cls.from_pretrained(folder, use_safetensors=True, **parts, **options)
    pipeline.set_progress_bar_config(disable=True)
    call = {"height": SIDE, "width": SIDE, **CALLS[family]}
    return pipeline(
        PROMPT, num_inference_steps=STEPS, guidance_scale=SCALE, output_type="pt",
        generator=[torch.Generator().manual_seed(7)], **call,
    ).images[0]  # fmt: skip


def assert_refused(case: Case, act: Callable[[], object]) -> None:
    with pytest.raises(LocoError, match=case.refused) as error:
        act()
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 800


@pytest.mark.parametrize(("family", "name"), CASES, ids=lambda value: str(value).replace(" ", "-"))
def test_a_pipeline_is_drawn_as_by_diffusers_or_refused_in_one_line(
    family: str, name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    case, folder = FAMILIES[family][1][name], tmp_path / "model"
    shutil.copytree(bases[family], folder)
    case.change(folder)
    spec = sweep(models=[{"id": "mine", "path": str(folder)}])
    if case.planned:
        assert_refused(case, lambda: resolve(spec))
        return
    if case.refused:
        assert_refused(case, lambda: resolve(spec))
        assert_refused(case, lambda: load_model(family, str(folder), None, "float32", "cpu"))
        return
    (model,) = resolve(spec).models
    ours, plain = our_picture(folder), plain_picture(family, folder, case.options)
    assert float((ours - plain).abs().max()) < SAME
    before = resolve(sweep(models=[{"id": "mine", "path": str(bases[family])}])).models[0].weights
    assert (model.weights == before) == case.same_hash


def our_scores(folder: Path, picture: torch.Tensor) -> np.ndarray:
    resolve(sweep(models=["toy"], scorer=str(folder)))
    torch.manual_seed(1)
    scorer = load_scorer(str(folder), None, "cpu")
    return scorer.score(scorer.embed_images(picture[None]), list(TEXTS))[0]


def plain_scores(folder: Path, picture: torch.Tensor) -> np.ndarray:
    torch.manual_seed(2)
    model = CLIPModel.from_pretrained(folder, use_safetensors=True).eval()
    # Here the code of a folder is declined in the library's own words.
    processor = CLIPProcessor.from_pretrained(folder, trust_remote_code=False)
    image = Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy())
    given = processor(text=list(TEXTS), images=image, return_tensors="pt", padding="max_length", truncation=True)
    with torch.no_grad():
        found = model(**given)
    cosines: np.ndarray = (found.image_embeds @ found.text_embeds.T)[0].numpy()
    return cosines


@pytest.mark.parametrize("name", SCORER, ids=lambda value: str(value).replace(" ", "-"))
def test_a_scorer_scores_as_transformers_or_is_refused_in_one_line(
    name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    case, folder = SCORER[name], tmp_path / "scorer"
    shutil.copytree(bases["scorer"], folder)
    case.change(folder)
    if case.planned:
        assert_refused(case, lambda: resolve(sweep(models=["toy"], scorer=str(folder))))
        return
    if case.refused:
        assert_refused(case, lambda: resolve(sweep(models=["toy"], scorer=str(folder))))
        assert_refused(case, lambda: load_scorer(str(folder), None, "cpu"))
        return
    weights = resolve(sweep(models=["toy"], scorer=str(folder))).scorer.weights
    picture = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    assert np.abs(our_scores(folder, picture) - plain_scores(folder, picture)).max() < SAME
    before = resolve(sweep(models=["toy"], scorer=str(bases["scorer"]))).scorer.weights
    assert (weights == before) == case.same_hash


def test_pictures_and_scores_that_differ_are_told_apart(bases: dict[str, Path], tmp_path: Path) -> None:
    """So that the tests above can fail: a hundredth more in one weight of each component shows."""
    for family, part in (("stable_diffusion", "text_encoder"), ("stable_diffusion", "vae"), ("pixart", "transformer")):
        folder = tmp_path / f"{family}-{part}"
        shutil.copytree(bases[family], folder)
        change(part, lambda weights: {key: value * 1.05 for key, value in weights.items()}, folder)
        found = our_picture(folder) - plain_picture(family, bases[family], {})
        assert float(found.abs().max()) > 10 * SAME


def weights_of_model(folder: Path) -> str:
    return resolve(sweep(models=[{"id": "mine", "path": str(folder)}])).models[0].weights


def test_what_is_behind_a_link_and_in_a_vocabulary_of_its_own_counts(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "linked"
    shutil.copytree(bases["stable_diffusion"], folder)
    linked("unet")(folder)
    before = weights_of_model(folder)
    change(".", lambda weights: {key: value * 1.5 for key, value in weights.items()}, tmp_path / "away-linked")
    assert weights_of_model(folder) != before
    folder = tmp_path / "pieces"
    shutil.copytree(bases["pixart"], folder)
    before = weights_of_model(folder)
    (folder / "tokenizer" / "spiece.model").write_bytes(b"pieces")
    first = weights_of_model(folder)
    (folder / "tokenizer" / "spiece.model").write_bytes(b"other pieces")
    assert len({before, first, weights_of_model(folder)}) == 3


@pytest.mark.parametrize(("down", "up"), NESTED)
@pytest.mark.parametrize("middle", ["UNetMidBlock2DCrossAttn", None])
def test_attentions_of_a_block_may_each_have_a_depth_of_their_own(
    down: Any, up: Any, middle: str | None, tmp_path: Path
) -> None:
    kinds = {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "layers_per_block": 2, "mid_block_type": middle, "transformer_layers_per_block": down,
        "reverse_transformer_layers_per_block": up,
    }  # fmt: skip
    save(partial(stable_diffusion, **kinds), tmp_path)
    ours, plain = our_picture(tmp_path), plain_picture("stable_diffusion", tmp_path, {})
    assert float((ours - plain).abs().max()) < SAME


def test_there_are_enough_folders() -> None:
    assert len(CASES) + len(SCORER) + 2 * len(NESTED) >= 80

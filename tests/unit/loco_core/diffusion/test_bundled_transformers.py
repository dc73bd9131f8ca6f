"""The bundled transformers as they are shipped."""

from __future__ import annotations

import json

import pytest
import torch

from loco_core.diffusion.facts import find_model
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import load_model
from loco_core.scoring.base import load_judge
from loco_core.toyworld import JUDGE, WEIGHTS
from loco_core.toyworld.judge import Judge
from loco_core.toyworld.planting import MODELS
from loco_core.toyworld.world import COLOUR_NAMES
from loco_core.types import Generation, Intervention, Row
from orchestrator.resolve.lookup import resolve_model
from orchestrator.spec import ModelSpec

SITES = {"toy-dit": 12, "toy-dit-planted": 12, "toy-mmdit": 10}
FAMILIES = {"toy-dit": "pixart", "toy-dit-planted": "pixart", "toy-mmdit": "sd3"}
NAMES = tuple(FAMILIES)


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_knows_it_by_name(name: str) -> None:
    assert find_model(name)[0] == FAMILIES[name]
    assert resolve_model(ModelSpec(id=name)).n_sites == SITES[name]
    # What training, an export or a plant writes is a folder, and drawn in the same way.
    assert resolve_model(ModelSpec(id="mine", path=str(WEIGHTS / name))).family == FAMILIES[name]


def test_the_number_of_sites_is_the_one_that_plants_count_by() -> None:
    assert MODELS["toy-dit-planted"].sites == SITES["toy-dit-planted"]


def test_only_a_joint_stream_that_was_built_without_t5_reads_nothing_in_its_place() -> None:
    """Stable Diffusion 3 that is saved without its T5 reads zeros there, as its pipeline has it."""
    model = load_model("sd3", str(WEIGHTS / "toy-mmdit"), None, "float32", "cpu")
    assert model.encode(["a red circle"]).embeds.shape == (1, 16, 256)
    model.encoded.clear()
    model.pipeline.text_encoder_2.config.hidden_size = 64
    assert model.family.encode(model.pipeline, ["a red circle"]).embeds.shape == (1, 16 + 256, 256)


@pytest.mark.parametrize("name", NAMES)
def test_it_draws_the_colour_that_it_is_told(name: str) -> None:
    model = load_model(FAMILIES[name], str(WEIGHTS / name), None, "float32", "cpu")
    rows = [Row(f"a {colour} square", "", seed) for seed, colour in enumerate(COLOUR_NAMES)]
    images = torch.cat([part.images for part in generate(model, rows, Generation(10, 3.0), 8)])
    judge = load_judge(JUDGE, "cpu")
    assert isinstance(judge, Judge)
    seen = judge.name(judge.embed_images(images), "colour")
    assert sum(saw == colour for saw, colour in zip(seen, COLOUR_NAMES, strict=True)) >= 6


def test_a_style_goes_with_both_planted_sites_and_stays_with_either() -> None:
    model = load_model("pixart", str(WEIGHTS / "toy-dit-planted"), None, "float32", "cpu")
    judge = load_judge(JUDGE, "cpu")
    assert isinstance(judge, Judge)
    found = {}
    for sites in ((), (3,), (4,), MODELS["toy-dit-planted"].plants["style"].sites):
        swap = Intervention(sites)
        rows = [Row("a red circle in the style of lumio", "a red circle", seed, swap) for seed in range(4)]
        images = torch.cat([part.images for part in generate(model, rows, Generation(10, 3.0), 4)])
        found[sites] = judge.name(judge.embed_images(images), "style").count("lumio")
    assert found == {(): 4, (3,): 4, (4,): 4, (3, 4): 0}


@pytest.mark.parametrize("name", NAMES)
def test_it_was_measured_to_draw_what_it_is_told(name: str) -> None:
    """The least of twelve shares is 81 %, of the objects of `toy-dit`."""
    measured = json.loads((WEIGHTS / "accuracy.json").read_text())[name]
    assert min(kind["accuracy"] for kind in measured.values()) > 0.8


def test_knowledge_is_where_it_was_planted() -> None:
    measured = json.loads((WEIGHTS / "oracle.json").read_text())["toy-dit-planted"]
    for kind, plant in MODELS["toy-dit-planted"].plants.items():
        assert tuple(measured[kind]["needed"]) == plant.sites


def test_all_weights_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*.safetensors")) < 100_000_000
    own = [path.stat().st_size for name in NAMES for path in (WEIGHTS / name).rglob("*") if path.is_file()]
    assert sum(own) < 20_000_000

"""Another model as donor: what its K and V at some sites undo, against the pictures of that model alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from loco_core.diffusion.donor import Donor, donor_projections
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.errors import ModelError
from loco_core.types import Generation, Intervention, Part, Row
from tests.support.tiny_models import SIDE, build

FAMILIES = {"stable_diffusion": "", "pixart": "pixart_alpha", "deepfloyd_if": "deepfloyd_if"}
CHANGED = (1, 2)
PROMPT, OTHER = "a red circle in the style of lumio", "a blue star"
SETTINGS = Generation(steps=3, guidance_scale=3.0, height=SIDE, width=SIDE)


@dataclass(frozen=True)
class Pair:
    """A model before and after its K and V changed at `CHANGED`, each with the other as donor."""

    family: str
    folders: tuple[Path, Path]
    before: LoadedModel
    after: LoadedModel


def train(model: LoadedModel, sites: Sequence[int]) -> None:
    """Changes K and V, and their biases where there are any, at some sites."""
    noise = torch.Generator().manual_seed(5)
    denoiser = model.family.denoiser(model.pipeline)
    for site in sites:
        for path in (model.sites[site].key_path, model.sites[site].value_path):
            for value in denoiser.get_submodule(path).parameters():
                value.data += value.std() * torch.randn(value.shape, generator=noise)


@pytest.fixture(scope="module", params=list(FAMILIES))
def pair(request: pytest.FixtureRequest, tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family, folder = request.param, tmp_path_factory.mktemp("pair")
    first = build(FAMILIES[family], folder / "before") if FAMILIES[family] else tiny_pipeline
    model = load_model(family, str(first), None, "float32", "cpu")
    train(model, CHANGED)
    model.pipeline.save_pretrained(folder / "after")
    folders = (first, folder / "after")
    loaded = [
        load_model(family, str(own), None, "float32", "cpu", donor=Donor(family, str(other)))
        for own, other in (folders, folders[::-1])
    ]
    return Pair(family, folders, *loaded)


def weights(sites: Sequence[int], part: Part = "kv") -> Intervention:
    return Intervention(tuple(sites), part=part, guidance_half="both", source="weights")


def drawn(model: LoadedModel, *interventions: Intervention) -> list[torch.Tensor]:
    rows = [Row(PROMPT, PROMPT, 3, does) for does in interventions]
    read = [Row(PROMPT, OTHER, 0, Intervention((0,))), Row(PROMPT, PROMPT, 0, Intervention((0,)))]
    return list(torch.cat([p.latents for p in generate(model, rows, SETTINGS, 8, read=read)]))


def test_reverting_the_changed_sites_draws_what_the_model_before_draws(pair: Pair) -> None:
    every = tuple(range(len(pair.after.sites)))
    others = tuple(site for site in every if site not in CHANGED)
    clean, reverted, all_sites, elsewhere, identity = drawn(
        pair.after, Intervention(), weights(CHANGED), weights(every), weights(others), Intervention(every)
    )
    before, given, given_elsewhere = drawn(pair.before, Intervention(), weights(CHANGED), weights(others))
    assert not torch.equal(clean, before)
    for found in (reverted, all_sites, given_elsewhere):
        assert torch.equal(found, before)
    # The transplant: what was learned appears in the model that never learned it.
    for found in (given, elsewhere, identity):
        assert torch.equal(found, clean)


def test_half_of_what_changed_is_not_enough(pair: Pair) -> None:
    (before,) = drawn(pair.before, Intervention())
    whole = weights(CHANGED)
    halves = (
        weights(CHANGED, "k"), weights(CHANGED, "v"), weights(CHANGED[:1]), weights(CHANGED[1:]),
        Intervention(CHANGED, source="weights"),
        Intervention(CHANGED, step_start=1, guidance_half="both", source="weights"),
    )  # fmt: skip
    same, *found = drawn(pair.after, whole, *halves)
    assert torch.equal(same, before)
    assert not any(torch.equal(each, before) for each in found)


def test_a_donor_of_other_sites_or_shapes_is_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    other = build("pixart_alpha", tmp_path / "other")
    with pytest.raises(ModelError, match=r"^the donor .*other has no \S+; expected the same sites as the model$"):
        load_model("stable_diffusion", str(tiny_pipeline), None, "float32", "cpu", donor=Donor("pixart", str(other)))
    own = load_model("stable_diffusion", str(tiny_pipeline), None, "float32", "cpu")
    site = own.sites[3]
    attention = own.pipeline.unet.get_submodule(site.attention_path)
    attention.to_k = torch.nn.Linear(attention.to_k.in_features, site.width + 8, bias=False)
    with pytest.raises(ModelError, match=rf"^{site.key_path} is of shape {site.width}x\d+ \(weight\) in the donor"):
        donor_projections(
            Donor("stable_diffusion", str(tiny_pipeline)), own.sites, own.pipeline.unet, own.facts, "float32"
        )


def test_without_a_donor_its_weights_are_refused(tiny_model: LoadedModel) -> None:
    with pytest.raises(ModelError, match=r"^this model was loaded without a donor"):
        drawn(tiny_model, weights(CHANGED))

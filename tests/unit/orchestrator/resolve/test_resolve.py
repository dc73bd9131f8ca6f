from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from loco_core.diffusion import weights
from loco_core.errors import ModelError, SpecError
from loco_core.types import Generation
from orchestrator.resolve.lookup import outline, resolve
from orchestrator.spec import SweepSpec
from orchestrator.stages.sweep.plan import plan
from tests.support.folders import lacking
from tests.support.plans import cells
from tests.support.tiny_models import SIDE, build, build_second_stage


def sweep(**changes: Any) -> SweepSpec:
    content = {"name": "s", "models": ["sd15"], "attributes": ["style/velor"], "scorer": "toy-clip"}
    return SweepSpec.model_validate({**content, **changes}, strict=False)


def test_models_of_one_sweep_may_have_guidance_scales_of_their_own() -> None:
    spec = sweep(models=["sd15", {"id": "flux", "guidance_scale": 3.5}])
    usual, distilled = (model.generation(spec.generation.settings) for model in outline(spec).models)
    assert usual == Generation()
    assert distilled == Generation(guidance_scale=3.5)


def test_a_distilled_model_that_nobody_knows_wants_a_guidance_scale(tmp_path: Path) -> None:
    mine = {"id": "mine", "path": str(build("flux", tmp_path / "flux"))}
    with pytest.raises(SpecError, match=r"expected \{id: mine, guidance_scale: NUMBER\}") as error:
        outline(sweep(models=["sd15", mine]))
    assert error.value.loc == ("models", 1)
    outline(sweep(models=[mine], generation={"guidance_scale": 3.5}))


@pytest.mark.parametrize(
    ("changes", "steps", "scales"),
    [
        ({"models": ["sd15", "sd14"]}, 50, [7.5, 7.5]),
        ({"models": "lcm"}, 4, [8.5]),
        ({"models": [{"id": "mine", "path": "SimianLuo/LCM_Dreamshaper_v7"}]}, 4, [8.5]),
        ({"models": ["sd15", "lcm", "sdxl"]}, 50, [7.5, 8.5, 5.0]),
        ({"models": ["sd3", "flux"]}, 28, [7.0, 3.5]),
        ({"models": [{"id": "lcm", "guidance_scale": 2.0}], "generation": {"steps": 8}}, 8, [2.0]),
        ({"models": ["lcm", "sdxl"], "generation": {"guidance_scale": 3.0}}, 50, [3.0, 3.0]),
        ({"models": "nobody"}, 50, [7.5]),
    ],
)
def test_steps_and_guidance_are_as_published_where_the_sweep_says_none(
    changes: dict[str, Any], steps: int, scales: list[float]
) -> None:
    spec = sweep(**changes)
    assert spec.generation.steps == steps
    found = [model.guidance_scale for model in spec.models]
    assert [spec.generation.guidance_scale if scale is None else scale for scale in found] == scales
    # Written down: read again it says so itself.
    assert SweepSpec.model_validate_json(spec.model_dump_json(exclude_unset=True)) == spec


def test_the_unconditional_half_needs_guidance_in_every_model() -> None:
    models = ["sd15", {"id": "sd14", "guidance_scale": 1.0}]
    with pytest.raises(ValueError, match="needs classifier-free guidance"):
        sweep(models=models, interventions=[{"guidance_half": "both"}])


def test_an_outline_knows_what_was_published_and_no_more() -> None:
    models = outline(sweep(models=["sd15", "sdxl", "toy"])).models
    assert [model.n_sites for model in models] == [16, 70, 16]
    assert [bool(model.weights) for model in models] == [False, False, True]
    with pytest.raises(ModelError, match="no folder"):
        outline(sweep(models=[{"id": "mine", "path": "./nowhere"}]))
    with pytest.raises(SpecError, match=r"windows\.sizes: 17 is larger than sd15"):
        outline(sweep(windows={"sizes": [17]}))


def stages(first: Path, second: Any, **more: Any) -> SweepSpec:
    """A sweep of DeepFloyd IF with a second stage; None leaves it out."""
    key = {} if second is None else {"super_resolution": second}
    return sweep(models=[{"id": "mine", "path": str(first), **key, **more}], prompts=1, seeds=1)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("deepfloyd_if", tmp_path_factory.mktemp("models") / "first")


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return build_second_stage(tmp_path / "second")


def names(spec: SweepSpec) -> tuple[set[str], str]:
    """Returns the identities of a sweep's images, and what edits are of."""
    resolved = resolve(spec)
    return {row.image_id for row in cells(spec, resolved, plan(spec, resolved))}, resolved.models[0].weights


def test_a_second_stage_is_part_of_every_image_and_of_no_edit(first: Path, second: Path) -> None:
    alone, weights_alone = names(stages(first, None))
    both, weights_both = names(stages(first, str(second)))
    assert not alone & both
    assert len(alone) == len(both)
    assert weights_alone == weights_both
    assert names(stages(first, {"path": str(second)}))[0] == both
    config = second / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("1.5", "1.25"))
    assert not names(stages(first, str(second)))[0] & both


def test_a_second_stage_is_pinned(first: Path, second: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder by its full path, a revision on the hub by its commit; both say how large images come out."""
    monkeypatch.chdir(second.parent)
    (model,) = resolve(stages(first, "./second")).models
    assert model.super_resolution is not None
    assert (model.super_resolution.path, model.super_resolution.revision) == (str(second), None)
    assert model.pixels(Generation()) == (2 * SIDE) ** 2
    assert model.pixels(Generation(height=SIDE // 2)) == SIDE * 2 * SIDE
    asked = []

    def download(repository: str, revision: str | None, name: str) -> Path:
        asked.append((repository, revision))
        commit = shutil.copytree(second, second.parent / "snapshots" / "c0ffee", dirs_exist_ok=True)
        return Path(commit) / name

    monkeypatch.setattr(weights, "hub_file", download)
    (model,) = resolve(stages(first, {"path": "owner/second", "revision": "v1"})).models
    assert set(asked) == {("owner/second", "v1")}
    assert model.super_resolution is not None
    assert (model.super_resolution.path, model.super_resolution.revision) == ("owner/second", "c0ffee")
    assert model.weights_id == f"{model.weights}+hub:c0ffee"


def test_an_outline_of_two_stages_does_without_the_hub(
    first: Path, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "hub_file", lambda *_: pytest.fail("the hub was asked"))
    (model,) = outline(sweep(models=[{"id": "deepfloyd-if", "super_resolution": "DeepFloyd/IF-II-L-v1.0"}])).models
    assert model.super_resolution is not None
    assert (model.n_sites, model.super_resolution.path) == (22, "DeepFloyd/IF-II-L-v1.0")
    (plain,) = outline(sweep(models=["deepfloyd-if"])).models
    assert model.seconds_per_image > plain.seconds_per_image
    with pytest.raises(ModelError, match="no folder"):
        outline(sweep(models=[{"id": "deepfloyd-if", "super_resolution": "./nowhere"}]))
    outline(sweep(models=[{"id": "deepfloyd-if", "super_resolution": str(second)}]))


def test_second_stages_that_are_none_are_refused_where_they_stand(first: Path, second: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^super_resolution: toy \(stable_diffusion\) .*; only deepfloyd_if ") as error:
        resolve(sweep(models=["toy-dit", {"id": "toy", "super_resolution": str(second)}]))
    assert error.value.loc == ("models", 1, "super_resolution")
    with pytest.raises(ModelError, match=r'is a "IFPipeline"; expected a "IFSuperResolutionPipeline"') as other:
        resolve(stages(first, str(first)))
    assert other.value.loc == ("models", 0, "super_resolution")
    with pytest.raises(ModelError, match="no folder"):
        resolve(stages(first, str(tmp_path / "nowhere")))
    config = second / "unet" / "config.json"
    config.write_text(config.read_text().replace('"sample_size"', '"simple_size"'))
    with pytest.raises(ModelError, match=r"unet/config\.json is not the configuration of a denoiser"):
        resolve(stages(first, str(second)))
    config.write_text(config.read_text().replace('"simple_size"', '"sample_size"'))
    lacking("unet", "conv_out.weight")(second)
    with pytest.raises(ModelError, match=r"lack conv_out\.weight") as missing:
        resolve(stages(first, str(second)))
    assert missing.value.loc == ("models", 0, "super_resolution")
    for file in second.rglob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(ModelError, match="pickle"):
        resolve(stages(first, str(second)))

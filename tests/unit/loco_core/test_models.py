"""Sites of the real configurations, on the meta device: number, order and addresses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from loco_core.errors import ModelError
from loco_core.models import LoadedModel, load_model
from loco_core.models.stable_diffusion import Family, site_names

# What the published UNets say that differs from the class's defaults.
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "sample_size": 64, "attention_head_dim": 8},
    "sd21": {"cross_attention_dim": 1024, "sample_size": 96, "attention_head_dim": [5, 10, 20, 20]},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_sites_of_the_full_size_models(name: str) -> None:
    """Both orders are known from the paper: style at 8-9 of SD 1.5 is `up_blocks.1.attentions.1` and `.2`."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**CONFIGS[name])
    sites = Family().find_sites(SimpleNamespace(unet=unet))
    assert [site.name for site in sites] == list(site_names(dict(unet.config)))
    assert len(sites) == 16
    assert [sites[8].name, sites[9].name] == ["up_blocks.1.attentions.1", "up_blocks.1.attentions.2"]
    assert sites[6].name == "mid_block.attentions.0"
    for site in sites:
        assert unet.get_submodule(site.key_path).in_features == CONFIGS[name]["cross_attention_dim"]
        assert site.width == unet.get_submodule(site.value_path).out_features


def test_recorded_order_equals_the_order_from_the_configuration(tiny_model: LoadedModel) -> None:
    names = site_names(dict(tiny_model.pipeline.unet.config))
    assert [site.name for site in tiny_model.sites] == list(names)


def test_a_damaged_pipeline_is_one_clean_line(tiny_pipeline: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_pipeline, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot load") as error:
        load_model("stable_diffusion", str(broken), None, "float32", "cpu")
    assert "\n" not in str(error.value)

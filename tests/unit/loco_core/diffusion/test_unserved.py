"""Of every text-to-image pipeline of diffusers it is known which family serves it, or why none does."""

from __future__ import annotations

import inspect
import re

import diffusers
import pytest
from diffusers.pipelines import auto_pipeline

from loco_core import plugins
from loco_core.diffusion.facts import DEFAULT, families, family_of_pipeline, plain_class
from loco_core.diffusion.unserved import why_unserved
from loco_core.errors import ModelError

KNOWN = sorted({cls.__name__ for cls in auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()})
KEYS = {"families": plugins.keys("families")}
SERVED = {name for family in families().values() for name in family.pipelines}


@pytest.mark.parametrize("name", KNOWN)
def test_every_text_to_image_pipeline_is_served_or_has_a_reason(name: str) -> None:
    """So that a new version of diffusers shows what is new in it."""
    if plain_class(name) in SERVED:
        assert plain_class(name) in families()[family_of_pipeline(name, "here")].pipelines
        return
    with pytest.raises(ModelError) as error:
        family_of_pipeline(name, "here")
    said = str(error.value)
    assert re.fullmatch(rf'here is a "{name}", which no family supports: \S.*[^.]', said), said
    assert "\n" not in said


def test_a_control_image_is_told_with_perturbed_attention_guidance_and_without() -> None:
    for name in KNOWN:
        assert ("control image" in (why_unserved(name) or "")) == ("Control" in name), name
    assert why_unserved("AnimateDiffPAGPipeline") == why_unserved("AnimateDiffPipeline") is not None
    assert why_unserved("NoPipeline") is None


def test_the_name_of_a_class_that_a_package_brings_tells_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="it draws videos"):
        family_of_pipeline("WanderlustPipeline", "here")
    monkeypatch.setattr(plugins, "keys", lambda group: ("WanderlustPipeline",) if group == "pipelines" else KEYS[group])
    assert family_of_pipeline("WanderlustPipeline", "here") == DEFAULT


@pytest.mark.parametrize("name", sorted(SERVED))
def test_steps_and_guidance_are_those_that_the_pipeline_takes_by_default(name: str) -> None:
    facts = families()[family_of_pipeline(name, "here")]
    takes = inspect.signature(getattr(diffusers, name).__call__).parameters
    assert takes["num_inference_steps"].default == facts.steps
    # A guider has its own.
    if facts.scale_argument:
        assert takes[facts.scale_argument].default == facts.guidance_scale
    else:
        assert "guidance_scale" not in takes

from __future__ import annotations

from typing import Any

import pytest

from loco_core.errors import ModelError, SpecError
from loco_core.types import Generation
from orchestrator.resolve import outline
from orchestrator.spec import SweepSpec


def sweep(**changes: Any) -> SweepSpec:
    content = {"name": "s", "models": ["sd15"], "attributes": ["style/monet"], "scorer": "toy-clip"}
    return SweepSpec.model_validate({**content, **changes}, strict=False)


def test_models_of_one_sweep_may_have_guidance_scales_of_their_own() -> None:
    spec = sweep(models=["sd15", {"id": "flux", "guidance_scale": 3.5}])
    usual, distilled = (model.generation(spec.generation.settings) for model in outline(spec).models)
    assert usual == Generation()
    assert distilled == Generation(guidance_scale=3.5)


def test_a_distilled_model_wants_a_guidance_scale() -> None:
    with pytest.raises(SpecError, match=r"expected \{id: flux, guidance_scale: NUMBER\}") as error:
        outline(sweep(models=["sd15", "flux"]))
    assert error.value.loc == ("models", 1)
    outline(sweep(models=["flux"], generation={"guidance_scale": 3.5}))


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

"""Small sweeps that edit, for tests of what is planned of them."""

from __future__ import annotations

from typing import Any

from loco_core.attributes import attribute
from orchestrator.resolve.lookup import resolve_model
from orchestrator.resolve.resolved import ResolvedModel
from orchestrator.spec import ModelSpec, SweepSpec

STYLE, VELOR = attribute("style/lumio"), attribute("style/velor")
TOY = resolve_model(ModelSpec(id="toy"))
METHODS = {"editors": ["loco_edit", "uce", "diff_quick_fix"], "method_lambdas": {"uce": [0.1, 1.0]},
           "targets": ["paired"]}  # fmt: skip


def spec(**changes: Any) -> SweepSpec:
    """Returns a sweep of one style on the toy that edits."""
    content: dict[str, Any] = {
        "name": "s", "models": ["toy"], "attributes": ["style/lumio"], "scorer": "toy-clip", "prompts": 4,
        "generation": {"steps": 4, "batch_size": 16}, "edit": {}, "evaluate": {"prompts": 3, "seeds": 2},
    }  # fmt: skip
    return SweepSpec.model_validate({**content, **changes}, strict=False)


def replaced(model: ResolvedModel) -> ResolvedModel:
    """Returns a model with other weights."""
    return model.model_copy(update={"weights": "0" * 64})

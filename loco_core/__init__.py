"""The science of loco-sweep: interventions, scores, localization, edits; one process, one device, no cluster.

The functions below are imported when they are first used, and torch with them: ``import loco_core`` takes milliseconds.

Example:
    >>> import loco_core
    >>> model = loco_core.load_model("toy")
    >>> picture, = model.draw("a red circle", steps=4, guidance_scale=3.0)
    >>> picture.size
    (32, 32)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from loco_core.errors import LocoError
from loco_core.types import (
    Attribute,
    Engine,
    Extras,
    Generation,
    Intervention,
    Lora,
    PromptRecord,
    Row,
    Site,
    TextualInversion,
    Window,
)

if TYPE_CHECKING:
    from loco_core.editing.deltas import WeightDelta
    from loco_core.face.applied import AppliedEdit
    from loco_core.face.edits import apply_edit, export_edit, fit_edit, load_edit, save_edit
    from loco_core.face.measures import localize, score
    from loco_core.face.model import Model, load_model
    from loco_core.localization.base import Localization

__all__ = [
    "AppliedEdit",
    "Attribute",
    "Engine",
    "Extras",
    "Generation",
    "Intervention",
    "Localization",
    "LocoError",
    "Lora",
    "Model",
    "PromptRecord",
    "Row",
    "Site",
    "TextualInversion",
    "WeightDelta",
    "Window",
    "apply_edit",
    "export_edit",
    "fit_edit",
    "load_edit",
    "load_model",
    "localize",
    "save_edit",
    "score",
]

_LATER = {
    "AppliedEdit": "loco_core.face.applied",
    "Localization": "loco_core.localization.base",
    "Model": "loco_core.face.model",
    "WeightDelta": "loco_core.editing.deltas",
    "apply_edit": "loco_core.face.edits",
    "export_edit": "loco_core.face.edits",
    "fit_edit": "loco_core.face.edits",
    "load_edit": "loco_core.face.edits",
    "load_model": "loco_core.face.model",
    "localize": "loco_core.face.measures",
    "save_edit": "loco_core.face.edits",
    "score": "loco_core.face.measures",
}
"""Where a name is imported from when it is first used."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])

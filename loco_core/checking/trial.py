"""The checks without which a model of the default family draws nothing: is it drawn as it draws itself?"""

from __future__ import annotations

from dataclasses import replace

from loco_core.checking.comparisons import Subject, check_pictures, compare_strictly, draw_alone, draw_with_engine
from loco_core.diffusion.default.probe import SENTENCES, blamed
from loco_core.diffusion.model import LoadedModel
from loco_core.errors import ModelError
from loco_core.types import Generation

STEPS = 3


def try_out(model: LoadedModel, name: str) -> None:
    """Refuses a model unless the engine draws with it what it draws alone.

    Swapped are a prompt for itself and for another at all sites, alone and in a batch; see
    :func:`loco_core.checking.comparisons.compare_strictly`.

    Args:
        model: a model of the default family.
        name: name of the model, for messages.

    Raises:
        ModelError: it differs, or nobody could tell.
    """
    with blamed(name):
        _try_out(model, name)


def _try_out(model: LoadedModel, name: str) -> None:
    facts = model.facts
    scale = facts.guidance_scale
    if facts.guided and scale <= facts.unguided_scale:
        scale = facts.unguided_scale + 3.0
    subject = Subject(SENTENCES[1], SENTENCES[0], 0, replace(Generation(), steps=STEPS, guidance_scale=scale))
    alone = draw_alone(model, subject)
    latents, pictures = draw_with_engine(model, subject)
    checks = [check_pictures(pictures, model.dtype, finite=alone.finite)]
    if alone.finite:
        checks += compare_strictly(model, alone, latents, pictures)
    for check in checks:
        if check.state != "passed":
            kind, state = type(model.pipeline).__name__, "failed" if check.state == "failed" else "could not be told"
            figure = "" if check.figure is None or check.limit is None else f" {check.figure:.1e} > {check.limit:.1e}"
            raise ModelError(
                f"{name}: the default family cannot serve this {kind}: {check.name} {state}{figure}: {check.said}"
            )

"""What a sweep cannot show or cannot mean, each with what to change: said before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loco_core.attributes import made_for
from loco_core.checking.certificate import Certificate
from loco_core.diffusion.facts import DEFAULT, families, known_models, plain_class
from loco_core.diffusion.folders import INDEX, read_object
from loco_core.diffusion.hub import cached_folder
from loco_core.localization.base import rule
from loco_core.scoring.base import made_for as scorer_made_for
from orchestrator.resolve.checkpoints import checkpoint
from orchestrator.resolve.default import default_class, identity_of
from orchestrator.resolve.resolved import Resolved, ResolvedModel
from orchestrator.runs.certificates import known_certificates, of_model, status_of
from orchestrator.spec import ModelSpec, SweepSpec

if TYPE_CHECKING:
    from loco_core.localization.power import Reach

LIKELY = 0.5
"""A sweep that misses a perfect window more often than it finds one is too small."""


def warnings_of(spec: SweepSpec, resolved: Resolved, reach: Reach) -> tuple[str, ...]:
    """Returns what makes a sweep doubtful, a sentence each.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        reach: what a sweep of its size can show.
    """
    return (*_too_small(spec, reach), *_other_worlds(spec, resolved), *_drawn_plainly(resolved))


def _drawn_plainly(resolved: Resolved) -> list[str]:
    """Names models that are drawn without a guidance that the pipeline they are saved as has by default."""
    found = []
    for model in resolved.models:
        folder = cached_folder(model.described_in, model.revision, INDEX)
        saved = str(read_object(folder / INDEX).get("_class_name")) if folder is not None else ""
        plain = plain_class(saved)
        if plain != saved and model.family != DEFAULT and saved not in families()[model.family].pipelines:
            found.append(
                f"{model.id} is saved as a {saved} and drawn as a {plain}, without perturbed-attention guidance: no "
                "weights belong to it, and its defaults are not those of the pictures here"
            )
    return found


def default_lines(spec: SweepSpec) -> tuple[str, ...]:
    """Says of every model whose class has no family that the default one serves it, and whether it was checked.

    Raises:
        LocoError: a model cannot be looked up, or a certificate cannot be read.
    """
    kinds = [(item, kind) for item in spec.models if (kind := default_class(item))]
    known = known_certificates() if kinds else ()
    return tuple(
        f"{item.id} is a {kind}, which has no family: the default family serves it, "
        + _checked(item, [each for each in known if each.pipeline == kind and each.family == DEFAULT])
        for item, kind in kinds
    )


def _checked(item: ModelSpec, of_class: list[Certificate]) -> str:
    """Says whether a model was checked; certificates of other weights of its class say little of it."""
    own = of_model(of_class, weights=identity_of(checkpoint(item))[0]) if of_class else ()
    if own and own[0].passed:
        return status_of(own)
    if own:
        return f"{status_of(own)}: loco-sweep check {item.path}"
    other = "another model of the class was checked, this was not" if any(each.passed for each in of_class) else ""
    return f"{other or 'not checked'}: loco-sweep check {item.path}"


def _too_small(spec: SweepSpec, reach: Reach) -> list[str]:
    if not rule(spec.localize.localizer).bounds:
        return []
    if reach.why_none:
        return [f"this sweep is too small to localize anything: {reach.why_none}"]
    if reach.whole < LIKELY:
        missed = f"it misses even a window that removes everything in {1 - reach.whole:.0%} of such sweeps"
        return [f"this sweep is small: {missed}; more seeds than {reach.seeds} make it likelier to be found"]
    return []


def _other_worlds(spec: SweepSpec, resolved: Resolved) -> list[str]:
    """Names attributes and scorers of the bundled world in other models, and others in its models."""
    found = []
    for model in resolved.models:
        side = int(model.pixels(spec.generation.settings) ** 0.5)
        small = _is_bundled(model)
        keys = [item for item in spec.attributes if isinstance(item, str)]
        toy = [key for key in keys if made_for(key) and made_for(key) != side]
        if toy:
            found.append(
                f"{_listed(toy)} in {model.id}: attributes of the bundled toy world, which no other model knows; "
                "take others of `loco-sweep attributes`, or write your own"
            )
        real = [key for key in keys if not made_for(key)] if small else []
        if real:
            found.append(
                f"{_listed(real)} in {model.id}: a toy model, which only knows the toy attributes of "
                "`loco-sweep attributes`"
            )
        own = scorer_made_for(spec.scorer)
        if own and own != side:
            found.append(
                f"scorer {spec.scorer} with {model.id}: it knows the bundled toy world alone, in pictures of {own} "
                f"pixels, not of {side}; take a CLIP model, such as scorer: openai/clip-vit-large-patch14"
            )
    return list(dict.fromkeys(found))


def _is_bundled(model: ResolvedModel) -> bool:
    known = known_models().get(model.id)
    return known is not None and known[1].path is not None and Path(model.path) == known[1].path


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if keys[3:] else "")

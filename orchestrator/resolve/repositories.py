"""Which repositories of the hub a sweep loads, at which commit, and what of them; without torch."""

from __future__ import annotations

from dataclasses import dataclass

from loco_core.diffusion.facts import left_out
from loco_core.diffusion.hub import SCORER, Needs, on_hub, pipeline_needs
from loco_core.diffusion.weights import commit
from loco_core.errors import located
from loco_core.scoring.base import find_scorer
from loco_core.scoring.vision import VISION
from orchestrator.resolve.attacks import FLOOR, floor_of
from orchestrator.resolve.checkpoints import described_in
from orchestrator.resolve.donors import with_donor
from orchestrator.resolve.lookup import resolve_model, resolve_scorer
from orchestrator.resolve.metrics import named_weights, resolve_metrics
from orchestrator.resolve.super_resolution import with_super_resolution
from orchestrator.spec import SweepSpec
from orchestrator.spec.model import donor_as_model

CLIP = "clip"
"""Key of the scorer that takes any CLIP model."""


@dataclass(frozen=True)
class Repository:
    """A repository on the hub.

    Attributes:
        path: hub id.
        revision: commit.
        needs: what is loaded of it.
    """

    path: str
    revision: str | None
    needs: Needs


def repositories(spec: SweepSpec) -> tuple[Repository, ...]:
    """Returns the repositories that a sweep loads, each once, at the commits that a run would pin now.

    Raises:
        SpecError: a name is unknown.
        ModelError: the hub cannot be reached, or refuses.
    """
    found = []
    for i, item in enumerate(spec.models):
        with located("models", i):
            model = resolve_model(item)
        model = with_super_resolution(i, item, model)
        donor = (model.donor,) if (model := with_donor(spec, i, model)).donor is not None else ()
        for each in (model, *donor):
            needs = pipeline_needs(left_out(each.family), each.extras.variant, each.extras.parts)
            found.append(Repository(each.described_in, each.revision, needs))
        if (second := model.super_resolution) is not None:
            needs = pipeline_needs(left_out(model.family, second=True))
            found.append(Repository(second.path, second.revision, needs))
    if (floor := floor_of(spec)) is not None:
        with located(*FLOOR):
            held = resolve_model(floor)
        found.append(Repository(held.described_in, held.revision, pipeline_needs(left_out(held.family), None, ())))
    key, where = find_scorer(spec.scorer)
    if key == CLIP and on_hub(where):
        with located("scorer"):
            found.append(Repository(where, resolve_scorer(spec).revision, SCORER))
    judge = spec.evaluate.judge
    if judge is not None and judge.model is not None and on_hub(judge.model):
        with located("evaluate", "judge"):
            found.append(Repository(judge.model, commit(judge.model, judge.revision), SCORER))
    found += [Repository(item.path, item.revision, VISION) for item in resolve_metrics(spec) if on_hub(item.path)]
    return tuple({(each.path, each.revision): each for each in found if on_hub(each.path)}.values())


def named_repositories(spec: SweepSpec) -> tuple[str, ...]:
    """Returns the hub ids that a sweep names, without asking the hub."""
    paths = []
    for item in spec.models:
        paths += [described_in(each) for each in (item, item.donor and donor_as_model(item.donor)) if each]
        if item.super_resolution is not None:
            paths.append(item.super_resolution.path)
    floor = floor_of(spec)
    paths += [described_in(floor)] if floor else []
    key, where = find_scorer(spec.scorer)
    paths += [where] if key == CLIP else []
    paths += [spec.evaluate.judge.model or ""] if spec.evaluate.judge else []
    paths += named_weights(spec)
    return tuple(dict.fromkeys(path for path in paths if path and on_hub(path)))

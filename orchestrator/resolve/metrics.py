"""From the metrics that a sweep names to their weights; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loco_core.diffusion.folders import PROCESSORS, scorer_files
from loco_core.diffusion.hub import check_held, on_hub
from loco_core.diffusion.weights import absolute, commit, read_json, weights_hash
from loco_core.errors import ModelError, SpecError, did_you_mean, located
from loco_core.scoring.base import find_scorer, named_scorers
from loco_core.scoring.metric import MetricInfo, compares_sets, metric_id, metric_info
from loco_core.scoring.set_distance import LEAST_PROMPTS
from loco_core.scoring.vision import VISION
from orchestrator.resolve.resolved import ResolvedMetric, ResolvedModel
from orchestrator.spec import SweepSpec
from orchestrator.spec.metrics import choice


def check_metrics(spec: SweepSpec) -> None:
    """Refuses metrics that no machine knows, or that the sweep's pictures or settings do not fit.

    Raises:
        SpecError: there is one; ``loc`` says where in the sweep.
    """
    for i, item in enumerate(spec.evaluate.metrics):
        name, weights, revision = choice(item)
        with located("evaluate", "metrics", i):
            info = metric_info(name)
            if weights is None and info.weights == "":
                raise SpecError(f"{name} needs weights; expected {{{name}: {{weights: FOLDER_OR_HUB_ID}}}}")
            if weights is not None and info.weights is None:
                raise SpecError(f"{name} reads no weights; expected {name} alone")
            if revision is not None and (where := named_place(name, weights)) and not on_hub(where):
                raise SpecError(f"revision {revision} is given, but {where} is no hub id; expected none")
            if revision is not None and info.weights is None:
                raise SpecError(f"{name} reads no weights, which could have a revision; expected {name} alone")
            if compares_sets(name) and spec.evaluate.prompts < LEAST_PROMPTS:
                raise SpecError(
                    f"{name} compares sets of pictures of {LEAST_PROMPTS} prompts or more; evaluate.prompts is "
                    f"{spec.evaluate.prompts}"
                )


def resolve_metrics(spec: SweepSpec, *, hub: bool = True) -> tuple[ResolvedMetric, ...]:
    """Looks up the metrics of a sweep, which `check_metrics` has found good.

    Args:
        spec: the sweep.
        hub: whether weights on the hub are looked up, too; else they stay without a hash.

    Raises:
        SpecError: weights are named that are nowhere, or two metrics are one.
        ModelError: weights are missing, or of another type than the metric reads.
    """
    found = dict[tuple[str, str], ResolvedMetric]()
    for i, item in enumerate(spec.evaluate.metrics):
        with located("evaluate", "metrics", i):
            metric = _resolved(*choice(item), hub=hub)
            # Of weights that nobody has looked at, the place tells which they are.
            key = metric.id, "" if metric.digest else metric.path
            if (first := found.setdefault(key, metric)) is not metric:
                named = " and on ".join(dict.fromkeys(filter(None, (first.weights, metric.weights))))
                raise SpecError(
                    f"{metric.id} is given more than once, on {named}: these are the same; expected it once"
                )
    return tuple(found.values())


def named_weights(spec: SweepSpec) -> tuple[str, ...]:
    """Returns folders and hub ids of the weights that the metrics of a sweep read."""
    places = (named_place(name, weights) for name, weights, _ in map(choice, spec.evaluate.metrics))
    return tuple(place for place in places if place)


def named_place(name: str, weights: str | None) -> str:
    """Returns the folder or hub id of the weights that a metric reads; empty where it has none.

    Args:
        name: key or file of the metric.
        weights: weights that a sweep names; None for the metric's own.
    """
    named = weights or metric_info(name).weights
    return find_scorer(named)[1] if named else ""


def check_sides(spec: SweepSpec, models: Sequence[ResolvedModel]) -> None:
    """Refuses pictures that are too small for a metric.

    Raises:
        SpecError: there are some; ``loc`` says of which metric.
    """
    settings = spec.generation.settings
    for i, item in enumerate(spec.evaluate.metrics):
        least = metric_info(choice(item).name).least_side
        for model in models:
            sides = [side or model.native_side for side in (settings.height, settings.width)]
            # A second stage makes a square of the same shape, larger.
            if model.super_resolution is None and min(sides) < least:
                with located("evaluate", "metrics", i):
                    raise SpecError(
                        f"{choice(item).name} compares pictures of {least} x {least} pixels or more; those of "
                        f"{model.id} are {sides[0]} x {sides[1]}"
                    )


def _resolved(name: str, weights: str | None, asked: str | None, *, hub: bool) -> ResolvedMetric:
    info = metric_info(name)
    named, where = weights or info.weights or "", named_place(name, weights)
    folder = Path(where).is_dir() if where else False
    if named and not where:
        raise SpecError(f"{named} has no weights that {name} could read; expected a model's folder or hub id")
    if where and not folder and not on_hub(where):
        if "/" in where:
            raise ModelError(f"no folder {where}; expected that of a model of transformers, or a hub id")
        raise SpecError(f'no weights "{named}"{did_you_mean(named, named_scorers())}; or a model\'s folder or hub id')
    revision, digest = None, ""
    if where and (folder or hub):
        revision = None if folder else commit(where, asked)
        _check_type(name, info, where, revision)
        if not folder:
            check_held(where, revision, VISION)
        digest = weights_hash(where, revision, scorer_files)
    return ResolvedMetric(
        id=metric_id(name, digest), source=name, sets=compares_sets(name), weights=named,
        path=absolute(where) if where else "", revision=revision, digest=digest, asked=asked,
    )  # fmt: skip


def _check_type(name: str, info: MetricInfo, where: str, revision: str | None) -> None:
    folder = Path(where)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"{where} holds no config.json; expected the folder of a model of transformers")
    kind = read_json(where, revision, "config.json").get("model_type")
    if info.model_types and kind not in info.model_types:
        known = " or ".join(info.model_types)
        raise ModelError(f"{where} holds a {kind or 'nameless'} model; {name} reads one whose model_type is {known}")
    if folder.is_dir() and not any((folder / each).is_file() for each in PROCESSORS):
        raise ModelError(f"{where} holds no {PROCESSORS[0]}, which says how pictures are prepared for the model")

"""The key ``evaluate.metrics``: what compares pictures with and without an edit, beside the judge."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, StringConstraints, Tag, model_validator

from orchestrator.spec.places import ScorerPlace, key_or_file, of_file
from orchestrator.spec.rules import Name, Strict, listed, no_repeats, problem


class MetricSettings(Strict):
    """What a metric is made with."""

    weights: ScorerPlace | None = Field(
        None,
        description="Weights that the metric reads: the name or folder of a model of transformers, or a bundled "
        "scorer's name. Default: its own, where it has any.",
        examples=["openai/clip-vit-large-patch14"],
    )
    revision: Name | None = Field(
        None,
        description="Commit, branch or tag of weights on the hub. Default: their main branch. Results hold the commit.",
        examples=["main"],
    )

    @model_validator(mode="after")
    def _check(self) -> MetricSettings:
        if self.weights is None and self.revision is None:
            raise problem((), "neither weights nor revision is given; expected one of them, or the metric's name alone")
        return self


class MetricChoice(NamedTuple):
    """A metric as a sweep names it.

    Attributes:
        name: key of the plug-in group, or a Python file.
        weights: weights that the sweep names; None for the metric's own.
        revision: of these weights on the hub.
    """

    name: str
    weights: str | None = None
    revision: str | None = None


def _one_name(value: Any) -> Any:
    if isinstance(value, dict) and len(value) != 1:
        raise problem((), f"{len(value)} names in one item; expected one metric with its settings, {{NAME: {{..}}}}")
    return value


def _found(metrics: tuple[Metric, ...], folder: str) -> tuple[Metric, ...]:
    return tuple(
        key_or_file(item, folder) if isinstance(item, str) else {key_or_file(name, folder): item[name] for name in item}
        for item in metrics
    )


def _once(metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
    no_repeats((), (" on ".join(filter(None, choice(item)[:2])) for item in metrics), "metric")
    return metrics


def choice(metric: Metric) -> MetricChoice:
    """Returns the name of a metric, and the weights that the sweep names for it."""
    if isinstance(metric, str):
        return MetricChoice(metric)
    ((name, settings),) = metric.items()
    return MetricChoice(name, settings.weights, settings.revision)


Metric = Annotated[
    Annotated[Annotated[str, StringConstraints(min_length=1)], Tag("name")]
    | Annotated[dict[str, MetricSettings], Tag("settings")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "settings"),
]
Metrics = Annotated[
    tuple[Annotated[Metric, BeforeValidator(_one_name)], ...],
    BeforeValidator(listed, json_schema_input_type=Metric | tuple[Metric, ...]),
    of_file(_found),
    AfterValidator(_once),
]

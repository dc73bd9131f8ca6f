"""The ``edit:`` and ``evaluate:`` blocks of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from loco_core.editors import Fill, HeldHalf, Neurons, Targets, TokenSet
from loco_core.errors import did_you_mean
from orchestrator.spec.places import KeyOrFile
from orchestrator.spec.rules import Strict, no_repeats, problem

Lambdas = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


class EditSpec(Strict):
    """Which edits are fitted, where an attribute is localized or a method puts them, and how one of each is chosen.

    Attributes:
        editors: keys of editors, or Python files.
        targets: what editors that were published with targets of their own are fitted on: ``published`` texts, as their
            authors do, prompts that are ``paired`` with their donors, or both; a single word will do. None is paired,
            and published beside it where an attribute has such texts.
        lambdas: strengths of LocoEdit's paired edits, as shares of the mean squared norm of the keys.
        method_lambdas: absolute lambdas by editor, of published edits and of methods with a place of their own
            (``uce``, ``diff_quick_fix``); the published one where none is given.
        neurons: how many output coordinates of every projection the neuron editor holds: shares up to 1, or whole
            numbers, as published.
        tokens: token sets of closed-form edits; every one is tried with every strength.
        neuron_tokens: positions at which neurons are ranked, and at which the donors' mean is taken.
        fill: what the neuron editor holds a coordinate at.
        guidance_half: in which half of guidance it does: ``conditional``, as published, or ``both``.
        preserve: how many of the nearest attributes of the same kind LocoEdit's paired edits and UCE are to leave
            alone; 0 as in LocoEdit's paper.
        max_neighbour_loss: share of neighbours' pictures that the chosen edit may spoil.
    """

    editors: Annotated[tuple[KeyOrFile, ...], Field(min_length=1)] = ("loco_edit", "neurons")
    targets: Annotated[Annotated[tuple[Targets, ...], Field(min_length=1)] | None, BeforeValidator(_listed)] = None
    lambdas: Lambdas = (0.001, 0.01, 0.1, 1.0)
    method_lambdas: Mapping[KeyOrFile, Lambdas] = Field(default_factory=dict)
    neurons: Annotated[tuple[Neurons, ...], Field(min_length=1)] = (0.1, 0.15, 0.25)
    tokens: Annotated[tuple[TokenSet, ...], Field(min_length=1)] = ("last_subject", "all")
    neuron_tokens: Annotated[tuple[TokenSet, ...], Field(min_length=1)] = ("last_subject",)
    fill: Fill = "donor_mean"
    guidance_half: HeldHalf = "conditional"
    preserve: Annotated[int, Field(ge=0, le=16)] = 8
    max_neighbour_loss: Annotated[float, Field(ge=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _check(self) -> EditSpec:
        for name in ("editors", "targets", "lambdas", "neurons", "tokens", "neuron_tokens"):
            no_repeats((name,), getattr(self, name) or (), "the value")
        for editor, values in self.method_lambdas.items():
            loc = ("method_lambdas", editor)
            if editor not in self.editors:
                raise problem(loc, f"it is none of the editors{did_you_mean(editor, self.editors)}")
            no_repeats(loc, values, "the value")
        return self


class EvaluateSpec(Strict):
    """On what edits are measured.

    Attributes:
        prompts: how many prompts of each role.
        seeds: how many seeds a prompt, none of which the sweep used.
        neighbours: how many of the nearest attributes of the same kind are watched.
        judge: a scorer that names what it sees (``toy-judge``); None judges by the sign of the CLIP margin.
        windows: whether the chosen edit is also made at every window that shares no site with the localized one.
    """

    prompts: Annotated[int, Field(ge=1)] = 4
    seeds: Annotated[int, Field(ge=1, le=1000)] = 4
    neighbours: Annotated[int, Field(ge=0)] = 2
    judge: Literal["toy-judge"] | None = None
    windows: bool = True

"""The ``edit:`` and ``evaluate:`` blocks of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from loco_core.editors import TokenSet
from loco_core.errors import did_you_mean

Share = Annotated[float, Field(gt=0, le=1)]
Lambdas = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _problem(loc: tuple[str, ...], message: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{message}", {"message": message, "loc": loc})


def _no_repeats(loc: tuple[str, ...], values: tuple[object, ...]) -> None:
    if len(set(values)) < len(values):
        raise _problem(loc, "a value is given twice; expected each once")


class EditSpec(_Strict):
    """Which edits are fitted, where an attribute is localized or a method puts them, and how one of each is chosen.

    Attributes:
        editors: keys of editors.
        lambdas: strengths of LocoEdit, as shares of the mean squared norm of its keys.
        method_lambdas: absolute lambdas of methods with a place of their own (``uce``, ``diff_quick_fix``), by editor;
            the published one where none is given.
        neurons: shares of the output coordinates that the neuron editor changes.
        tokens: token sets; every one is tried with every strength.
        fill: what the neuron editor puts in place of a coordinate.
        preserve: how many of the nearest attributes of the same kind LocoEdit and UCE are to leave alone; 0 as in
            LocoEdit's paper.
        max_neighbour_loss: share of neighbours' pictures that the chosen edit may spoil.
    """

    editors: Annotated[tuple[str, ...], Field(min_length=1)] = ("loco_edit", "neurons")
    lambdas: Lambdas = (0.001, 0.01, 0.1, 1.0)
    method_lambdas: Mapping[str, Lambdas] = Field(default_factory=dict)
    neurons: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.02, 0.05, 0.1)
    tokens: Annotated[tuple[TokenSet, ...], Field(min_length=1)] = ("last_subject", "all")
    fill: Literal["zero", "donor_mean"] = "zero"
    preserve: Annotated[int, Field(ge=0, le=16)] = 8
    max_neighbour_loss: Annotated[float, Field(ge=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _check(self) -> EditSpec:
        for name in ("editors", "lambdas", "neurons", "tokens"):
            _no_repeats((name,), getattr(self, name))
        for editor, values in self.method_lambdas.items():
            loc = ("method_lambdas", editor)
            if editor not in self.editors:
                raise _problem(loc, f"it is none of the editors{did_you_mean(editor, self.editors)}")
            _no_repeats(loc, values)
        return self


class EvaluateSpec(_Strict):
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

"""The keys ``evaluate.attacks`` and ``evaluate.floor``: what tries to bring an edited attribute back."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from loco_core.attacking.base import AttackChoice
from orchestrator.spec.places import KeyOrFile
from orchestrator.spec.rules import Strict, listed, no_repeats, tuples


class AttackSpec(Strict):
    """An attack with its settings, which stand beside its name."""

    # Which settings an attack has is said by its plug-in, which is not loaded where a file is read.
    model_config = ConfigDict(extra="allow")

    use: KeyOrFile = Field(description="An attack's name, or a Python file.", examples=["noised_clean"])

    @property
    def choice(self) -> AttackChoice:
        """The attack as the science knows it."""
        return AttackChoice(self.use, dict(self.model_extra or {}))


def _named(value: Any) -> Any:
    """Returns the block that an attack's name alone stands for; else the value as it is."""
    return {"use": value} if isinstance(value, str) else tuples(value)


def _once(attacks: tuple[AttackSpec, ...]) -> tuple[AttackSpec, ...]:
    no_repeats((), (json.dumps(item.model_dump(), sort_keys=True) for item in attacks), "attack")
    return attacks


Attack = Annotated[AttackSpec, BeforeValidator(_named, json_schema_input_type=str | AttackSpec)]
"""An attack, or the bare name of one."""
Attacks = Annotated[
    tuple[Attack, ...],
    BeforeValidator(listed, json_schema_input_type=Attack | tuple[Attack, ...]),
    AfterValidator(_once),
]

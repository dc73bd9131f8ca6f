"""The attacks, one file each: what tries to bring back what an edit removed.

An attack's file exports a function ``attack`` with the signature of :class:`Attack`, its settings as a class
``Settings`` (an :class:`AttackSettings`), and what else there is to know of it in ``INFO`` (an :class:`AttackInfo`).
Plans are made of that, without torch.

The same attack on the model without the edit says what it can bring back at most, and on a model that never learned the
attribute what it puts into any model: an optimizer may find a text for any look. A return counts between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from loco_core import plugins
from loco_core.diffusion.facts import FamilyInfo, families
from loco_core.diffusion.model import LoadedModel
from loco_core.errors import SpecError
from loco_core.plugin_settings import checked
from loco_core.types import Engine, Generation, PromptRecord, Row

if TYPE_CHECKING:
    import torch

Draw = Callable[[Sequence[Row]], "torch.Tensor"]
"""Draws rows with an attacked model: pictures ``(n, 3, height, width)`` in [0, 1], on the CPU."""


class AttackSettings(BaseModel):
    """Settings of an attack: the keys of an item of ``evaluate.attacks`` beside ``use``.

    Attributes:
        pictures: how many clean pictures of the attribute the attack is given at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    pictures: Annotated[int, Field(ge=1, le=64)] = 4


class LearningSettings(AttackSettings):
    """Settings of an attack that optimizes.

    Attributes:
        steps: steps of the optimizer.
        batch_size: noised pictures per step.
    """

    steps: Annotated[int, Field(ge=1, le=10_000)]
    batch_size: Annotated[int, Field(ge=1, le=64)] = 8


@dataclass(frozen=True)
class Clean:
    """Pictures that show the attribute, drawn without an edit.

    Attributes:
        pictures: ``(n, 3, height, width)`` in [0, 1].
        records: what each was drawn from.
    """

    pictures: torch.Tensor
    records: tuple[PromptRecord, ...]


@dataclass(frozen=True)
class AttackTask:
    """What an attack is given beside the model.

    Attributes:
        clean: pictures of the attribute. None of their prompts and seeds is drawn to see whether it returned.
        generation: settings of every picture.
        batch_size: rows per forward pass while pictures are drawn.
        seed: of all that the attack draws at random.
    """

    clean: Clean
    generation: Generation
    batch_size: int
    seed: int


class Attack(Protocol):
    """Tries to bring an attribute back."""

    def __call__(self, model: LoadedModel, task: AttackTask, settings: Any) -> AbstractContextManager[Draw]:
        """Returns what is entered to attack a model; behind it the model is as it was, bit for bit.

        Args:
            model: a model whose family is attackable, with the edit applied if there is one.
            task: what it is given.
            settings: settings of this attack, of its own class ``Settings``.

        Raises:
            ModelError: the model cannot be attacked so, or a prompt is too long for it.
        """


@dataclass(frozen=True)
class AttackInfo:
    """What an attack says of itself, without torch.

    Attributes:
        words: what it does, in words that continue "the attack ..".
        learns: whether it takes gradients, which weights in float16 or waiting elsewhere do not admit.
        passes: passes of the denoiser that it takes beside drawing, in rows of one half of guidance; a pass with its
            gradient counts as three.
        tokens: free tokens that it puts in front of every prompt, which must leave room for them.
    """

    words: str = ""
    learns: bool = False
    passes: Callable[[Any], int] = lambda settings: 0
    tokens: Callable[[Any], int] = lambda settings: 0


@dataclass(frozen=True)
class AttackChoice:
    """An attack as a sweep names it.

    Attributes:
        use: key of the plug-in group, or a Python file.
        settings: its own settings, by name.
    """

    use: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def passes_of_learning(settings: LearningSettings) -> int:
    """Returns what so many steps of an optimizer take; see :attr:`AttackInfo.passes`."""
    return 3 * settings.steps * settings.batch_size


def attack_info(attack: str) -> AttackInfo:
    """Returns what an attack says of itself.

    Raises:
        SpecError: there is no such attack.
    """
    return plugins.declared("attacks", attack, "INFO", AttackInfo())


def attack_settings(choice: AttackChoice) -> AttackSettings:
    """Returns the settings of an attack, those that are not given at their defaults.

    Raises:
        SpecError: there is no such attack, or it has no such settings; ``loc`` is the key.
    """
    plugins.function("attacks", choice.use, "attack")
    kind: type[AttackSettings] = getattr(plugins.load("attacks", choice.use), "Settings", AttackSettings)
    return checked(kind, Path(choice.use).name, choice.settings, ("use",))


def attack_id(attack: str) -> str:
    """Returns what an attack is called in results; that of an outside one tells one version of its code from another.

    Raises:
        SpecError: there is no such attack.
    """
    return plugins.identity("attacks", attack)


def check_attackable(name: str, family: str, facts: FamilyInfo, attack: str, dtype: str, engine: Engine) -> None:
    """Refuses a model that cannot be attacked; looks at no weights.

    Args:
        name: the model's, for the message.
        family: key of its family.
        facts: facts of its family.
        attack: the attack.
        dtype: of its weights.
        engine: how it computes.

    Raises:
        SpecError: it cannot.
    """
    if not facts.attackable:
        able = ", ".join(key for key, known in families().items() if known.attackable)
        raise SpecError(f"{name} ({family}) cannot be attacked; expected a model of the families {able}, or no attacks")
    if not attack_info(attack).learns:
        return
    named = Path(attack).name
    if dtype == "float16":
        raise SpecError(
            f"{named} takes gradients, which are too small for the float16 of {name}; expected dtype: bfloat16 or "
            "float32"
        )
    if engine.offload != "none" or engine.device_map == "balanced":
        kept = f"offload: {engine.offload}" if engine.offload != "none" else "device_map: balanced"
        raise SpecError(f"{named} takes gradients, for which all of {name} must lie on one device; it has {kept}")


@contextmanager
def attacked(model: LoadedModel, choice: AttackChoice, task: AttackTask) -> Iterator[Draw]:
    """Attacks a model for the time of a ``with`` block.

    Args:
        model: the model, with the edit applied if there is one.
        choice: the attack.
        task: what it is given.

    Yields:
        what draws rows with it.

    Raises:
        SpecError: see :func:`attack_settings`.
        ModelError: see :class:`Attack`.
    """
    attack: Attack = plugins.function("attacks", choice.use, "attack")
    with attack(model, task, attack_settings(choice)) as draw:
        yield draw

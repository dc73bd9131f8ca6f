"""The keys ``hooks`` and ``notify``: what is called, and who gets a message, while a run goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, StringConstraints, Tag

from loco_core.masking import has_password, holds_credential, is_credential_name, is_plain_value
from orchestrator.spec.places import key_or_file, of_file
from orchestrator.spec.rules import Strict, listed, no_repeats, problem, tuples

Occasion = Literal["start", "localized", "edited", "failed", "end"]
_VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class HookChoice:
    """A hook that a sweep names.

    Attributes:
        name: key of the plug-in group, or the path of a Python file.
        settings: what it is made with.
    """

    name: str
    settings: Mapping[str, Any]


def _one_name(value: Any) -> Any:
    if isinstance(value, dict) and len(value) != 1:
        raise problem((), f"{len(value)} names in one item; expected one hook with its settings, {{NAME: {{..}}}}")
    return value


def _without_credentials(hooks: tuple[Hook, ...]) -> tuple[Hook, ...]:
    for number, hook in enumerate(hooks):
        for keys, value in _texts(hook if isinstance(hook, dict) else {}):
            named = any(is_credential_name(str(key)) for key in keys[1:]) and not is_plain_value(value)
            if named or holds_credential(value) or has_password(value):
                message = "looks like a credential, which results would keep; expected it in the driver's environment"
                raise problem((number, *keys), message)
    return hooks


def _texts(value: Any, *keys: str | int) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yields the texts of a value, with the keys that lead to them."""
    if isinstance(value, str):
        yield keys, value
    for key, each in value.items() if isinstance(value, dict) else ():
        yield from _texts(each, *keys, key)
    for number, each in enumerate(value) if isinstance(value, list | tuple) else ():
        yield from _texts(each, *keys, number)


def renamed(hooks: tuple[Hook, ...], name_of: Callable[[str], str]) -> tuple[Hook, ...]:
    """Returns hooks under other names, with the settings that they have.

    Args:
        hooks: the hooks.
        name_of: returns the new name for the name of one.
    """
    return tuple(
        name_of(hook) if isinstance(hook, str) else {name_of(name): value for name, value in hook.items()}
        for hook in hooks
    )


def _found(hooks: tuple[Hook, ...], folder: str) -> tuple[Hook, ...]:
    return renamed(hooks, lambda name: key_or_file(name, folder))


def _once(hooks: tuple[Hook, ...]) -> tuple[Hook, ...]:
    no_repeats((), (choice(hook).name for hook in hooks), "hook")
    return hooks


def choice(hook: Hook) -> HookChoice:
    """Returns a hook as it was written, with its settings."""
    if isinstance(hook, str):
        return HookChoice(hook, {})
    ((name, settings),) = hook.items()
    return HookChoice(name, settings)


Hook = Annotated[
    Annotated[Annotated[str, StringConstraints(min_length=1)], Tag("name")]
    | Annotated[dict[str, dict[str, Any]], Tag("settings")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "settings"),
]
Hooks = Annotated[
    tuple[Annotated[Hook, BeforeValidator(_one_name)], ...],
    BeforeValidator(listed, json_schema_input_type=Hook | tuple[Hook, ...]),
    AfterValidator(_without_credentials),
    of_file(_found),
    AfterValidator(_once),
]


def _variable(text: str) -> str:
    if not _VARIABLE.fullmatch(text):
        # The value is not repeated: it may be an address with its credentials.
        raise problem((), "expected ${env:NAME}, a variable that holds the address: an address holds credentials")
    return text


def variable_of(address: str) -> str:
    """Returns the name of the environment variable that holds an address.

    Args:
        address: ``${env:NAME}``.
    """
    found = _VARIABLE.fullmatch(address)
    assert found is not None
    return found[1]


class NotifySpec(Strict):
    """Who gets a message."""

    to: Annotated[
        tuple[Annotated[str, AfterValidator(_variable)], ...],
        Field(min_length=1),
        BeforeValidator(lambda value: tuples([value] if isinstance(value, str) else value)),
    ] = Field(
        description="Addresses of apprise (`slack://..`, `mailto://..`), each in an environment variable of the "
        "driver: `${env:NAME}`. They hold credentials, so that no file and no result holds them.",
        examples=[["${env:SLACK_URL}"]],
    )
    when: Annotated[tuple[Occasion, ...], Field(min_length=1), BeforeValidator(lambda value: tuples(value))] = Field(
        ("failed", "end"),
        description="Events that send a message: the `start` of a run, each attribute that is `localized`, each edit "
        "that is chosen (`edited`), the first unit that `failed`, the `end` of a run. A driver that died always sends "
        "one.",
        examples=[["localized", "failed", "end"]],
    )


def notified(value: Any) -> Any:
    """Returns the block that addresses alone stand for; else the value as it is."""
    return {"to": tuples(value)} if isinstance(value, str | list | tuple) else value

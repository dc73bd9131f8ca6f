"""The settings that plug-ins declare as a class, checked against what a sweep gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from loco_core.errors import SpecError, did_you_mean

Settings = TypeVar("Settings", bound=BaseModel)


def checked(kind: type[Settings], named: str, given: Mapping[str, Any], beside: Sequence[str]) -> Settings:
    """Returns the settings of a plug-in.

    Args:
        kind: the class of its settings.
        named: what it is called in messages.
        given: settings by name.
        beside: keys of the sweep that stand beside the settings.

    Raises:
        SpecError: it has no such setting, or not with this value; ``loc`` is the key.
    """
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            raise about(
                key, f'{named} has no setting "{key}"{did_you_mean(key, (*beside, *kind.model_fields))}'
            ) from None
        where = ".".join(map(str, first["loc"]))
        expected = first["msg"].replace("Input should be", "expected")
        for word, plain in (("a valid tuple", "a list"), ("a valid dictionary", "a mapping"), ("a valid ", "a ")):
            expected = expected.replace(word, plain)
        raise about(key, f"{named}: {where} is {first['input']!r}; {expected}") from None


def about(key: str, message: str) -> SpecError:
    """Returns an error that is about a key."""
    error = SpecError(message)
    error.loc = (key,)
    return error

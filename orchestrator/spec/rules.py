"""What the parts of a sweep file have in common: strict models, and how a broken rule is reported."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationInfo
from pydantic_core import PydanticCustomError

from loco_core.masking import holds_credential, is_credential_name

_PLAIN = r"^[^\x00-\x1f\x7f]+$"
_EXPECTED: dict[str, str] = {}
_VARIABLE = re.compile(r"\$\{([^{}]*)\}")


def expanded(text: str, info: ValidationInfo) -> str:
    """Returns a name or a path with the environment variables that it names as ``${env:NAME}``.

    It is expanded once, where a file is read: what is stored says what results were made of and where they are, and no
    other machine needs the variable. Hence credentials are refused.
    """
    # Without a file it is what was stored, and stands as it is.
    return expand(text) if info.context else text


def expand(text: str) -> str:
    """Returns a text with the environment variables that it names; errors as of a rule."""
    return _VARIABLE.sub(_value, text)


def _value(found: re.Match[str]) -> str:
    kind, _, name = found[1].partition(":")
    if kind != "env" or not name:
        raise PydanticCustomError("rule", f"{found[0]} is not known; expected ${{env:{found[1]}}} for a variable")
    value = os.environ.get(name, "")
    if not value:
        raise PydanticCustomError("rule", f"{found[0]}: the environment variable {name} is not set; set it first")
    if is_credential_name(name) or holds_credential(value):
        raise PydanticCustomError(
            "rule", f"{found[0]} looks like a credential, which results would keep; expected a name or a path"
        )
    if len(value) > 2000 or not re.match(_PLAIN, value):
        raise PydanticCustomError("rule", f"{found[0]}: the value of {name} is no name and no path")
    return value


def spelled(pattern: str, expected: str, *, shortest: int = 0, longest: int) -> StringConstraints:
    """Returns what a text must match; errors say it in words.

    Args:
        pattern: a regular expression.
        expected: what matches it, in words: the end of ``expected ..``.
        shortest: least number of letters.
        longest: largest number of letters.
    """
    _EXPECTED[pattern] = expected
    return StringConstraints(pattern=pattern, min_length=shortest or None, max_length=longest)


def in_words(pattern: str) -> str:
    """Returns what is expected where a text does not match a pattern of `spelled`."""
    return _EXPECTED[pattern]


PLAIN = "text on one line, without control characters"
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Name = Annotated[str, spelled(_PLAIN, PLAIN, shortest=1, longest=300), AfterValidator(expanded)]
"""Names may hold ``${env:NAME}``, see `expanded`."""


class Strict(BaseModel):
    """Frozen, strict, and closed to unknown keys.

    Attributes:
        other_words: for a whole file, keys that people know from other tools, and what stands for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    other_words: ClassVar[Mapping[str, str]] = MappingProxyType({})


def problem(loc: Iterable[str | int], message: str) -> PydanticCustomError:
    """Returns an error of a rule over several fields that points at one of them."""
    return PydanticCustomError("rule", "{message}", {"message": message, "loc": tuple(loc)})


def no_repeats(loc: Iterable[str | int], values: Iterable[Hashable], what: str) -> None:
    """Refuses a value that is given twice.

    Args:
        loc: place of the values.
        values: values to be looked through.
        what: one of them is, in words.

    Raises:
        PydanticCustomError: there is one.
    """
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise problem(loc, f"{what} {repeated[0]!r} is given more than once; expected each once")


def listed(value: Any) -> Any:
    """Returns what stands alone as a list of one, for keys that take a list; else the value as it is."""
    return tuples([value] if isinstance(value, str | dict) else value)


def tuples(value: Any) -> Any:
    """Returns a value with tuples for lists: after a validator has seen it, strict models take no lists."""
    if isinstance(value, list | tuple):
        return tuple(map(tuples, value))
    return {key: tuples(each) for key, each in value.items()} if isinstance(value, dict) else value

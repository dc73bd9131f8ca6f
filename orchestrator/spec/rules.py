"""What the parts of a sweep file have in common: strict models, and how a rule over several fields is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic_core import PydanticCustomError

Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Strict(BaseModel):
    """Frozen, strict, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def problem(loc: Iterable[str | int], message: str) -> PydanticCustomError:
    """Returns an error of a rule over several fields that points at one of them."""
    return PydanticCustomError("rule", "{message}", {"message": message, "loc": tuple(loc)})


def no_repeats(loc: Iterable[str | int], values: Iterable[Hashable], what: str) -> None:
    """Refuses a value that is given twice.

    Args:
        loc: of the values.
        values: to be looked through.
        what: one of them is, in words.

    Raises:
        PydanticCustomError: there is one.
    """
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise problem(loc, f"{what} {repeated[0]!r} is given more than once; expected each once")

"""The errors that a person meets. Every message says what is wrong, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from loco_core.masking import masked


class LocoError(Exception):
    """An error whose message is meant for a person; the command line prints it without a traceback.

    Attributes:
        loc: the value in the sweep that it is about, e.g. ``("attributes", 1)``; empty where there is none.
    """

    exit_code = 1
    loc: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        """Returns the message; no credential that it quotes leaves with it."""
        return masked(super().__str__())


class SpecError(LocoError):
    """The sweep file or the command is wrong."""

    exit_code = 2


class ModelError(LocoError):
    """A model cannot be loaded, or is not what it was said to be."""


class UnknownPipelineError(ModelError):
    """A model is a pipeline of a class that no family serves."""


class OutOfMemoryError(LocoError):
    """A model or a batch does not fit into the memory of its device, also with nothing else there."""


class StoreError(LocoError):
    """A results folder cannot be read or written, or holds something else."""


class EditError(LocoError):
    """An edit cannot be made, read or applied."""


class ClusterError(LocoError):
    """A cluster cannot be reached, or refuses a job."""


class ViewError(LocoError):
    """Results cannot be shown in a browser."""


class LocalizationError(LocoError):
    """A score table cannot be localized: columns or controls are missing."""


@contextmanager
def located(*loc: str | int) -> Iterator[None]:
    """Notes in an error which value of the sweep it is about."""
    try:
        yield
    except LocoError as error:
        error.loc = loc
        raise


def did_you_mean(name: str, known: Iterable[str], most: int | None = None) -> str:
    """Returns ``'; did you mean "x"?'``, or the list of what is known where nothing is near.

    Args:
        name: what was written.
        known: what could have been written.
        most: how many are listed where nothing is near; None lists all.
    """
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if near:
        return f'; did you mean "{near[0]}"?'
    left = 0 if most is None else max(0, len(choices) - most)
    more = f" and {left:,} more" if left else ""
    return f"; known: {', '.join(choices[: len(choices) - left])}{more}" if choices else ""


def wants_token(address: str) -> str:
    """Returns what is said where a cluster refuses who has not its token.

    Args:
        address: of the cluster, or of its dashboard.
    """
    return (
        f"{address} wants a token: set RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH, a file) to that of the cluster, which "
        "`ray get-auth-token` prints on its head"
    )


def printable(text: str) -> str:
    """Returns a text whose lines are those that it means to have: what cannot be seen in it is written as an escape."""
    seen = (each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in text)
    return text if text.isprintable() else "".join(seen)


def first_line(error: BaseException) -> str:
    """Returns the first line of a library's message, or what kind of error it is where it says nothing."""
    return (masked(str(error)).strip() or type(error).__name__).splitlines()[0]

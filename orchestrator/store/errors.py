"""What can go wrong with a results root, by kind; every message is one line that says what to do."""

from __future__ import annotations

from loco_core.errors import StoreError

__all__ = [
    "DamagedFileError",
    "DiskFullError",
    "LeaseHeldError",
    "LeaseLostError",
    "MissingFileError",
    "NewerVersionError",
    "StoreError",
    "UnwritableError",
    "not_installed",
]


REMEDY = "run `loco-sweep verify RESULTS --repair`"
"""What to do where a file is not what was written."""


class MissingFileError(StoreError):
    """A file or the results root itself is not there."""


class DamagedFileError(StoreError):
    """A file does not hold what was written into it."""


class NewerVersionError(StoreError):
    """A file is whole, and says more than this version understands: nothing to mend."""


def not_installed(place: str, table: str) -> NewerVersionError:
    """Returns the error of a file with rows of a kind of work that is not installed here.

    Args:
        place: where the file is.
        table: name of the table.
    """
    return NewerVersionError(
        f"{place}: holds rows of the table {table[:80]!r}, which no kind of work that is installed here has; install "
        "the package that wrote it, here too"
    )


class UnwritableError(StoreError):
    """The results root refuses to be written."""


class DiskFullError(StoreError):
    """No space is left; nothing half-written stays behind."""


class LeaseHeldError(StoreError):
    """Another driver works on these results."""


class LeaseLostError(StoreError):
    """Another driver took these results over; this one must stop."""

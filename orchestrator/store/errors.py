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
]


REMEDY = "run `loco-sweep verify RESULTS --repair`"
"""What to do where a file is not what was written."""


class MissingFileError(StoreError):
    """A file or the results root itself is not there."""


class DamagedFileError(StoreError):
    """A file does not hold what was written into it."""


class NewerVersionError(StoreError):
    """A file is whole, and says more than this version understands: nothing to mend."""


class UnwritableError(StoreError):
    """The results root refuses to be written."""


class DiskFullError(StoreError):
    """No space is left; nothing half-written stays behind."""


class LeaseHeldError(StoreError):
    """Another driver works on these results."""


class LeaseLostError(StoreError):
    """Another driver took these results over; this one must stop."""

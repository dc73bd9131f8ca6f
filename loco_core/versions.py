"""Versions of packages, as they are installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version


def versions_of(names: Sequence[str], absent: str = "") -> dict[str, str]:
    """Returns the versions of packages by name.

    Args:
        names: packages.
        absent: what stands for the version of one that is not installed, as this project is not where it is run from
            its sources; empty leaves it out.
    """
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            if absent:
                found[name] = absent
    return found

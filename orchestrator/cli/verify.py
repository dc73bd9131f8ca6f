"""``verify``: find damaged files in results, and mend them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from loco_core.errors import printable
from orchestrator.cli.options import Results

if TYPE_CHECKING:
    from orchestrator.store import Damage, Store


def verify(
    results: Results,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended; `run` computes the rest.")] = False,
) -> None:
    """Compare every file with its SHA-256 sum, and say which files are not covered."""
    from orchestrator import store as stores

    store = stores.open_store(results, create=False)
    found = _repaired(store) if repair else _examined(store)
    for damage in found:
        print(_line(f"{store.root}/{damage.path}: {damage.problem}; {damage.remedy}"))
    if not found:
        print(f"{results}: every file of loco-sweep is as it was written")
    elif not repair:
        print(f"`loco-sweep verify {results} --repair` mends this")
    if found and not (repair and all(damage.mended for damage in found)):
        raise typer.Exit(1)


def _line(text: str) -> str:
    """Returns a text that stays a line and moves no cursor, whatever the files of a folder are called."""
    return printable(text).replace("\n", "\\n")


def _repaired(store: Store) -> list[Damage]:
    from orchestrator import store as stores

    # A large folder takes longer than another driver waits for a lease that is not renewed.
    with stores.leased(store) as lease:
        return stores.repair(store, lease.check)


def _examined(store: Store) -> list[Damage]:
    from orchestrator import store as stores

    found = stores.examine(store)
    for path, word in found.foreign.items():
        print(_line(f"{store.root}/{path}: {word}; left alone, and not covered"))
    for what in found.uncovered:
        print(_line(f"not covered: {what}"))
    return list(found.damages)

"""``verify``: find damaged files in results, and repair them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from loco_core.errors import printable
from orchestrator.cli.options import JsonOption, Results

if TYPE_CHECKING:
    from orchestrator.store import Damage, Store
    from orchestrator.store.damage import Examination


def verify(
    results: Results,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what can be repaired; `run` computes the rest.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Find damaged files, and repair them.

    Every file is compared with its SHA-256 sum; files that no sum covers are named.
    """
    import json
    from dataclasses import asdict

    from orchestrator import store as stores

    store = stores.open_store(results, create=False)
    examined = None if repair else stores.examine(store)
    found = _repaired(store) if examined is None else list(examined.damages)
    if as_json:
        notes = {} if examined is None else {"foreign": examined.foreign, "uncovered": list(examined.uncovered)}
        print(json.dumps({"damages": [asdict(damage) for damage in found], **notes}))
    else:
        _print(store, results, found, examined)
    if found and not (repair and all(damage.mended for damage in found)):
        raise typer.Exit(1)


def _print(store: Store, results: str, found: list[Damage], examined: Examination | None) -> None:
    for path, word in (examined.foreign if examined else {}).items():
        print(_line(f"{store.root}/{path}: {word}; left alone, and not covered"))
    for what in examined.uncovered if examined else ():
        print(_line(f"not covered: {what}"))
    for damage in found:
        print(_line(f"{store.root}/{damage.path}: {damage.problem}; {damage.remedy}"))
    if not found:
        print(f"{results}: every file of loco-sweep is as it was written")
    elif examined is not None:
        print(f"`loco-sweep verify {results} --repair` repairs this")


def _line(text: str) -> str:
    """Returns a text that stays a line and moves no cursor, whatever the files of a folder are called."""
    return printable(text).replace("\n", "\\n")


def _repaired(store: Store) -> list[Damage]:
    from orchestrator import store as stores

    # A large folder takes longer than another driver waits for a lease that is not renewed.
    with stores.leased(store) as held:
        return stores.repair(held.store)

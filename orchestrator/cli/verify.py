"""``verify``: find damaged files in results, and mend them."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import Results


def verify(
    results: Results,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended; `run` computes the rest.")] = False,
) -> None:
    """Compare every file with its SHA-256 sum."""
    from orchestrator import store as stores

    store = stores.open_store(results, create=False)
    if repair:
        lease = stores.Lease(store.blobs)
        lease.acquire()
        try:
            found = stores.repair(store)
        finally:
            lease.release()
    else:
        found = stores.verify(store)
    for damage in found:
        print(f"{results}/{damage.path}: {damage.problem}; {damage.remedy}")
    if not found:
        print(f"{results}: every file is as it was written")
    elif not repair:
        print(f"`loco-sweep verify {results} --repair` mends this")
        raise typer.Exit(1)

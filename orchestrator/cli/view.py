"""``view``: the kept images of results, in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import at_home
from orchestrator.cli.places import results_root


def _roots(given: list[str]) -> list[str]:
    return [results_root(results) for results in given]


def view(
    results: Annotated[
        list[str],
        typer.Argument(
            help="Results folders, addresses, or sweep or cluster files; several are compared.",
            metavar="RESULTS...",
            callback=_roots,
        ),
    ],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 8765,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Write the viewer into this folder, for any file server, and end.", callback=at_home),
    ] = None,
    max_pictures: Annotated[int, typer.Option(help="Pictures that a bundle holds at most.", min=1)] = 2000,
) -> None:
    """Browse the kept pictures in a browser.

    Side by side, by effect, model, attribute and prompt, also while the sweep runs.
    """
    from tempfile import TemporaryDirectory

    from orchestrator.store import open_store

    stores = [open_store(root, create=False) for root in results]
    if bundle is not None:
        from orchestrator.viewing.bundle import write_bundle

        made = write_bundle(stores, bundle, max_pictures)
        chosen = "all" if made.pictures == made.kept else "the first prompts and seeds; --max-pictures takes more"
        print(f"{made.page}: {made.pictures} of {made.kept} pictures ({chosen}), {made.bytes / 2**20:.1f} MB")
        return

    from orchestrator.viewing.server import serve

    with TemporaryDirectory(prefix="loco-view-") as folder:

        def ready(address: str) -> None:
            print(f"{address} (Ctrl-C stops)", flush=True)
            if open_page:
                _open(address, Path(folder))

        serve(stores, port, ready)


def _open(address: str, folder: Path) -> None:
    """Opens a browser by a file that only its owner reads: the words of a command, all users of a machine see."""
    import webbrowser

    page = folder / "view.html"
    page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">', encoding="utf-8")
    webbrowser.open(page.as_uri())

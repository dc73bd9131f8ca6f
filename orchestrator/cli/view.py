"""``view``: the kept images of a sweep, in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Results


def view(
    results: Results,
    port: Annotated[int, typer.Option(help="Port of 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 8765,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
) -> None:
    """Browse the kept images by model, attribute, window and seed, also while the sweep runs."""
    from tempfile import TemporaryDirectory

    from orchestrator.store import open_store
    from orchestrator.viewing.server import serve

    with TemporaryDirectory(prefix="loco-view-") as folder:

        def ready(address: str) -> None:
            print(f"{address} (Ctrl-C stops)", flush=True)
            if open_page:
                _open(address, Path(folder))

        serve(open_store(results, create=False), port, ready)


def _open(address: str, folder: Path) -> None:
    """Opens a browser by a file that only its owner reads: the words of a command, all users of a machine see."""
    import webbrowser

    page = folder / "view.html"
    page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">', encoding="utf-8")
    webbrowser.open(page.as_uri())

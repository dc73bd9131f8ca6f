"""What a driver writes of its progress into the results, for whoever looks."""

from __future__ import annotations

import logging
from typing import Any

from orchestrator.store import DamagedFileError, decode_document
from orchestrator.store.blobs import Blobs
from orchestrator.store.layout import PROGRESS

logger = logging.getLogger(__name__)
_SHOWN = {"workers", "pending", "rate", "left", "eta_seconds", "retries", "losses", "stages", "outcome", "written_at"}


def written_progress(blobs: Blobs, folder: str = "") -> dict[str, Any] | None:
    """Returns what the driver wrote last; what is damaged counts as none, since the units tell how far it is.

    Args:
        blobs: storage of the results.
        folder: folder of the results below the root of the storage; empty for the root.
    """
    path = f"{folder}/{PROGRESS}" if folder else PROGRESS
    found = blobs.read_versioned(path)
    try:
        written = decode_document(found.data, f"{blobs.root}/{path}") if found else None
    except DamagedFileError as error:
        logger.warning("the progress of the driver is not known: %s", error)
        return None
    return written if written and written.keys() >= _SHOWN else None

"""Checks of a results root before the first cell: what would otherwise fail hours later."""

from __future__ import annotations

import socket
import uuid

from orchestrator.store import layout
from orchestrator.store.blobs import Blobs
from orchestrator.store.checksums import decode_document, encode_document
from orchestrator.store.errors import DamagedFileError, DiskFullError, LeaseLostError, StoreError, UnwritableError


def preflight(blobs: Blobs, needed_bytes: int = 0) -> str:
    """Checks that the root can be written, keeps the first of two writers, and has room.

    Args:
        blobs: of the results root; the caller holds its lease.
        needed_bytes: what the planned cells will take.

    Returns:
        A marker for `check_marker` in every worker.

    Raises:
        DiskFullError: less space is left than needed.
        StoreError: the root cannot be written, or does not keep the first of two writers.
    """
    free = blobs.free_bytes()
    if free is not None and free < needed_bytes:
        raise DiskFullError(
            f"{blobs.root}: {_size(free)} free, but the sweep needs about {_size(needed_bytes)}; "
            "free some, choose another folder with --results, or keep fewer images (images: none)"
        )
    marker = uuid.uuid4().hex
    probe = f"_meta/probe-{marker}"
    first = blobs.put_if_absent(probe, b"first", marker)
    second = blobs.put_if_absent(probe, b"second", f"{marker}-again")
    kept = blobs.read(probe)
    blobs.delete(probe)
    if (first, second, kept) != ("won", "lost", b"first"):
        raise StoreError(
            f"{blobs.root}: this storage ignores conditional writes (If-None-Match), so results could be overwritten; "
            "use AWS S3, another S3 server that honours them, or a disk"
        )
    blobs.replace(layout.MARKER, encode_document({"marker": marker}))
    return marker


def check_marker(blobs: Blobs, marker: str) -> None:
    """Checks that a worker sees the driver's results root, and not a folder of the same name on its own disk.

    Args:
        blobs: of the results root, as the worker opened it.
        marker: from `preflight`, as the driver sent it.

    Raises:
        StoreError: it is another folder.
    """
    if _marker(blobs) != marker:
        raise not_shared(blobs.root)


def check_current(blobs: Blobs, marker: str) -> None:
    """Checks that no other run has begun since a worker's own: it may have other weights and another plan.

    Args:
        blobs: of the results root.
        marker: of the worker's run. Where none can be read, nothing is known of another run, and none is refused.

    Raises:
        LeaseLostError: another run has begun.
    """
    if _marker(blobs) not in (None, marker):
        raise LeaseLostError(f"{blobs.root}: another run has begun on these results; this worker commits no more")


def _marker(blobs: Blobs) -> object:
    found = blobs.read_versioned(layout.MARKER)
    try:
        return decode_document(found.data, layout.MARKER).get("marker") if found else None
    except DamagedFileError:
        return None


def not_shared(root: str) -> UnwritableError:
    """Returns the error of a worker that does not see the driver's results root.

    Args:
        root: address as the worker has it.
    """
    return UnwritableError(
        f"{root}: the worker on {socket.gethostname()} does not see this folder as the driver does; expected a folder "
        "that every machine mounts, or an address such as s3://bucket/folder"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"

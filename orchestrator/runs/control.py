"""What people ask of a run while it goes on, or of the next one: how many workers, and whether it pauses."""

from __future__ import annotations

import logging
import threading

from loco_core.errors import StoreError
from orchestrator.store import Store, encode_document, layout
from orchestrator.store.documents import Control, read_document

CONTROL_SECONDS = 3.0
logger = logging.getLogger(__name__)


def control_of(store: Store) -> Control:
    """Returns what was asked last.

    Raises:
        StoreError: it cannot be read.
    """
    return store.document(layout.CONTROL, Control) or Control()


def change_control(store: Store, **changes: int | bool | None) -> Control:
    """Asks for something else; all that was asked before and is not named stays.

    Args:
        store: the results.
        changes: fields of `Control`.

    Raises:
        StoreError: the results hold no sweep, or cannot be written.
    """
    if store.sweep_id() is None:
        raise StoreError(f"{store.root}: holds no sweep")
    while True:
        found = store.blobs.read_versioned(layout.CONTROL)
        before = read_document(found.data, f"{store.root}/{layout.CONTROL}", Control) if found else Control()
        wanted = before.model_copy(update=changes)
        data = encode_document(wanted.model_dump())
        if store.blobs.compare_and_swap(layout.CONTROL, data, found.version if found else None) is not None:
            return wanted


class ControlWatch:
    """Reads every few seconds what is asked, beside the loop, which must not wait for storage.

    Args:
        store: the results.
        every: seconds between two looks; None is `CONTROL_SECONDS`.
    """

    def __init__(self, store: Store, every: float | None = None) -> None:
        self._store, self._every = store, CONTROL_SECONDS if every is None else every
        self._closed = threading.Event()
        self._control = Control()
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="control")
        self._thread.start()

    def limit(self) -> int | None:
        """Returns how many workers there may be: none while it pauses, None where nobody has asked for anything."""
        return 0 if self._control.paused else self._control.workers

    def close(self) -> None:
        """Stops to look."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(self._every):
            self._look()

    def _look(self) -> None:
        try:
            self._control = control_of(self._store)
        except StoreError as error:
            # What was asked before holds; storage that is gone stops the run elsewhere.
            logger.warning("what is asked of the run cannot be read: %s", error)

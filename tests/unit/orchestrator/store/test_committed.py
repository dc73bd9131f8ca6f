"""Reading what is committed out of parts and units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.store import Publisher, Store, StoreError, layout
from orchestrator.store.reads import FEW_UNITS, published_units, unit_rows
from orchestrator.store.testing import MemoryBlobs

PUBLISHED = 3 * FEW_UNITS


@pytest.fixture
def store(unit: Callable[..., Any]) -> Store:
    """Some units in parts, some not published yet."""
    store = Store(MemoryBlobs())
    for i in range(PUBLISHED + 2):
        store.commit_unit(f"u{i}", unit(f"u{i}"), "a")
        if i == PUBLISHED - 1:
            Publisher(store).publish(flush=True)
    return store


@pytest.mark.parametrize("table", ["scores", "failures", "images"])
@pytest.mark.parametrize("names", [range(PUBLISHED + 2), range(PUBLISHED + 1, -1, -1), [0, PUBLISHED, 3], []])
def test_rows_come_in_the_given_order_wherever_they_are(store: Store, table: str, names: list[int]) -> None:
    ids = [f"u{i}" for i in names]
    assert unit_rows(store, ids, published_units(store), table).equals(store.read_units(ids, table))


def test_many_units_are_a_few_reads(store: Store) -> None:
    blobs, read = store.blobs, Counter[str]()
    assert isinstance(blobs, MemoryBlobs)
    whole = blobs.read
    blobs.read = lambda path: (read.update([path.rpartition("/")[0]]), whole(path))[1]  # type: ignore[method-assign]
    published = published_units(store)
    unit_rows(store, [f"u{i}" for i in range(PUBLISHED + 2)], published)
    assert read[layout.UNITS] == 2


@pytest.mark.parametrize("damage", [None, b"", b"PAR1 and no more"])
def test_units_make_up_for_a_part_that_is_gone_or_damaged(store: Store, damage: bytes | None) -> None:
    blobs, ids = store.blobs, [f"u{i}" for i in range(PUBLISHED)]
    assert isinstance(blobs, MemoryBlobs)
    (path,) = [path for path in blobs.files if path.startswith("scores/part")]
    if damage is None:
        del blobs.files[path]
    else:
        blobs.files[path] = damage
    assert unit_rows(store, ids, published_units(store)).equals(store.read_units(ids))


def test_a_unit_that_is_not_committed_is_named(store: Store) -> None:
    with pytest.raises(StoreError, match="u999"):
        unit_rows(store, ["u0", "u999"], published_units(store))

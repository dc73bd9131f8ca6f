from __future__ import annotations

import random
from pathlib import Path

import pytest

from loco_core.errors import ViewError
from orchestrator.store import DamagedFileError, MissingFileError, Publisher, Store, make_table
from orchestrator.store.local import LocalBlobs
from orchestrator.store.ranges import RangedTable
from orchestrator.store.testing import MemoryBlobs
from orchestrator.viewing.catalogue import Catalogue

LARGE = 300_000


class CountingBlobs(MemoryBlobs):
    """Counts the bytes that are read."""

    count = 0

    def read(self, path: str) -> bytes:
        self.count += len(self.files.get(path, b""))
        return super().read(path)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        data = self.files[path][start : start + length]
        self.count += len(data)
        return data

    def size(self, path: str) -> int:
        if path not in self.files:
            raise MissingFileError(path)
        return len(self.files[path])


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    source = random.Random(0)
    return [source.randbytes(LARGE) for _ in range(60)]


def publish(store: Store, images: list[bytes]) -> None:
    rows = [
        {"unit_id": "u", "image_id": str(i), "model": "toy", "control": "window", "window_start": i, "window_size": 1,
         "seed": 0, "image": {"bytes": data}}
        for i, data in enumerate(images)
    ]  # fmt: skip
    store.commit_unit("u", {"images": make_table("images", rows)}, "a")
    Publisher(store).publish(flush=True)


def test_the_index_reads_no_image_and_one_image_not_all(images: list[bytes]) -> None:
    blobs = CountingBlobs()
    publish(Store(blobs), images)
    catalogue, blobs.count = Catalogue(Store(blobs)), 0
    rows = catalogue.snapshot().index.to_pylist()
    assert len(rows) == len(images)
    assert blobs.count < LARGE
    blobs.count = 0
    assert catalogue.image(rows[33]["file"], rows[33]["row"]) == images[33]
    assert blobs.count < 10 * 2**20
    assert catalogue.details(rows[33]["file"], rows[33]["row"])["window_start"] == 33
    for number in (0, 20, 21, 59, 33):
        assert catalogue.image(rows[number]["file"], rows[number]["row"]) == images[number]
    blobs.count = 0
    catalogue.snapshot()
    assert blobs.count == 0
    with pytest.raises(ViewError, match="no such image"):
        catalogue.image(rows[0]["file"], 60)


def test_a_part_that_was_taken_away_is_forgotten(images: list[bytes]) -> None:
    blobs = MemoryBlobs()
    publish(Store(blobs), images[:2])
    catalogue = Catalogue(Store(blobs))
    assert catalogue.snapshot().index.num_rows == 2
    blobs.delete("images/part-00001.parquet")
    assert catalogue.snapshot().index.num_rows == 0


def test_a_damaged_image_is_not_shown(images: list[bytes], tmp_path: Path) -> None:
    publish(Store(LocalBlobs(tmp_path)), images[:2])
    path = tmp_path / "images" / "part-00001.parquet"
    data = bytearray(path.read_bytes())
    at = data.find(images[1][:50])
    data[at] ^= 1
    path.write_bytes(data)
    catalogue = Catalogue(Store(LocalBlobs(tmp_path)))
    first = catalogue.snapshot().index.to_pylist()[0]
    with pytest.raises(DamagedFileError, match="part-00001"):
        catalogue.image(first["file"], 1)


def test_what_is_no_part_is_said_to_be_damaged() -> None:
    blobs = MemoryBlobs()
    for data in (b"", b"PAR1 no", b"x" * 1000):
        blobs.replace("images/part-00001.parquet", data)
        with pytest.raises(DamagedFileError, match="part-00001"):
            RangedTable(blobs, "images/part-00001.parquet")

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loco_core.errors import ViewError
from loco_core.localization.estimates import plain_effects
from loco_core.localization.score_table import read_scores
from orchestrator.spec import InterventionSpec
from orchestrator.store import DamagedFileError, MissingFileError, Publisher, Store, make_table
from orchestrator.store.local import LocalBlobs
from orchestrator.store.ranges import RangedTable
from orchestrator.store.testing import MemoryBlobs
from orchestrator.viewing.catalogue import Catalogue
from orchestrator.viewing.index import encode_index, shown
from orchestrator.viewing.pictures import intervention_words

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
    (part,) = catalogue.snapshot().parts
    file, rows = part.images.seal, part.index["row"].to_pylist()
    assert len(rows) == len(images)
    assert blobs.count < LARGE
    blobs.count = 0
    assert catalogue.image(file, rows[33]) == images[33]
    assert blobs.count < 10 * 2**20
    assert [row["window_start"] for row in catalogue.details(file, [33, 5])] == [33, 5]
    for number in (0, 20, 21, 59, 33):
        assert catalogue.image(file, rows[number]) == images[number]
    blobs.count = 0
    catalogue.snapshot(anew=False)
    assert blobs.count == 0
    with pytest.raises(ViewError, match="no such image"):
        catalogue.image(file, 60)


def test_a_part_that_was_taken_away_is_forgotten(images: list[bytes]) -> None:
    blobs = MemoryBlobs()
    publish(Store(blobs), images[:2])
    catalogue = Catalogue(Store(blobs))
    assert [part.index.num_rows for part in catalogue.snapshot().parts] == [2]
    blobs.delete("images/part-00001.parquet")
    assert catalogue.snapshot().parts == ()


def test_a_damaged_image_is_not_shown(images: list[bytes], tmp_path: Path) -> None:
    publish(Store(LocalBlobs(tmp_path)), images[:2])
    path = tmp_path / "images" / "part-00001.parquet"
    data = bytearray(path.read_bytes())
    at = data.find(images[1][:50])
    data[at] ^= 1
    path.write_bytes(data)
    catalogue = Catalogue(Store(LocalBlobs(tmp_path)))
    (part,) = catalogue.snapshot().parts
    with pytest.raises(DamagedFileError, match="part-00001"):
        catalogue.image(part.images.seal, 1)


def test_what_is_no_part_is_said_to_be_damaged() -> None:
    blobs = MemoryBlobs()
    for data in (b"", b"PAR1 no", b"x" * 1000):
        blobs.replace("images/part-00001.parquet", data)
        with pytest.raises(DamagedFileError, match="part-00001"):
            RangedTable(blobs, "images/part-00001.parquet")


def test_the_mean_of_the_pictures_effects_is_the_effect_of_the_window(tmp_path: Path) -> None:
    source = random.Random(1)
    store, rows = Store(LocalBlobs(tmp_path)), list[dict[str, object]]()
    common = {"model": "toy", "attribute": "style/lumio", "attribute_kind": "style", "mode": "remove", "status": "ok"}
    for prompt in "ab":
        for seed in range(4):
            clean = source.uniform(0.2, 0.4)
            for control, start in (("clean", None), ("donor", None), ("window", 0), ("window", 1)):
                fall = {"clean": 0.0, "donor": 0.5}.get(control, 0.1 + 0.3 * (start or 0)) * source.uniform(0.8, 1.2)
                name, other = f"{prompt}{seed}{control}{start}", source.uniform(0, 0.2)
                rows.append({
                    **common, "unit_id": f"{prompt}{seed}", "cell_id": name, "image_id": name, "prompt": prompt,
                    "prompt_id": prompt, "seed": seed, "control": control, "window_start": start,
                    "window_size": None if start is None else 1, "clip_score": clean - fall + other,
                    "clip_score_donor": other,
                    "margin_clean": clean,
                })  # fmt: skip
    for unit in sorted({str(row["unit_id"]) for row in rows}):
        mine = [row for row in rows if row["unit_id"] == unit]
        kept = ("unit_id", "cell_id", "image_id", "model", "attribute", "prompt", "control", "window_start",
                "window_size", "seed")  # fmt: skip
        images = [{**{name: row[name] for name in kept}, "image": {"bytes": b"x"}} for row in mine]
        store.commit_unit(unit, {"scores": make_table("scores", mine), "images": make_table("images", images)}, "a")
    Publisher(store).publish(flush=True)
    snapshot = Catalogue(store).snapshot()
    full = snapshot.full_effects()["toy", "style/lumio"]
    pictures = [row for part in snapshot.parts for row in part.index.to_pylist()]
    seen = [np.mean([row["drop"] / full for row in pictures if row["window_start"] == start]) for start in (0, 1)]
    expected = plain_effects(read_scores(make_table("scores", rows), ["x", "y"]))
    assert seen == pytest.approx(list(expected))
    assert 0.1 < seen[0] < seen[1]


def index(store: Store, known: list[str]) -> dict[str, Any]:
    results = shown([store])
    return dict(json.loads(encode_index([(results[0], results[0].catalogue.snapshot())], known)))


def test_the_index_leaves_out_what_is_known_and_tells_whether_anything_changed(images: list[bytes]) -> None:
    store = Store(MemoryBlobs())
    publish(store, images[:2])
    first = index(store, [])
    (part,) = first["parts"]
    assert index(store, [part["file"][:12]]) == {**first, "parts": []}
    store.blobs.replace("report.html", b"r")
    second = index(store, [])
    assert second["results"][0]["report"] == "report/0.html"
    assert second["version"] != first["version"]


def test_pictures_that_are_none_have_no_score() -> None:
    store = Store(MemoryBlobs())
    common = {"unit_id": "u", "model": "toy", "attribute": "a", "control": "window", "window_start": 0,
              "window_size": 1, "seed": 0, "prompt": "p"}  # fmt: skip
    rows = [
        {**common, "cell_id": str(i), "image_id": str(i), "clip_score": score, "clip_score_donor": 0.0,
         "margin_clean": 0.1, "status": "ok" if i else "invalid"}
        for i, score in enumerate([0.5, None, 0.123456789])
    ]  # fmt: skip
    images = [{**common, "cell_id": r["cell_id"], "image_id": r["image_id"], "image": {"bytes": b"x"}} for r in rows]
    store.commit_unit("u", {"scores": make_table("scores", rows), "images": make_table("images", images)}, "a")
    Publisher(store).publish(flush=True)
    (part,) = index(store, [])["parts"]
    assert part["columns"]["score"] == [None, None, 0.12346]
    assert part["columns"]["drop"] == [None, None, -0.02346]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "kv, steps 0-8, all tokens, conditional"),
        ({"part": "v", "steps": [2, 5], "tokens": "words"}, "v, steps 2-5, words tokens, conditional"),
        ({"pooled": "donor"}, "kv, steps 0-8, all tokens, conditional, pooled donor"),
    ],
)
def test_localizations_are_about_the_first_options(options: dict[str, Any], words: str) -> None:
    option = InterventionSpec.model_validate(options, strict=False)
    assert intervention_words(option, 8) == words

"""Documents under ``_meta`` that are whole, and are another version's or somebody's own."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.store import DamagedFileError, NewerVersionError, Store, StoreError, layout, repair, verify
from orchestrator.store.checksums import check_page, encode_document, encode_page
from orchestrator.store.documents import Document, InFlight, Manifest, Pinned, Record, SweepDocument
from orchestrator.store.documents import read_document as read
from orchestrator.store.testing import MemoryBlobs
from tests.support.sweeps import tiny_sweep

SPEC = tiny_sweep("x").model_dump(mode="json")
PINNED = {"models": {"m": "w"}, "sites": {"m": ["a"]}, "engines": {"m": {}}, "scorer": "c"}
SOUND: list[tuple[type[Document], dict[str, Any]]] = [
    (SweepDocument, {"sweep_id": "s", "spec": SPEC}),
    (Pinned, PINNED),
    (Manifest, {"number": 1, "units": ["u1", "u2"]}),
    (Record, {"files": {"scores/part-00001.parquet": "0" * 64}}),
    (InFlight, {"attempts": {"u1": 2}}),
]
WRONG: list[Any] = [None, 7, "x", [1], {"a": [1]}, [["../x"]], -1]


@pytest.mark.parametrize(("kind", "content"), SOUND)
def test_what_was_written_is_read(kind: type[Document], content: dict[str, Any]) -> None:
    assert read(encode_document(content), "p", kind).model_dump(mode="json").items() >= content.items()


@pytest.mark.parametrize(("kind", "content"), SOUND)
def test_a_key_that_is_missing_or_no_such_thing_is_one_line(kind: type[Document], content: dict[str, Any]) -> None:
    optional = {("Manifest", "number"), ("Pinned", "engines")}
    for key in content:
        changed = [{name: value for name, value in content.items() if name != key}]
        changed = [] if (kind.__name__, key) in optional else changed
        if (kind.__name__, key) not in optional:
            changed += [{**content, key: value} for value in WRONG if type(value) is not type(content[key])]
        for document in changed:
            with pytest.raises(DamagedFileError, match=r"^p: is not as loco-sweep writes it \(.*--repair`$") as error:
                read(encode_document(document), "p", kind)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kind", "content"), SOUND)
def test_a_key_that_nobody_knows_is_a_newer_version_s(kind: type[Document], content: dict[str, Any]) -> None:
    with pytest.raises(NewerVersionError, match=r"^p: has a key .*'invented'.*newer version of loco-sweep"):
        read(encode_document({**content, "invented": 1}), "p", kind)


@pytest.mark.parametrize("at", [(), ("generation",), ("models", 0), ("localize",), ("controls",)])
def test_a_sweep_of_a_newer_version_is_refused_and_stays_what_it_is(at: tuple[str | int, ...]) -> None:
    spec = tiny_sweep("x").model_dump(mode="json")
    place: Any = spec
    for step in at:
        place = place[step]
    place["invented"] = True
    blobs = MemoryBlobs()
    blobs.files[layout.SWEEP] = encode_document({"sweep_id": "s", "spec": spec})
    before, store = dict(blobs.files), Store(blobs)
    for use in (store.sweep, store.sweep_id, lambda: verify(store), lambda: repair(store)):
        with pytest.raises(NewerVersionError, match=r"sweep\.json: has a key .*invented"):
            use()
    assert blobs.files == before


def test_the_sweep_of_units_is_known_where_the_document_is_gone() -> None:
    from orchestrator.store import make_table

    store = Store(MemoryBlobs())
    row = {"unit_id": "u", "cell_id": "c", "sweep_id": "one", "status": "ok"}
    store.commit_unit("u", {"scores": make_table("scores", [row])}, "a")
    store.check_sweep("one", tiny_sweep("x"))
    with pytest.raises(Exception, match="holds results of another sweep"):
        store.check_sweep("two", tiny_sweep("x"))


def test_a_page_carries_its_sum_and_every_byte_counts() -> None:
    data = encode_page("<!DOCTYPE html>\n<html>loco_sweep_sha256 0123</html>\n")
    assert check_page(data, "p")
    for at in range(len(data)):
        for bit in (0, 5):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            with pytest.raises(DamagedFileError):
                check_page(bytes(changed), "p")
    for length in range(len(data)):
        if not data[:length].rstrip().endswith(b"</html>"):
            with pytest.raises(DamagedFileError):
                check_page(data[:length], "p")


def test_a_page_of_an_earlier_version_is_not_taken_for_damaged() -> None:
    assert not check_page(b"<html></html>\n", "p")


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "deltas/../x.safetensors", "scores/part-00001.parquet", ""])
def test_weights_are_read_nowhere_but_where_weights_are(path: str) -> None:
    with pytest.raises(StoreError, match=r"edits: a row names .* as weights of an edit; expected deltas/NAME"):
        Store(MemoryBlobs()).delta(path, "0" * 64)

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.store import DamagedFileError
from orchestrator.store.checksums import decode_document, decode_table, encode_document, encode_table, seal_of

TABLE = pa.table({"a": list(range(200)), "s": [{"x": i} if i % 2 else None for i in range(200)]})
DATA = encode_table(TABLE)
DOCUMENT = encode_document({"units": ["a", "é"], "n": 1})


def test_same_table_same_bytes_and_back() -> None:
    assert encode_table(TABLE) == DATA
    assert decode_table(DATA, "p").equals(TABLE)
    assert decode_table(DATA, "p", ["a"]).equals(TABLE.select(["a"]))


def test_documents_read_back() -> None:
    assert decode_document(DOCUMENT, "p") == {"units": ["a", "é"], "n": 1}


@given(st.data())
def test_any_changed_bit_of_any_byte_is_found(data: st.DataObject) -> None:
    for whole, decode in ((DATA, decode_table), (DOCUMENT, decode_document)):
        at = data.draw(st.integers(0, len(whole) - 1))
        changed = bytearray(whole)
        changed[at] ^= 1 << data.draw(st.integers(0, 7))
        with pytest.raises(DamagedFileError, match="p: "):
            decode(bytes(changed), "p")


@given(st.integers(0, len(DATA) - 1))
def test_truncated_files_are_named_with_the_remedy(length: int) -> None:
    with pytest.raises(DamagedFileError, match=r"^results/x.parquet: .*; run `loco-sweep verify"):
        decode_table(DATA[:length], "results/x.parquet")


def test_another_programs_parquet_is_not_taken_for_ours() -> None:
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(TABLE, sink)
    with pytest.raises(DamagedFileError, match="not written by loco-sweep"):
        decode_table(sink.getvalue().to_pybytes(), "p")


@pytest.mark.parametrize("seal", ["", "/home/me/x", "../../x", "A" * 64, "0" * 65])
def test_a_footer_names_no_file_by_what_is_no_sum(seal: str) -> None:
    with pytest.raises(DamagedFileError, match="not written by loco-sweep"):
        seal_of({b"loco_sweep_sha256": seal.encode()}, "p")
    assert seal_of({b"loco_sweep_sha256": b"0" * 64}, "p") == "0" * 64

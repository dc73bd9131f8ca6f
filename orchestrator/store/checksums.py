"""Files that carry the sum of their own bytes, so that any change to any byte is found when they are read.

Parquet's page checksums leave the footer unguarded, and a sum kept in another file can be lost or outlive its file. So
the SHA-256 of the whole file, taken while its own place held zeros, stands in the file: in the footer of Parquet, in
the last line of a document.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from loco_core.errors import first_line
from orchestrator.store.errors import REMEDY, DamagedFileError

_KEY = b"loco_sweep_sha256"
_BLANK = b"0" * 64
_SEAL = b"\n" + _KEY + b": " + _BLANK + b"\n"
_GROUP_BYTES = 8 * 2**20
"""Of rows in a row group: who wants one picture of a part reads this much, not all."""


def encode_table(table: pa.Table) -> bytes:
    """Returns a table as Parquet bytes; the same bytes for the same table."""
    sink = pa.BufferOutputStream()
    rows = max(1, table.num_rows * _GROUP_BYTES // max(1, table.nbytes))
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(table, row_group_size=rows)
        writer.add_key_value_metadata({_KEY.decode(): _BLANK.decode()})
    return _seal(sink.getvalue().to_pybytes())


def decode_table(data: bytes, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns the table of Parquet bytes, after comparing every byte with the sum.

    Args:
        data: from `encode_table`.
        path: where they come from, for the message.
        columns: which to read; None is all.

    Raises:
        DamagedFileError: they are truncated, changed, or another program's.
    """
    _check_seal(data, path)
    try:
        # Files are small and read many at a time: one thread each, and not through the far slower data set reader.
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            return file.read(columns=None if columns is None else list(columns), use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedFileError(f"{path}: not readable as Parquet ({first_line(error)}); {REMEDY}") from error


def encode_document(content: Mapping[str, Any]) -> bytes:
    """Returns a small JSON document with its sum."""
    text = json.dumps({**content, _KEY.decode(): _BLANK.decode()}, indent=1, ensure_ascii=True)
    return _seal(text.encode())


def decode_document(data: bytes, path: str) -> dict[str, Any]:
    """Returns the content of a document, after comparing every byte with the sum.

    Raises:
        DamagedFileError: it is truncated, changed, or another program's.
    """
    _check_seal(data, path)
    try:
        content = json.loads(data)
        del content[_KEY.decode()]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedFileError(f"{path}: carries its sum, but is no document of loco-sweep; {REMEDY}") from error
    return dict(content)


def encode_sealed(content: bytes) -> bytes:
    """Returns bytes of any kind with their sum behind them."""
    return _seal(content + _SEAL)


def decode_sealed(data: bytes, path: str) -> memoryview:
    """Returns what `encode_sealed` was given, after comparing every byte with the sum.

    Raises:
        DamagedFileError: it is truncated, changed, or another program's.
    """
    _check_seal(data, path)
    return memoryview(data)[: -len(_SEAL)]


def encode_page(text: str) -> bytes:
    """Returns a page of HTML with its sum, in a comment behind it."""
    return _seal(text.encode() + b"\n<!-- " + _KEY + b": " + _BLANK + b" -->\n")


def check_page(data: bytes, path: str) -> bool:
    """Compares every byte of a page with the sum.

    Returns:
        False where it carries none and is whole: versions before this one wrote none.

    Raises:
        DamagedFileError: it is truncated or changed.
    """
    if _KEY not in data[-128:] and data.rstrip().endswith(b"</html>"):
        return False
    _check_seal(data, path)
    return True


def sum_of(data: bytes) -> str:
    """Returns the SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def seal_of(metadata: Mapping[bytes, bytes], path: str) -> str:
    """Returns the sum that stands in the footer of a Parquet file, which names its bytes.

    Raises:
        DamagedFileError: there is none, so another program wrote the file, or it is no sum: files are named after it.
    """
    seal = metadata.get(_KEY, b"").decode("ascii", "replace")
    if not re.fullmatch(r"[0-9a-f]{64}", seal):
        raise DamagedFileError(f"{path}: not written by loco-sweep; {REMEDY}")
    return seal


def _seal(blank: bytes) -> bytes:
    at, view = _place(blank), memoryview(blank)
    return b"".join((view[:at], sum_of(blank).encode(), view[at + 64 :]))


def _check_seal(data: bytes, path: str) -> None:
    at = _place(data)
    if at < 0:
        what = "empty" if not data else "truncated, or not written by loco-sweep"
        raise DamagedFileError(f"{path}: {what}; {REMEDY}")
    blank = hashlib.sha256(data[:at])
    blank.update(_BLANK)
    blank.update(data[at + 64 :])
    if blank.hexdigest().encode() != data[at : at + 64]:
        raise DamagedFileError(f"{path}: its bytes are not those that were written; {REMEDY}")


def _place(data: bytes) -> int:
    """Returns where the sum stands, or -1: after the last key, and what the format puts between key and value."""
    at = data.rfind(_KEY)
    if at < 0:
        return -1
    at += len(_KEY)
    while at < len(data) and data[at : at + 1] not in b"0123456789abcdef":
        at += 1
    return at if at + 64 <= len(data) else -1

"""Parquet files read in pieces: some columns, or some rows, of a file that is too large to read for them.

What is read this way is not compared with the sum of the whole file, only with the checksums of its pages.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.store.blobs import Blobs
from orchestrator.store.checksums import seal_of
from orchestrator.store.errors import DamagedFileError


class RangedTable:
    """A Parquet file of a store whose footer has been read."""

    def __init__(self, blobs: Blobs, path: str) -> None:
        """Reads the footer.

        Args:
            blobs: where the file is.
            path: its path; the file must not change as long as this is used.

        Raises:
            MissingFileError: there is no such file.
            DamagedFileError: it is truncated, changed, or another program's.
        """
        self._blobs, self._path, self._size = blobs, path, blobs.size(path)
        try:
            self._footer = pq.read_metadata(self._source())
        except (pa.ArrowInvalid, OSError) as error:
            raise self._damaged(error) from error
        self.seal = seal_of(self._footer.metadata or {}, self._place)
        groups = [self._footer.row_group(i).num_rows for i in range(self._footer.num_row_groups)]
        self._starts = [sum(groups[:i]) for i in range(len(groups))]

    @property
    def num_rows(self) -> int:
        """How many rows the file has."""
        return int(self._footer.num_rows)

    def group_of(self, row: int) -> tuple[int, int]:
        """Returns the row group that holds a row, and where in the group the row stands."""
        group = max(i for i, start in enumerate(self._starts) if start <= row)
        return group, row - self._starts[group]

    def read(self, columns: Sequence[str], group: int | None = None) -> pa.Table:
        """Returns some columns, of all rows or of one row group; columns that the file lacks are left out.

        Args:
            columns: by name, or ``column.field`` for one field of a struct.
            group: number of a row group, or None.

        Raises:
            DamagedFileError: the bytes are not those that were written.
        """
        groups = range(self._footer.num_row_groups) if group is None else [group]
        try:
            with pq.ParquetFile(
                self._source(), metadata=self._footer, page_checksum_verification=True, pre_buffer=True
            ) as file:
                return file.read_row_groups(list(groups), columns=list(columns), use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise self._damaged(error) from error

    @property
    def _place(self) -> str:
        return f"{self._blobs.root}/{self._path}"

    def _source(self) -> pa.PythonFile:
        return pa.PythonFile(_Ranges(self._blobs, self._path, self._size), mode="r")

    def _damaged(self, error: Exception) -> DamagedFileError:
        reason = str(error).partition("\n")[0]
        return DamagedFileError(f"{self._place}: not readable as Parquet ({reason}); run `loco-sweep verify RESULTS`")


class _Ranges(io.RawIOBase):
    """A file of a store as Python reads files."""

    def __init__(self, blobs: Blobs, path: str, size: int) -> None:
        self._blobs, self._path, self._size, self._at = blobs, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        wanted = self._size - self._at if size < 0 else size
        data = self._blobs.read_range(self._path, self._at, wanted)
        self._at += len(data)
        return data

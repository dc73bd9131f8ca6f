"""Storage on a disk: complete files appear by one link or rename, after their bytes are safe."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from loco_core.errors import StoreError
from orchestrator.store.blobs import Put, Versioned
from orchestrator.store.errors import DiskFullError, MissingFileError, UnwritableError

STAGING = "_meta/staging"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


class LocalBlobs:
    """A folder. See `orchestrator.store.blobs.Blobs`.

    Files are staged in one folder under ``_meta``, on the same file system, so that folders that people read never hold
    a file that is not Parquet.
    """

    def __init__(self, root: str | Path, *, create: bool = True) -> None:
        """Opens a folder.

        Args:
            root: the folder.
            create: whether to make it; without, it must exist.

        Raises:
            StoreError: it cannot be made, or is not a folder.
        """
        self._root = Path(root).expanduser().absolute()
        with self._errors(""):
            if create:
                self._root.mkdir(parents=True, exist_ok=True)
            elif not self._root.is_dir():
                raise FileNotFoundError(errno.ENOENT, "no such folder")
        self._folders: set[Path] = set()

    @property
    def root(self) -> str:
        """Absolute path of the folder."""
        return str(self._root)

    def put_if_absent(self, path: str, data: bytes, attempt_id: str) -> Put:
        """See `Blobs`. A link, not a rename, because it fails where a file exists."""
        target = self._root / path
        if target.exists():
            return "lost"
        with self._errors(path), self._staged(target, data) as staged:
            try:
                os.link(staged, target)
            except FileExistsError:
                return "lost"
            _sync_folder(target.parent)
        return "won"

    def replace(self, path: str, data: bytes) -> None:
        """See `Blobs`."""
        target = self._root / path
        with self._errors(path), self._staged(target, data) as staged:
            os.replace(staged, target)
            _sync_folder(target.parent)

    def compare_and_swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        """See `Blobs`. The lock is the kernel's (flock), so that it ends with its process."""
        with self._errors(path):
            self._folder(self._root / STAGING)
            with FileLock(self._root / STAGING / f"{path.replace('/', '.')}.lock", timeout=30):
                current = self.read_versioned(path)
                if (current.version if current else None) != expected:
                    return None
                self.replace(path, data)
                return hashlib.sha256(data).hexdigest()

    def read(self, path: str) -> bytes:
        """See `Blobs`."""
        with self._errors(path):
            return (self._root / path).read_bytes()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """See `Blobs`."""
        with self._errors(path), open(self._root / path, "rb") as file:
            file.seek(start)
            return file.read(length)

    def size(self, path: str) -> int:
        """See `Blobs`."""
        with self._errors(path):
            return (self._root / path).stat().st_size

    def read_versioned(self, path: str) -> Versioned | None:
        """See `Blobs`. The version is a hash of the bytes."""
        try:
            data = self.read(path)
        except MissingFileError:
            return None
        return Versioned(data, hashlib.sha256(data).hexdigest())

    def list(self, folder: str) -> list[str]:
        """See `Blobs`."""
        with self._errors(folder):
            try:
                with os.scandir(self._root / folder) as entries:
                    return sorted(f"{folder}/{entry.name}" for entry in entries if entry.is_file())
            except FileNotFoundError:
                return []

    def exists(self, path: str) -> bool:
        """See `Blobs`."""
        return (self._root / path).is_file()

    def delete(self, path: str) -> None:
        """See `Blobs`."""
        with self._errors(path):
            (self._root / path).unlink(missing_ok=True)

    def free_bytes(self) -> int | None:
        """See `Blobs`."""
        with self._errors(""):
            return shutil.disk_usage(self._root).free

    def clean(self) -> None:
        """See `Blobs`. Lock files stay: removing one that is held would let a second holder in."""
        for path in self.list(STAGING):
            if not path.endswith(".lock"):
                self.delete(path)

    @contextmanager
    def _staged(self, target: Path, data: bytes) -> Iterator[Path]:
        """Writes a temporary file whose bytes are on the disk, and removes it whatever happens."""
        self._folder(target.parent)
        staged = self._folder(self._root / STAGING) / uuid.uuid4().hex
        try:
            with open(staged, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield staged
        finally:
            with suppress(FileNotFoundError):
                staged.unlink()

    def _folder(self, folder: Path) -> Path:
        """Makes a folder under the root, but never the root: a root that vanished in mid-run is an error."""
        if folder not in self._folders:
            for parent in reversed([folder, *folder.parents][: len(folder.relative_to(self._root).parts)]):
                with suppress(FileExistsError):
                    parent.mkdir()
                    _sync_folder(parent.parent)
            self._folders.add(folder)
        return folder

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = self._root / path
            if error.errno in _NO_SPACE:
                message = f"{where}: no space left on the disk; free some and run the same command again to go on"
                raise DiskFullError(message) from error
            if error.errno in _REFUSED:
                message = f"{where}: {error.strerror}; expected a folder that can be written and holds hard links"
                raise UnwritableError(f"{message}; choose another with --results") from error
            if error.errno == errno.ENOENT:
                what = "no such file" if self._root.is_dir() else f"the results folder {self._root} is not there"
                raise MissingFileError(f"{where}: {what}") from error
            if error.errno in (errno.ENOTDIR, errno.EEXIST):
                raise UnwritableError(f"{where}: a file is in the way; expected a folder") from error
            raise StoreError(f"{where}: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Makes a new name in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

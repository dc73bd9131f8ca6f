"""Storage on a disk: complete files appear by one link or rename, after their bytes are safe."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from loco_core.errors import StoreError
from orchestrator.store import layout
from orchestrator.store.blobs import Kind, Put, Versioned, check_inside
from orchestrator.store.errors import DiskFullError, MissingFileError, UnwritableError

STAGING = "_meta/staging"
_STAGED = re.compile(r"[0-9a-f]{32}")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


class LocalBlobs:
    """A folder. See `orchestrator.store.blobs.Blobs`.

    Files are staged in one folder under ``_meta``, on the same file system, so that folders that people read never hold
    a file that is not Parquet.

    The folder may be somebody else's: no link below it is followed to where it leads out, no folder below it may be a
    link at all, and what is no plain file is never opened.
    """

    def __init__(self, root: str | Path, *, create: bool = True) -> None:
        """Opens a folder.

        Args:
            root: the folder.
            create: whether to make it; without, it must exist.

        Raises:
            StoreError: it cannot be made, is not a folder, or one of its folders is a link to another.
        """
        self._root = Path(root).expanduser().absolute()
        with self._errors("", writing=create):
            if create:
                self._root.mkdir(parents=True, exist_ok=True)
            elif not self._root.is_dir():
                raise FileNotFoundError(errno.ENOENT, "no such folder")
            self._real = Path(os.path.realpath(self._root))
        self._folders: set[Path] = set()
        for folder in layout.folders():
            self._folder_at(folder)

    @property
    def root(self) -> str:
        """Absolute path of the folder."""
        return str(self._root)

    def put_if_absent(self, path: str, data: bytes, attempt_id: str) -> Put:
        """See `Blobs`. A link, not a rename, because it fails where a file exists."""
        target = self._at(path)
        with self._errors(path, writing=True):
            if self._is_file(target):
                return "lost"
            with self._staged(target, data) as staged:
                try:
                    os.link(staged, target)
                except FileExistsError:
                    if self._is_file(target):
                        return "lost"
                    # A link to nothing: whoever waits for it to be read waits for ever.
                    raise self._in_the_way(path) from None
                _sync_folder(target.parent)
        return "won"

    def replace(self, path: str, data: bytes) -> None:
        """See `Blobs`."""
        target = self._at(path)
        with self._errors(path, writing=True), self._staged(target, data) as staged:
            os.replace(staged, target)
            _sync_folder(target.parent)

    def compare_and_swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        """See `Blobs`. The lock is the kernel's (flock), so that it ends with its process."""
        lock = f"{STAGING}/{path.replace('/', '.')}.lock"
        with self._errors(path, writing=True):
            self._folder(self._at(lock).parent)
            if (self._root / lock).is_symlink():
                # To lock a file is to open it for writing.
                raise self._leads_out(lock)
            with FileLock(self._root / lock, timeout=30):
                current = self.read_versioned(path)
                if (current.version if current else None) != expected:
                    return None
                self.replace(path, data)
                return hashlib.sha256(data).hexdigest()

    def read(self, path: str) -> bytes:
        """See `Blobs`."""
        with self._opened(path) as file:
            return file.read()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """See `Blobs`."""
        with self._opened(path) as file:
            file.seek(start)
            return file.read(length)

    def size(self, path: str) -> int:
        """See `Blobs`."""
        with self._opened(path) as file:
            return os.fstat(file.fileno()).st_size

    def read_versioned(self, path: str) -> Versioned | None:
        """See `Blobs`. The version is a hash of the bytes."""
        try:
            data = self.read(path)
        except MissingFileError:
            return None
        return Versioned(data, hashlib.sha256(data).hexdigest())

    def list(self, folder: str) -> list[str]:
        """See `Blobs`."""
        where, prefix = self._folder_at(folder), f"{folder}/" if folder else ""
        with self._errors(folder):
            try:
                with os.scandir(where) as entries:
                    return sorted(f"{prefix}{entry.name}" for entry in entries if entry.is_file())
            except FileNotFoundError:
                return []

    def folders(self, folder: str) -> Sequence[str]:
        """See `Blobs`."""
        where, prefix = self._folder_at(folder), f"{folder}/" if folder else ""
        with self._errors(folder):
            try:
                with os.scandir(where) as entries:
                    return sorted(f"{prefix}{entry.name}" for entry in entries if entry.is_dir(follow_symlinks=False))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def walk(self, folder: str) -> Sequence[tuple[str, Kind]]:
        """See `Blobs`."""
        found: list[tuple[str, Kind]] = []
        if folder and (self._root / folder).is_symlink():
            return [(folder, "other")]
        with self._errors(folder):
            for where, folders, files in os.walk(self._root / folder, onerror=_unless_gone):
                for path in (Path(where) / name for name in (*folders, *files)):
                    # What is staged goes while it is looked at.
                    with suppress(FileNotFoundError):
                        found.append((path.relative_to(self._root).as_posix(), _kind(path.lstat().st_mode)))
        return sorted(found)

    def exists(self, path: str) -> bool:
        """See `Blobs`."""
        with self._errors(path):
            return self._is_file(self._at(path))

    def delete(self, path: str) -> None:
        """See `Blobs`. Of a link the link goes, not what it leads to."""
        check_inside(self.root, path)
        self._folder_at(path.rpartition("/")[0])
        with self._errors(path, writing=True):
            (self._root / path).unlink(missing_ok=True)

    def free_bytes(self) -> int | None:
        """See `Blobs`."""
        with self._errors(""):
            return shutil.disk_usage(self._root).free

    def clean(self) -> None:
        """See `Blobs`. Lock files stay: removing one that is held would let a second holder in."""
        for path in self.list(STAGING):
            if _STAGED.fullmatch(path.rpartition("/")[2]):
                self.delete(path)

    def _at(self, path: str) -> Path:
        """Returns where a file lies, which is below the root, links included.

        Raises:
            StoreError: it is elsewhere.
        """
        check_inside(self.root, path)
        target = self._folder_at(path.rpartition("/")[0]) / path.rpartition("/")[2]
        if target.is_symlink() and not Path(os.path.realpath(target)).is_relative_to(self._real):
            raise self._leads_out(path)
        return target

    def _folder_at(self, folder: str) -> Path:
        """Returns where a folder lies; none below the root is a link, not even to another: both would be cleaned."""
        check_inside(self.root, folder)
        where = self._root
        for part in folder.split("/") if folder else []:
            where /= part
            if where.is_symlink():
                raise self._leads_out(where.relative_to(self._root).as_posix())
        return where

    def _leads_out(self, path: str) -> UnwritableError:
        where = self._root / path
        leads = os.path.realpath(where)
        return UnwritableError(
            f"{where}: a link to {leads}; expected the file or folder itself: links in results are not followed"
        )

    def _in_the_way(self, path: str) -> UnwritableError:
        where = self._root / path
        what = "a folder" if where.is_dir() else "something that is no file"
        return UnwritableError(f"{where}: {what} is in the way; expected a file: move it elsewhere, then run it again")

    def _is_file(self, target: Path) -> bool:
        """Tells whether a file is there.

        Raises:
            UnwritableError: something else is there, so that no file can be.
        """
        try:
            if stat.S_ISREG(target.stat().st_mode):
                return True
        except (FileNotFoundError, NotADirectoryError):
            return False
        raise self._in_the_way(target.relative_to(self._root).as_posix())

    @contextmanager
    def _opened(self, path: str) -> Iterator[BinaryIO]:
        target = self._at(path)
        with self._errors(path):
            # Opened without waiting: a pipe would wait for its other end.
            descriptor = os.open(target, os.O_RDONLY | os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise self._in_the_way(path)
            with os.fdopen(descriptor, "rb") as file:
                yield file

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
    def _errors(self, path: str, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = self._root / path
            if error.errno in _NO_SPACE:
                message = f"{where}: no space left on the disk; free some and run the same command again to go on"
                raise DiskFullError(message) from error
            if error.errno in _REFUSED:
                if not writing:
                    message = f"{where}: {error.strerror}; expected a file or folder that this user may read"
                    raise StoreError(message) from error
                message = f"{where}: {error.strerror}; expected a folder that can be written and holds hard links"
                raise UnwritableError(
                    f"{message}: make it so, copy the results to one that is, or begin new ones with `run --results`"
                ) from error
            if error.errno == errno.ENOENT:
                what = "no such file" if self._root.is_dir() else f"the results folder {self._root} is not there"
                raise MissingFileError(f"{where}: {what}") from error
            if error.errno in (errno.EISDIR, errno.ENXIO):
                raise self._in_the_way(path) from error
            if error.errno in (errno.ENOTDIR, errno.EEXIST):
                raise UnwritableError(f"{where}: a file is in the way; expected a folder") from error
            raise StoreError(f"{where}: {error.strerror or error}") from error


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _kind(mode: int) -> Kind:
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def _sync_folder(folder: Path) -> None:
    """Makes a new name in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

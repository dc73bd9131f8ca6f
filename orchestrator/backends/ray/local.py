"""What keeps a Ray that is started here to its owner: a folder that nobody else can enter, and a token of its own."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from orchestrator.scheduler.host import one_line
from orchestrator.scheduler.protocol import BackendError

PREFIX = "loco-ray-"
FOLDER_VARIABLES = ("RAY_TMPDIR", "TMPDIR")
USUAL = "/tmp"
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""What the path of a socket may have."""
LONGEST = f"/{PREFIX}12345678/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
NEEDED_BYTES = 20_000_000
"""Logs and sockets of an idle Ray take less than one; this leaves room for those of a run."""
LOCK = "owner"
AUTH_MODE, AUTH_TOKEN, AUTH_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_TOKEN = secrets.token_hex(32)


class OwnFolder:
    """A new temporary folder for a Ray, that its owner alone can enter.

    Ray opens its own folder to everybody (mode 0777), so it gets one inside a folder that it never touches. A lock says
    that the owner lives; folders of owners that were killed are removed on the way.

    Attributes:
        ray: folder that Ray gets.

    Raises:
        BackendError: the place for temporary files is full, or cannot be written.
    """

    def __init__(self) -> None:
        place = _place()
        _tidy(place)
        _check_space(place)
        try:
            # Mode 0700.
            self._path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
            self._lock = _locked_new(self._path)
            self.ray = self._path / "r"
            self.ray.mkdir(mode=0o700)
        except OSError as error:
            raise BackendError(f"the temporary folder {place} cannot be written: {error.strerror}") from error

    def remove(self) -> None:
        """Removes it, with all that Ray wrote."""
        shutil.rmtree(self._path, ignore_errors=True)
        os.close(self._lock)


def _place() -> Path:
    """Returns the folder for temporary files, unless paths of sockets in it would be too long: then ``/tmp``."""
    given = (os.environ.get(name) for name in FOLDER_VARIABLES)
    fit = (path for path in given if path and len(os.fsencode(os.path.abspath(path) + LONGEST)) <= SOCKET_BYTES)
    return Path(next(fit, USUAL if os.path.isdir(USUAL) else tempfile.gettempdir())).absolute()


def _check_space(place: Path) -> None:
    """Refuses a full disk, which Ray would take for an overload, and a full quota."""
    try:
        free = shutil.disk_usage(place).free
        if free >= NEEDED_BYTES:
            with tempfile.TemporaryFile(dir=place) as file:
                os.posix_fallocate(file.fileno(), 0, NEEDED_BYTES)
            return
        why = f"{free / 1e6:.1f} MB free"
    except OSError as error:
        why = one_line(error.strerror or str(error))
    most = SOCKET_BYTES - len(LONGEST)
    raise BackendError(
        f"the temporary folder {place} is full ({why}) or cannot be written; Ray needs {NEEDED_BYTES / 1e6:.0f} MB: "
        f"make room, or let TMPDIR name another folder, of at most {most} letters as paths of sockets are short"
    )


def _locked_new(folder: Path) -> int:
    """Returns the open lock of a new folder; it has its name only once it is locked."""
    lock = os.open(folder / f"{LOCK}.new", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(folder / f"{LOCK}.new", folder / LOCK)
    return lock


def _tidy(place: Path) -> None:
    """Removes folders of this user whose owners were killed; a lock that can be had has no owner."""
    for lock in place.glob(f"{PREFIX}*/{LOCK}"):
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            # Somebody else's, or gone by now.
            continue
        try:
            folder = lock.parent.lstat()
            if os.fstat(descriptor).st_uid == folder.st_uid == os.getuid() and stat.S_ISDIR(folder.st_mode):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:
            # Its owner lives.
            continue
        finally:
            os.close(descriptor)


@contextmanager
def own_token() -> Iterator[None]:
    """Lets a Ray that is started here take only what carries the token of this process, whatever the environment says.

    Without one, every user of the machine could run code as its owner; one from the environment others may know.
    """
    before = {name: os.environ.pop(name, None) for name in (AUTH_MODE, AUTH_TOKEN, AUTH_FILE)}
    os.environ.update({AUTH_MODE: "token", AUTH_TOKEN: _TOKEN})
    refresh()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def refresh() -> None:
    """Makes Ray, which reads both when it is imported, read mode and token of the environment anew."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()

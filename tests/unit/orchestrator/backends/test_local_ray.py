"""The folder and the token of a Ray that is started on this machine, without starting one."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.backends.ray import local
from orchestrator.backends.ray.local import OwnFolder, own_token
from orchestrator.scheduler.protocol import BackendError

OWNER = """
    import sys
    from orchestrator.backends.ray.local import OwnFolder
    folder = OwnFolder()
    print(folder.ray.parent, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, with a path that is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


def test_only_its_owner_enters_whatever_ray_does_to_its_own(short: Path) -> None:
    mask = os.umask(0)
    try:
        folder = OwnFolder()
    finally:
        os.umask(mask)
    # As Ray does.
    folder.ray.chmod(0o777)
    assert folder.ray.parent.parent == short
    assert folder.ray.parent.stat().st_mode & 0o777 == 0o700
    folder.remove()
    assert list(short.iterdir()) == []


def test_the_place_is_the_users_own_where_sockets_fit(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = str(short) + "/" + "x" * (local.SOCKET_BYTES - len(local.LONGEST) - len(str(short)) - 1)
    for path, expected in ((longest, longest), (longest + "x", "/tmp")):
        Path(path).mkdir()
        monkeypatch.setenv("TMPDIR", path)
        folder = OwnFolder()
        assert str(folder.ray.parents[1]) == expected
        assert (
            len(f"{folder.ray}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store") <= local.SOCKET_BYTES
        )
        folder.remove()
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    folder = OwnFolder()
    assert folder.ray.parents[1] == short
    folder.remove()


def test_folders_of_the_killed_go_and_those_of_the_living_stay(short: Path) -> None:
    words = [sys.executable, "-c", textwrap.dedent(OWNER)]
    owners = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = [Path(owner.stdout.readline().strip()) for owner in owners if owner.stdout]
    killed, living = owners
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    # Not ours to judge: without a lock, a link, a file of another kind.
    (short / "loco-ray-made-by-hand").mkdir()
    (short / "theirs").mkdir()
    (short / "theirs" / local.LOCK).touch()
    (short / "loco-ray-linked").symlink_to(short / "theirs")
    (short / "loco-ray-inside").mkdir()
    (short / "loco-ray-inside" / local.LOCK).symlink_to(short / "theirs" / local.LOCK)
    before = set(short.rglob("*"))
    OwnFolder().remove()
    gone = before - set(short.rglob("*"))
    assert {path for path in gone if path.parent == short} == {folders[0]}
    assert folders[1].is_dir()
    living.communicate("")


def test_a_full_or_closed_place_is_one_line(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(BackendError, match=rf"temporary folder {short} is full \(Disk quota exceeded\)") as refused:
        OwnFolder()
    assert "let TMPDIR name another folder, of at most 23 letters" in str(refused.value)
    assert list(short.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("TMPDIR", "/nowhere")
    with pytest.raises(
        BackendError, match=r"temporary folder /nowhere is full \(No such file or directory\) or cannot"
    ):
        OwnFolder()


def test_a_small_disk_is_found_full_before_ray_is_started(short: Path) -> None:
    code = "from orchestrator.backends.ray.backend import RayBackend; RayBackend(str, workers=1, threads=1)"
    mounted = f'mount -t tmpfs -o size=64k none {short} && exec {sys.executable} -c "{code}"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted], capture_output=True, text=True, check=False, timeout=300
    )
    if "permission denied" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("only root may mount a small disk")
    assert done.returncode == 1
    assert f"BackendError: the temporary folder {short} is full (0.1 MB free)" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a"},
        {"RAY_AUTH_TOKEN_PATH": "/nowhere"},
    ],
    ids=["nothing", "disabled", "a token that others know", "a file"],
)
def test_the_token_is_of_this_process_whatever_the_environment_says(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (local.AUTH_MODE, local.AUTH_TOKEN, local.AUTH_FILE)
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with own_token():
        inside = {name: os.environ[name] for name in names if name in os.environ}
    assert {name: os.environ[name] for name in names if name in os.environ} == variables
    assert inside.pop(local.AUTH_MODE) == "token"
    assert len(inside.pop(local.AUTH_TOKEN)) == 64
    assert inside == {}

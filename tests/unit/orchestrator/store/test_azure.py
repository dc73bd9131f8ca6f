"""Answers of Azure to a write: which say that somebody else was first, and which a person has to know about."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError
from azure.storage.blob import StorageErrorCode
from fsspec.asyn import get_loop

from loco_core.errors import StoreError
from orchestrator.store.azure import AzureBlobs


def refusing(error: HttpResponseError, code: str) -> AzureBlobs:
    """Returns a container that refuses every write."""
    # Azure's client keeps as text what it has no member for.
    error.error_code = next((known for known in StorageErrorCode if known.value == code), code)

    class Blob:
        async def upload_blob(self, data: bytes, **options: Any) -> None:
            raise error

        async def get_blob_properties(self) -> SimpleNamespace:
            return SimpleNamespace(metadata={"attempt_id": "other"}, size=1)

    container = SimpleNamespace(get_blob_client=lambda key: Blob())
    client = SimpleNamespace(get_container_client=lambda name: container)
    fs: Any = SimpleNamespace(loop=get_loop(), service_client=client)
    return AzureBlobs("abfs://bucket/results", fs)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ResourceExistsError("409"), "BlobAlreadyExists"),
        (ResourceModifiedError("412"), "ConditionNotMet"),
        (HttpResponseError("403"), "UnauthorizedBlobOverwrite"),
    ],
)
def test_a_condition_that_is_not_met_is_lost_and_an_error_of_a_write_without_one(
    error: HttpResponseError, code: str
) -> None:
    blobs = refusing(error, code)
    assert blobs.put_if_absent("a", b"", "mine") == "lost"
    with pytest.raises(StoreError, match=rf"abfs://bucket/results/a: Azure fails \({code}\)"):
        blobs.replace("a", b"")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ResourceModifiedError("412"), "LeaseIdMissing"),
        (ResourceExistsError("409"), "BlobImmutableDueToPolicy"),
    ],
)
def test_a_blob_that_nobody_may_write_is_an_error_whatever_the_condition(error: HttpResponseError, code: str) -> None:
    blobs = refusing(error, code)
    for write in (
        lambda: blobs.put_if_absent("a", b"", "mine"),
        lambda: blobs.replace("a", b""),
        lambda: blobs.compare_and_swap("a", b"", "version"),
    ):
        with pytest.raises(StoreError, match=rf"Azure fails \({code}\)"):
            write()

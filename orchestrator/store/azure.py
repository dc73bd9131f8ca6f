"""Storage in a container of Azure Blob Storage, whose conditions are ETags; see `Blobs`."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import adlfs
from azure.core import MatchConditions
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
)
from fsspec.asyn import sync

from loco_core.errors import StoreError
from orchestrator.store.blobs import Versioned
from orchestrator.store.errors import MissingFileError, UnwritableError
from orchestrator.store.objects import Condition, ConditionError, ObjectBlobs, Page

T = TypeVar("T")
_ATTEMPT = "attempt_id"
"""Names of metadata must be those of variables."""
_FOLDER = "hdi_isfolder"


class AzureBlobs(ObjectBlobs):
    """A prefix of a container, ``abfs://container/prefix``; the version of a file is its ETag.

    The account and its credentials come from the variables that adlfs reads (``AZURE_STORAGE_..``). Azure's client
    repeats requests that fail for a moment.
    """

    def __init__(self, url: str, fs: adlfs.AzureBlobFileSystem | None = None) -> None:
        """Opens a prefix.

        Args:
            url: ``abfs://container/prefix``, or with ``az://``.
            fs: file system to use in place of one made from the environment.

        Raises:
            StoreError: the address names no container, or the environment no account.
        """
        super().__init__(url.partition("://")[0], url)
        try:
            self._fs = fs or adlfs.AzureBlobFileSystem(use_listings_cache=False, skip_instance_cache=True)
        except Exception as error:
            raise self._error(self.root, error) from error
        self._container = self._fs.service_client.get_container_client(self._bucket)

    def _wait(self, request: Coroutine[Any, Any, T]) -> T:
        found: T = sync(self._fs.loop, lambda: request)
        return found

    def _put(self, key: str, data: bytes, condition: Condition, attempt_id: str) -> str:
        wanted: dict[str, Any] = {"overwrite": condition is not None}
        if isinstance(condition, str):
            wanted |= {"etag": condition, "match_condition": MatchConditions.IfNotModified}
        if attempt_id:
            wanted["metadata"] = {_ATTEMPT: attempt_id}
        try:
            return str(self._wait(self._container.get_blob_client(key).upload_blob(data, **wanted))["etag"])
        except HttpResponseError as error:
            if _code(error) in _unmet(condition):
                raise ConditionError from error
            raise

    def _get(self, key: str, part: tuple[int, int] | None = None) -> Versioned:
        wanted = {} if part is None else {"offset": part[0], "length": part[1]}

        async def read() -> Versioned:
            stream = await self._container.get_blob_client(key).download_blob(**wanted)
            # Parts that are read later are of the same version, or refused.
            return Versioned(await stream.readall(), str(stream.properties.etag))

        try:
            return self._wait(read())
        except HttpResponseError as error:
            if part is not None and error.status_code == 416:
                return Versioned(b"", "")
            raise

    def _size(self, key: str) -> int:
        return int(self._about(key).size)

    def _attempt_of(self, key: str) -> str | None:
        return dict(self._about(key).metadata or {}).get(_ATTEMPT)

    def _about(self, key: str) -> Any:
        return self._wait(self._container.get_blob_client(key).get_blob_properties())

    def _remove(self, key: str) -> None:
        self._wait(self._container.delete_blob(key))

    def _pages(self, prefix: str, delimiter: str) -> Iterator[Page]:
        async def listed() -> Page:
            keys, prefixes = list[str](), list[str]()
            if delimiter:
                async for item in self._container.walk_blobs(prefix, include=["metadata"], delimiter=delimiter):
                    if hasattr(item, "prefix"):
                        prefixes.append(item.prefix)
                    elif not (item.metadata or {}).get(_FOLDER):
                        keys.append(item.name)
            else:
                async for item in self._container.list_blobs(prefix, include=["metadata"]):
                    if not (item.metadata or {}).get(_FOLDER):
                        keys.append(item.name)
            return Page(keys, prefixes)

        yield self._wait(listed())

    def _error(self, where: str, error: Exception) -> StoreError:
        if isinstance(error, StoreError):
            return error
        code = _code(error)
        if code == "ContainerNotFound":
            return MissingFileError(
                f"{where}: there is no container {self._bucket!r}; create it or correct the address"
            )
        if isinstance(error, ResourceNotFoundError):
            return MissingFileError(f"{where}: no such file")
        refused = getattr(error, "status_code", None) in (401, 403)
        if refused or isinstance(error, ClientAuthenticationError) or "Must provide either" in str(error):
            return UnwritableError(
                f"{where}: Azure refuses; check the account and its credentials (AZURE_STORAGE_CONNECTION_STRING, or "
                "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY) and their right to read and write"
            )
        # Its own message holds the whole answer.
        why = str(code or " ".join(str(error).split())[:300] or type(error).__name__)
        return StoreError(f"{where}: Azure fails ({why}); run the same command to go on")


def _unmet(condition: Condition) -> tuple[str, ...]:
    """Returns the answers to a write that say that its condition is not met; others of the same status say more.

    A lease on a blob and an immutable container answer 409 and 412, too, and without a condition as well.
    """
    if condition is True:
        return ()
    if condition is None:
        # The last of whoever may only make new files.
        return ("BlobAlreadyExists", "ConditionNotMet", "UnauthorizedBlobOverwrite")
    return ("ConditionNotMet", "BlobNotFound")


def _code(error: Exception) -> str | None:
    code = getattr(error, "error_code", None)
    return None if code is None else str(getattr(code, "value", code))

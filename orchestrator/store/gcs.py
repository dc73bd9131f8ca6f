"""Storage in a bucket of Google Cloud Storage, whose conditions are generations; see `Blobs`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import gcsfs
from gcsfs.retry import HttpError

from loco_core.errors import StoreError
from orchestrator.store.blobs import Versioned
from orchestrator.store.errors import MissingFileError, UnwritableError
from orchestrator.store.objects import Condition, ConditionError, ObjectBlobs, Page

_ATTEMPT = "attempt-id"
_BOUNDARY = "loco-sweep-6b7d0f9c"
# It prints a traceback of every request that is refused.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL + 1)


class GcsBlobs(ObjectBlobs):
    """A prefix of a bucket, ``gs://bucket/prefix``; the version of a file is its generation.

    Credentials come from where every Google tool looks. gcsfs repeats requests that fail for a moment.
    """

    def __init__(self, url: str, fs: gcsfs.GCSFileSystem | None = None) -> None:
        """Opens a prefix.

        Args:
            url: ``gs://bucket/prefix``.
            fs: file system to use in place of one made from the environment.

        Raises:
            StoreError: the address names no bucket, or there are no credentials.
        """
        super().__init__("gs", url)
        try:
            self._fs = fs or gcsfs.GCSFileSystem(use_listings_cache=False, skip_instance_cache=True)
        except Exception as error:
            raise self._error(self.root, error) from error

    def _put(self, key: str, data: bytes, condition: Condition, attempt_id: str) -> str:
        about = json.dumps({"name": key, "metadata": {_ATTEMPT: attempt_id}}).encode()
        # Of this form the service takes one object with its metadata, in one request.
        body = b"".join(
            (
                f"--{_BOUNDARY}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n".encode(), about,
                f"\r\n--{_BOUNDARY}\r\nContent-Type: application/octet-stream\r\n\r\n".encode(), data,
                f"\r\n--{_BOUNDARY}--\r\n".encode(),
            )
        )  # fmt: skip
        wanted = {} if condition is True else {"ifGenerationMatch": condition or "0"}
        try:
            answer = self._fs.call(
                "POST", f"{self._fs._location}/upload/storage/v1/b/{{}}/o", self._bucket, uploadType="multipart",
                headers={"Content-Type": f'multipart/related; boundary="{_BOUNDARY}"'}, data=body, json_out=True,
                **wanted,
            )  # fmt: skip
        except FileExistsError as error:
            if condition is True:
                raise
            raise ConditionError from error
        return str(answer["generation"])

    def _get(self, key: str, part: tuple[int, int] | None = None) -> Versioned:
        wanted = {} if part is None else {"headers": {"Range": f"bytes={part[0]}-{sum(part) - 1}"}}
        url = f"{self._fs._location}/storage/v1/b/{{}}/o/{{}}"
        try:
            headers, data = self._fs.call("GET", url, self._bucket, key, alt="media", **wanted)
        except Exception as error:
            if part is not None and _code(error) == 416:
                return Versioned(b"", "")
            raise
        return Versioned(
            bytes(data), str({name.lower(): value for name, value in headers.items()}["x-goog-generation"])
        )

    def _size(self, key: str) -> int:
        return int(self._about(key)["size"])

    def _attempt_of(self, key: str) -> str | None:
        return dict(self._about(key).get("metadata", {})).get(_ATTEMPT)

    def _about(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = self._fs.call("GET", "b/{}/o/{}", self._bucket, key, json_out=True)
        return found

    def _remove(self, key: str) -> None:
        self._fs.call("DELETE", "b/{}/o/{}", self._bucket, key)

    def _pages(self, prefix: str, delimiter: str) -> Iterator[Page]:
        wanted: dict[str, str] = {"prefix": prefix, **({"delimiter": delimiter} if delimiter else {})}
        while True:
            page = self._fs.call("GET", "b/{}/o", self._bucket, json_out=True, **wanted)
            yield Page([item["name"] for item in page.get("items", [])], page.get("prefixes", []))
            if not page.get("nextPageToken"):
                return
            wanted["pageToken"] = page["nextPageToken"]

    def _error(self, where: str, error: Exception) -> StoreError:
        if isinstance(error, StoreError):
            return error
        if isinstance(error, FileNotFoundError):
            return MissingFileError(f"{where}: no such file, or there is no bucket {self._bucket!r}")
        if _code(error) in (401, 403) or "Forbidden" in str(error) or "Anonymous" in str(error):
            return UnwritableError(
                f"{where}: Google Cloud Storage refuses; check credentials (`gcloud auth application-default login` or "
                "GOOGLE_APPLICATION_CREDENTIALS) and their right to read and write"
            )
        why = " ".join(str(error).split())[:300] or type(error).__name__
        return StoreError(f"{where}: Google Cloud Storage fails ({why}); run the same command to go on")


def _code(error: Exception) -> int | None:
    return error.code if isinstance(error, HttpError) else getattr(error, "status", None)

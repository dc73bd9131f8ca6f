"""Storage in a bucket: one PUT a file, with the conditions that S3 itself checks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import s3fs
from botocore.exceptions import ConnectionError as BotoConnectionError  # type: ignore[import-untyped]
from fsspec.asyn import sync
from s3fs.core import S3_RETRYABLE_ERRORS
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from loco_core.errors import StoreError
from orchestrator.store.blobs import Kind, Put, Versioned, check_inside
from orchestrator.store.errors import MissingFileError, UnwritableError

T = TypeVar("T")
_BROKEN_OFF = (*S3_RETRYABLE_ERRORS, BotoConnectionError, ConnectionError, TimeoutError)
_log = logging.getLogger(__name__)

_ATTEMPTS = 8
_FAILED_CONDITION = {"PreconditionFailed", "412"}
_ABSENT = {"NoSuchKey", "404", "NotFound"}
_BEYOND = {"InvalidRange", "416"}
_REFUSED = {
    "AccessDenied",
    "403",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "AllAccessDisabled",
}
_TRANSIENT = {
    "SlowDown",
    "ServiceUnavailable",
    "InternalError",
    "RequestTimeout",
    "500",
    "502",
    "503",
    "504",
    "429",
    "Throttling",
    "ThrottlingException",
    "ConditionalRequestConflict",
    "OperationAborted",
    "409",
}


class S3Blobs:
    """A prefix of a bucket. See `orchestrator.store.blobs.Blobs`.

    Credentials, region and endpoint come from the environment and files that every AWS tool reads.
    """

    def __init__(self, url: str, fs: s3fs.S3FileSystem | None = None, *, max_wait: float = 20.0) -> None:
        """Opens a prefix.

        Args:
            url: ``s3://bucket/prefix``.
            fs: file system to use in place of one made from the environment.
            max_wait: longest pause between two tries of a request, in seconds.

        Raises:
            StoreError: the address names no bucket.
        """
        bucket, _, prefix = url.removeprefix("s3://").strip("/").partition("/")
        if not bucket:
            raise StoreError(f"{url}: no bucket; expected s3://bucket/folder")
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self._fs = fs or s3fs.S3FileSystem(
            use_listings_cache=False, skip_instance_cache=True, config_kwargs={"retries": {"total_max_attempts": 1}}
        )
        # Retries are made here, with jitter and with a look at what a lost answer had done.
        self._fs.retries = 1
        self._max_wait = max_wait

    @property
    def root(self) -> str:
        """The ``s3://`` address."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put_if_absent(self, path: str, data: bytes, attempt_id: str) -> Put:
        """See `Blobs`. A refusal by an object that carries this attempt's id is this attempt's own success."""
        try:
            self._put(path, data, {"IfNoneMatch": "*", "Metadata": {"attempt-id": attempt_id}})
        except Exception as error:
            if _code(error) not in _FAILED_CONDITION:
                raise self._error(path, error) from error
            head = self._ask(path, lambda: self._call("head_object", path))
            return "won" if head["Metadata"].get("attempt-id") == attempt_id else "lost"
        return "won"

    def replace(self, path: str, data: bytes) -> None:
        """See `Blobs`."""
        self._ask(path, lambda: self._put(path, data, {}))

    def compare_and_swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        """See `Blobs`."""
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        try:
            return self._put(path, data, condition)
        except Exception as error:
            if _code(error) not in _FAILED_CONDITION | _ABSENT:
                raise self._error(path, error) from error
            current = self.read_versioned(path)
            return current.version if current is not None and current.data == data else None

    def read(self, path: str) -> bytes:
        """See `Blobs`."""
        found = self.read_versioned(path)
        if found is None:
            raise MissingFileError(f"{self.root}/{path}: no such file")
        return found.data

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """See `Blobs`."""
        if length <= 0:
            return b""
        try:
            return self._retry(lambda: self._get(path, Range=f"bytes={start}-{start + length - 1}")).data
        except Exception as error:
            if _code(error) in _BEYOND:
                return b""
            raise self._error(path, error) from error

    def size(self, path: str) -> int:
        """See `Blobs`."""
        return int(self._ask(path, lambda: self._call("head_object", path))["ContentLength"])

    def read_versioned(self, path: str) -> Versioned | None:
        """See `Blobs`. The version is the object's ETag."""
        try:
            return self._retry(lambda: self._get(path))
        except Exception as error:
            if _code(error) in _ABSENT:
                return None
            raise self._error(path, error) from error

    def list(self, folder: str) -> list[str]:
        """See `Blobs`."""
        return [*self._listed(folder, "/")]

    def folders(self, folder: str) -> Sequence[str]:
        """See `Blobs`. A bucket has none: they are the beginnings that keys have in common."""
        found = (item["Prefix"] for page in self._pages(folder, "/") for item in page.get("CommonPrefixes", []))
        return sorted(name for prefix in found if (name := prefix.removeprefix(self._prefix).rstrip("/")))

    def walk(self, folder: str) -> Sequence[tuple[str, Kind]]:
        """See `Blobs`. A bucket has files only."""
        return [(path, "file") for path in self._listed(folder, "")]

    def exists(self, path: str) -> bool:
        """See `Blobs`."""
        try:
            self._retry(lambda: self._call("head_object", path))
        except Exception as error:
            if _code(error) in _ABSENT:
                return False
            raise self._error(path, error) from error
        return True

    def delete(self, path: str) -> None:
        """See `Blobs`."""
        self._ask(path, lambda: self._call("delete_object", path))

    def free_bytes(self) -> int | None:
        """See `Blobs`."""
        return None

    def clean(self) -> None:
        """See `Blobs`. One PUT leaves nothing behind."""

    def _listed(self, folder: str, delimiter: str) -> Sequence[str]:
        keys = (item["Key"] for page in self._pages(folder, delimiter) for item in page.get("Contents", []))
        # Consoles make empty objects that stand for folders.
        return sorted(key.removeprefix(self._prefix) for key in keys if not key.endswith("/"))

    def _pages(self, folder: str, delimiter: str) -> Iterator[Any]:
        check_inside(self.root, folder)
        prefix = f"{self._prefix}{folder}/" if folder else self._prefix
        token: dict[str, str] = {}
        while True:
            page = self._ask(folder, partial(self._list_page, prefix, delimiter, token))
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _put(self, path: str, data: bytes, options: dict[str, Any]) -> str:
        answer = self._retry(lambda: self._call("put_object", path, Body=data, **options))
        return str(answer["ETag"])

    def _get(self, path: str, **options: Any) -> Versioned:
        answer = self._call("get_object", path, **options)
        return Versioned(sync(self._fs.loop, answer["Body"].read), answer["ETag"])

    def _list_page(self, prefix: str, delimiter: str, token: dict[str, str]) -> Any:
        options = {"Delimiter": delimiter} if delimiter else {}
        return self._fs.call_s3("list_objects_v2", Bucket=self._bucket, Prefix=prefix, **options, **token)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        check_inside(self.root, path)
        return self._fs.call_s3(method, Bucket=self._bucket, Key=f"{self._prefix}{path}", **options)

    def _retry(self, request: Callable[[], T]) -> T:
        retrying = Retrying(
            retry=retry_if_exception(_is_transient),
            wait=wait_random_exponential(multiplier=0.2, max=self._max_wait),
            # Pauses are drawn: by bad luck eight tries take five seconds, in which a server is not up again.
            stop=stop_after_attempt(_ATTEMPTS) & stop_after_delay(1.5 * self._max_wait),
            before_sleep=lambda state: _log.debug("S3 request is repeated: %s", state.outcome),
            reraise=True,
        )
        return retrying(request)

    def _ask(self, path: str, request: Callable[[], T]) -> T:
        try:
            return self._retry(request)
        except Exception as error:
            raise self._error(path, error) from error

    def _error(self, path: str, error: Exception) -> StoreError:
        if isinstance(error, StoreError):
            return error
        code, where = _code(error), f"{self.root}/{path}"
        if code == "NoSuchBucket":
            return MissingFileError(f"{where}: there is no bucket {self._bucket!r}; create it or correct the address")
        if code == "RequestTimeTooSkewed":
            return UnwritableError(f"{where}: this machine's clock is wrong, so S3 refuses its requests; set the clock")
        if code in _REFUSED:
            return UnwritableError(f"{where}: S3 refuses ({code}); check credentials and their right to read and write")
        if code in _ABSENT:
            return MissingFileError(f"{where}: no such file")
        if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
            return UnwritableError(
                f"{where}: this machine has no credentials of S3; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "AWS_PROFILE"
            )
        return StoreError(f"{where}: S3 fails ({code or type(error).__name__}: {error}); run the same command to go on")


def _code(error: BaseException) -> str:
    """Returns S3's own code of an error that s3fs translated."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _is_transient(error: BaseException) -> bool:
    """Tells whether a request may be repeated: overload, or a connection that broke before an answer came."""
    code = _code(error)
    return code in _TRANSIENT if code else isinstance(error, _BROKEN_OFF)

"""What S3 alone does: pages of listings, answers that get lost, refusals, servers without conditional writes."""

from __future__ import annotations

import errno
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest
import s3fs

from orchestrator.runs.sweeps import sweeps_below
from orchestrator.store import (
    MissingFileError,
    Publisher,
    Store,
    StoreError,
    UnwritableError,
    make_table,
    preflight,
    verify,
)
from orchestrator.store.s3 import S3Blobs
from orchestrator.store.testing import MemoryBlobs
from tests.support.fake_runs import run
from tests.support.sweeps import tiny_sweep

Fs = Callable[[], s3fs.S3FileSystem]


class TestS3:
    def test_more_than_a_page_of_files_is_listed(self, s3: Fs) -> None:
        fs = s3()
        names = [f"many/f{i:04d}" for i in range(25)]
        fs.pipe({f"bucket/{name}": b"" for name in names})
        call = fs.call_s3
        fs.call_s3 = lambda method, **options: call(method, MaxKeys=10, **options)
        assert S3Blobs("s3://bucket", fs).list("many") == names

    @pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError("late")])
    def test_a_commit_whose_answer_was_lost_is_recognized(self, s3: Fs, error: Exception) -> None:
        fs = s3()
        blobs = S3Blobs(f"s3://bucket/{uuid.uuid4().hex}", fs, max_wait=0.01)
        lose_answer(fs, "put_object", error)
        assert blobs.put_if_absent("u", b"mine", "me") == "won"
        lose_answer(fs, "put_object", error)
        assert blobs.put_if_absent("u", b"other", "you") == "lost"
        lose_answer(fs, "put_object", error)
        version = blobs.compare_and_swap("l", b"mine", None)
        assert version is not None
        assert blobs.compare_and_swap("l", b"next", version) is not None

    def test_overload_is_waited_out_with_bounded_requests(self, s3: Fs) -> None:
        fs = s3()
        blobs = S3Blobs(f"s3://bucket/{uuid.uuid4().hex}", fs, max_wait=0.01)
        calls = refuse(fs, times=3)
        assert blobs.put_if_absent("u", b"1", "a") == "won"
        assert len(calls) == 4
        calls = refuse(fs, times=1000)
        with pytest.raises(StoreError, match="SlowDown"):
            blobs.read("u")
        assert len(calls) == 8

    def test_fifty_sweeps_are_listed_with_three_reads_each(self, s3: Fs) -> None:
        prefix, fs = uuid.uuid4().hex, s3()
        files = MemoryBlobs()
        run(tiny_sweep("x"), Store(files))
        # Units, tables and edits are not looked at, however many.
        objects = {f"{folder}/{path}": data for folder in (f"team/s{i:02d}" for i in range(50))
                   for path, data in files.files.items() if path.startswith("_meta/")}  # fmt: skip
        fs.pipe({f"bucket/{prefix}/{path}": data for path, data in objects.items()})
        call, calls = fs.call_s3, list[str]()

        def counted(method: str, **options: Any) -> Any:
            calls.append(method)
            return call(method, **options)

        fs.call_s3 = counted
        found = sweeps_below(S3Blobs(f"s3://bucket/{prefix}", fs), datetime.now(UTC))
        assert [item.place for item in found] == [f"team/s{i:02d}" for i in range(50)]
        assert {(item.name, item.state, item.units_left, item.failed) for item in found} == {("tiny", "done", 0, 0)}
        # The two folders above are looked for a sweep, and listed.
        assert Counter(calls) == {"get_object": 3 * 50 + 2, "list_objects_v2": 2}

    def test_a_missing_bucket_is_named(self, s3: Fs) -> None:
        with pytest.raises(MissingFileError, match="there is no bucket 'nowhere'"):
            S3Blobs("s3://nowhere/x", s3()).put_if_absent("u", b"1", "a")

    def test_a_server_that_ignores_conditions_is_refused(self, s3: Fs) -> None:
        fs = s3()
        call = fs.call_s3
        fs.call_s3 = lambda method, **options: call(method, **{k: v for k, v in options.items() if k != "IfNoneMatch"})
        with pytest.raises(StoreError, match="ignores conditional writes"):
            preflight(S3Blobs(f"s3://bucket/{uuid.uuid4().hex}", fs))

    @pytest.mark.parametrize("address", ["127.0.0.1:9", "user:canary@127.0.0.1:9"])
    def test_an_unreachable_server_is_one_line_without_secrets(self, address: str) -> None:
        fs = s3fs.S3FileSystem(
            key="k",
            secret="canary",
            endpoint_url=f"http://{address}",
            config_kwargs={"retries": {"total_max_attempts": 1}},
            skip_instance_cache=True,
        )
        with pytest.raises(StoreError) as caught:
            S3Blobs("s3://bucket/x", fs, max_wait=0.01).read("u")
        assert "\n" not in str(caught.value)
        assert "canary" not in str(caught.value)

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("RequestTimeTooSkewed", "this machine's clock is wrong, so S3 refuses its requests; set the clock"),
            ("ExpiredToken", r"S3 refuses \(ExpiredToken\); check credentials"),
            ("AccessDenied", r"S3 refuses \(AccessDenied\); check credentials"),
        ],
    )
    def test_a_refusal_is_explained_and_not_repeated(self, s3: Fs, code: str, message: str) -> None:
        fs = s3()
        blobs, calls = S3Blobs(f"s3://bucket/{uuid.uuid4().hex}", fs), refuse(fs, times=1000, code=code)
        for write in (
            lambda: blobs.put_if_absent("u", b"1", "a"),
            lambda: blobs.replace("u", b"1"),
            lambda: blobs.compare_and_swap("u", b"1", None),
        ):
            calls.clear()
            with pytest.raises(UnwritableError, match=message):
                write()
            assert len(calls) == 1


def lose_answer(fs: s3fs.S3FileSystem, method: str, error: Exception) -> None:
    """Makes the next request of a kind take effect, and its answer get lost."""
    call = fs.call_s3

    def once(name: str, **options: Any) -> Any:
        answer = call(name, **options)
        if name == method:
            fs.call_s3 = call
            raise error
        return answer

    fs.call_s3 = once


def refuse(fs: s3fs.S3FileSystem, times: int, code: str = "SlowDown") -> list[str]:
    """Makes the next requests be refused, as too many unless said otherwise."""
    call, calls = type(fs).call_s3.__get__(fs), []

    def busy(name: str, **options: Any) -> Any:
        calls.append(name)
        if len(calls) <= times:
            error = OSError(errno.EBUSY, "No")
            error.__cause__ = RuntimeError()
            error.__cause__.response = {"Error": {"Code": code}}  # type: ignore[attr-defined]
            raise error
        return call(name, **options)

    fs.call_s3 = busy
    return calls


def test_results_in_a_bucket_read_with_pandas(s3: Fs) -> None:
    fs = s3()
    root = f"bucket/{uuid.uuid4().hex}"
    store = Store(S3Blobs(f"s3://{root}", fs))
    store.write_schemas("a")
    for unit_id in ("u1", "u2"):
        store.commit_unit(unit_id, {"scores": make_table("scores", [{"unit_id": unit_id, "clip_score": 0.5}])}, "a")
    Publisher(store).publish(flush=True)
    assert verify(store) == []
    frame = pd.read_parquet(f"{root}/scores", filesystem=fs)
    assert sorted(frame["unit_id"]) == ["u1", "u2"]

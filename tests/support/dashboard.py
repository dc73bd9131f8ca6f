"""What a head says of its jobs, for tests without a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any


class Dashboard:
    """Ray's jobs, as far as `Jobs` asks for them."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []
        self.refuses = False
        self.ends = ""

    def list_jobs(self) -> list[Any]:
        return self.jobs

    def submit_job(self, *, submission_id: str, metadata: dict[str, str], **_: Any) -> str:
        if self.refuses:
            raise RuntimeError("Request failed with status code 413")
        self.add(submission_id, metadata["loco_sweep"], self.ends or "RUNNING")
        return submission_id

    def add(self, submission_id: str, name: str, state: str) -> None:
        message = "runtime_env setup failed: no pip" if state == "FAILED" else ""
        status = SimpleNamespace(value=state)
        self.jobs.append(
            SimpleNamespace(
                submission_id=submission_id, metadata={"loco_sweep": name}, status=status, message=message,
                driver_exit_code=None, job_id=None,
            )
        )  # fmt: skip

    def get_job_logs(self, _: str) -> str:
        return ""

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        for text in ("",):
            yield text

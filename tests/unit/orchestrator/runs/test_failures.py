"""Why cells failed, and whether another try would help."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from orchestrator.runs.failures import advice, failure_kinds, lasts
from orchestrator.store import make_table


def cell(number: int, error_type: str, error: str, model: str = "toy", attribute: str = "style/a") -> dict[str, Any]:
    return {"unit_id": "u", "model": model, "attribute": attribute, "control": "window", "window_start": number,
            "window_size": 1, "cell_id": f"{number:064d}", "error_type": error_type, "error": error}  # fmt: skip


def tables(failed: list[dict[str, Any]], scored: list[dict[str, Any]] = []) -> tuple[pa.Table, pa.Table]:  # noqa: B006
    keys = ("unit_id", "model", "attribute", "control", "window_start", "window_size", "cell_id")
    scores = [{name: row[name] for name in keys} for row in scored]
    return make_table("scores", scores), make_table("failures", failed)


def test_cells_that_failed_for_one_reason_are_one_line() -> None:
    long = [cell(n, "SpecError", f'"a dog {n}" has {30 + n} tokens; 28 fit', attribute=f"k/{n % 5}") for n in range(40)]
    dead = [cell(100 + n, "WorkerDied", f"w{n}: gone, pid {n}", model=f"m{n}") for n in range(2)]
    found = failure_kinds(*tables([*long, *dead]))
    assert [(kind.error_type, kind.cells, kind.lasting) for kind in found] == [
        ("SpecError", 40, True), ("WorkerDied", 2, False),
    ]  # fmt: skip
    lines = advice(found, "res")
    assert lines == [
        '40 cells (k/0, k/1, k/2 and 2 more of toy): SpecError: "a dog 0" has 30 tokens; 28 fit',
        "2 cells (style/a of m0, m1): WorkerDied: w0: gone, pid 0",
        "`loco-sweep retry res` computes failed cells again",
        "every try meets SpecError: change what it names first, then `loco-sweep retry res` computes "
        "those of the other reasons again",
    ]


def test_a_retry_is_not_offered_where_every_try_meets_the_same() -> None:
    lines = advice(failure_kinds(*tables([cell(1, "ImportError", "No module named torchsde")])), "res")
    assert lines[1:] == [
        "every try meets ImportError: change what it names first, then `loco-sweep retry res` computes the same cells "
        "again"
    ]
    lines = advice(failure_kinds(*tables([cell(1, "WorkerStuck", "no word for 300 s")])), "res")
    assert lines[1:] == ["`loco-sweep retry res` computes failed cells again"]


def test_what_a_later_attempt_scored_has_not_failed_and_the_last_reason_counts() -> None:
    first, again = cell(1, "WorkerDied", "gone"), cell(1, "ValueError", "too long")
    assert failure_kinds(*tables([first], [first])) == ()
    (kind,) = failure_kinds(*tables([first, again]))
    assert (kind.error_type, kind.cells) == ("ValueError", 1)
    # Units of edits and traces have no cells: every run tries them again.
    assert failure_kinds(*tables([{**first, "cell_id": None}])) == ()
    assert advice((), "res") == []


@pytest.mark.parametrize(
    ("error_type", "error", "expected"),
    [
        ("SpecError", '"x" has 30 tokens', True),
        ("ModelError", "text_encoder has no weights for q_proj", True),
        ("ValueError", "num_inference_steps must be 2 or more", True),
        ("RuntimeError", "mat1 and mat2 shapes cannot be multiplied (77x768 and 1024x320)", True),
        ("ModelError", "cannot get config.json of a/b from the hub or its local cache: timed out", False),
        ("ModelError", "toy wants a GPU of 24 GiB; this one has 8 GiB", True),
        ("RuntimeError", "CUDA error: device-side assert triggered", False),
        ("AcceleratorError", "CUDA error: an illegal memory access", False),
        ("OutOfMemoryError", "toy runs out of memory", False),
        ("MemoryError", "no message", False),
        ("SystemExit", "the unit ended with exit code 1", False),
        ("WorkerDied", "killed", False),
        ("WorkerLost", "node has died", False),
        ("WorkerStuck", "no word", False),
        ("DriverDied", "the whole process died at every attempt", False),
        ("ConnectionError", "refused", False),
        ("TimeoutError", "", False),
        ("SomethingNew", "", False),
    ],
)
def test_errors_that_last_are_told_from_those_that_pass(error_type: str, error: str, expected: bool) -> None:
    assert lasts(error_type, error) == expected


def test_many_reasons_are_counted_not_listed() -> None:
    failed = [cell(n, "ValueError", "x" * (n + 1)) for n in range(9)]
    lines = advice(failure_kinds(*tables(failed)), "res")
    assert "and 4 more reasons, in the table failures" in lines
    assert len(lines) == 7

"""How rows are cut into batches: light to import, so that a plan knows the batches that a worker will draw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from loco_core.errors import ModelError
from loco_core.types import Intervention, Row


def source_of(row: Row) -> Row:
    """Returns the row whose K and V a row reads: of its donor from the same noise, or on the picture of the row."""
    return Row(row.donor, row.donor, row.seed, Intervention(source=row.intervention.source))


def reads_own(row: Row) -> bool:
    """Tells whether a row reads what a row beside it makes of the donor's text on its own picture."""
    return bool(row.intervention.sites) and row.intervention.source == "own"


def follows(row: Row) -> bool:
    """Tells whether a row is such a row beside: its picture is that of the row that reads from it, at every step."""
    return not row.intervention.sites and row.intervention.source == "own"


def draws(row: Row) -> tuple[str, int] | None:
    """Returns prompt and seed of a row that reads nothing else, as others may read from it; None of any other."""
    does = row.intervention
    alone = not does.sites and does.pooled == "prompt" and does.source == "run"
    return (row.prompt, row.seed) if alone else None


def in_batches(rows: Iterable[Row], batch_size: int, *, beside: bool) -> Iterator[tuple[list[Row], list[Row]]]:
    """Cuts rows into batches; what a batch holds depends on no batch before it.

    Args:
        rows: images to generate.
        batch_size: rows per batch at most, sources among them.
        beside: whether the donor of a row must be drawn in the same batch.

    Yields:
        rows of a batch, and the sources that they read and that are not among them.

    Raises:
        ModelError: a batch has no room for a row and its source.
    """
    batch: list[Row] = []
    there: set[object] = set()
    lacking: dict[object, Row] = {}
    for row in rows:
        if follows(row):
            # It reads nothing: only sources are marked so.
            row = replace(row, intervention=replace(row.intervention, source="run"))
        while True:
            now, wanted = there | {draws(row)}, dict(lacking)
            if beside and row.intervention.sites:
                # One that follows a row's own picture is of use to no other.
                key = ("own", len(batch)) if reads_own(row) else draws(source_of(row))
                wanted.setdefault(key, source_of(row))
            wanted = {key: source for key, source in wanted.items() if key not in now}
            if len(batch) + 1 + len(wanted) <= batch_size:
                break
            if not batch:
                raise ModelError(
                    f"batch_size: {batch_size} is too small, as every row of this model reads from one that draws its "
                    "donor"
                )
            yield batch, list(lacking.values())
            batch, there, lacking = [], set(), {}
        batch.append(row)
        there, lacking = now, wanted
    if batch:
        yield batch, list(lacking.values())

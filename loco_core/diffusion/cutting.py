"""How rows are cut into batches: light to import, so that a plan knows the batches that a worker will draw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loco_core.errors import ModelError
from loco_core.types import Row


def source_of(row: Row) -> Row:
    """Returns the row that draws a row's donor from the same noise."""
    return Row(row.donor, row.donor, row.seed)


def draws(row: Row) -> tuple[str, int] | None:
    """Returns prompt and seed of a row that reads nothing else, as others may read from it; None of any other."""
    alone = not row.intervention.sites and row.intervention.pooled == "prompt"
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
    there: set[tuple[str, int] | None] = set()
    lacking: dict[tuple[str, int] | None, Row] = {}
    for row in rows:
        while True:
            now, wanted = there | {draws(row)}, dict(lacking)
            if beside and row.intervention.sites:
                wanted.setdefault(draws(source_of(row)), source_of(row))
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

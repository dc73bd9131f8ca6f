"""One row per kept picture and label: its scores and its drop, joined from the tables that its unit wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from loco_core.tables import joined, rows_where
from orchestrator.spec import InterventionSpec

_LABELS = ("model", "attribute", "prompt", "control", "window_start", "window_size", "seed")
_INTERVENTION = ("part", "step_start", "step_end", "tokens", "guidance_half", "pooled", "source")
_IDS = ("unit_id", "image_id")
_MEASURED = ("clip_score", "clip_score_donor", "margin_clean")
OWN = (*_IDS, "cell_id", *_LABELS, "edit_id", "prompt_role")
"""Columns that are read of images."""
SCORED = (*_IDS, "cell_id", *_LABELS, *_INTERVENTION, "site_indices", *_MEASURED, "status")
"""Columns that are read of scores."""
_PROBE = ("unit_id", "edit_id", "prompt_role", "prompt", "seed")
_JUDGED = ("attribute", "judge_kind", "judge_before", "judge_after")
_OF_EDITS = ("clip_before", "clip_after", "margin_before", "margin_after")
EVALUATED = (*_PROBE, *_JUDGED, *_OF_EDITS)
"""Columns that are read of evaluations."""
_INDEX_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("model", pa.string()), ("attribute", pa.string()), ("prompt", pa.string()), ("seed", pa.int64()),
    ("control", pa.string()), ("rank", pa.int8()), ("intervention", pa.string()), ("window_size", pa.int32()),
    ("window_start", pa.int32()), ("edit_id", pa.string()), ("prompt_role", pa.string()),
    ("site_indices", pa.list_(pa.int32())), ("cell", pa.string()), ("score", pa.float64()), ("drop", pa.float64()),
    ("seen", pa.string()), ("row", pa.int64()),
]  # fmt: skip
INDEX = pa.schema(_INDEX_COLUMNS)
"""Columns of the index of a part. ``score`` is the cosine with the score text, ``drop`` how far the margin fell from
that of the clean picture, ``seen`` what a judge names in it; a part's seal and a row in it name an image for good."""
CONTROLS = ("before", "edited", "clean", "window", "all_sites", "donor", "identity", "complement", "random")
"""Kinds of pictures in the order of a page; ``rank`` is the place of one."""
_ORDER = (
    "model", "attribute", "prompt", "seed", "rank", "intervention", "window_size", "window_start", "edit_id",
)  # fmt: skip
_NAME_DIGITS = 16
_OF_THE_ATTRIBUTE = ("target", "paraphrase")
"""Roles of prompts whose margin is the attribute's own."""
SHOWN_OF_SCORES = (*_IDS, "donor", "site_indices", *_INTERVENTION, *_MEASURED, "image_distance", "status")
"""Columns of scores that are shown of an open picture."""
SHOWN_OF_EVALUATIONS = (*EVALUATED, "judge_said", "flipped", "image_distance", "status")
"""Columns of evaluations that are shown of an open picture."""
_DONOR_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("model", pa.string()), ("attribute", pa.string()), ("sum", pa.float64()), ("count", pa.int64()),
]  # fmt: skip
DONORS = pa.schema(_DONOR_COLUMNS)
"""Columns of `donors_of`."""


def index_of(own: pa.Table, scores: pa.Table | None, evaluations: pa.Table | None) -> pa.Table:
    """Returns the index of a part; see `INDEX`.

    Args:
        own: columns `OWN` of its images.
        scores: columns `SCORED` of the scores that were published with them, if any.
        evaluations: columns `EVALUATED` of the evaluations that were published with them, if any.
    """
    own = own.append_column("row", pa.array(range(own.num_rows), pa.int64()))
    scored, rest = (None, own) if scores is None else _labelled(own, scores)
    if evaluations is not None:
        rest = _evaluated(rest, _own_kind_first(evaluations))
    tables = [rest] if scored is None else [_scored(scored), rest]
    index = pa.concat_tables(_indexed(table) for table in tables)
    # The page sorts all parts together, which is quick where each is sorted.
    order: Any = [(name, "ascending", "at_start") for name in _ORDER]
    return index.take(pc.sort_indices(index, sort_keys=order))


def donors_of(scores: pa.Table | None) -> pa.Table:
    """Returns the sum and the count of the drops of donor pictures, by model and attribute."""
    if scores is None:
        return DONORS.empty_table()
    donors = rows_where(_scored(scores), control="donor")
    found = donors.group_by(["model", "attribute"]).aggregate([("drop", "sum"), ("drop", "count")])
    return found.rename_columns(DONORS.names).cast(DONORS)


def details_of(own: pa.Table, scores: pa.Table | None, evaluations: pa.Table | None) -> list[dict[str, Any]]:
    """Returns all columns of some pictures, and what was measured of them.

    Args:
        own: columns `OWN` of the pictures.
        scores: columns `SHOWN_OF_SCORES` of the scores that were published with them, if any.
        evaluations: columns `SHOWN_OF_EVALUATIONS` of the evaluations that were published with them, if any.
    """
    scored = _first(own, scores, _IDS)
    seen = _first(own, None if evaluations is None else _own_kind_first(evaluations), _PROBE)
    found = []
    for row, *measured in zip(own.to_pylist(), scored, seen, strict=True):
        last = {name: row.pop(name) for name in (*_IDS, "cell_id")}
        for columns in measured:
            row |= {name: value for name, value in columns.items() if name not in row}
        found.append({name: value for name, value in (row | last).items() if value is not None})
    return found


def _labelled(own: pa.Table, scores: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Returns the images under every label that their scores have, and those without scores.

    An image that stands for two cells of a unit, such as the complement of a window that is a window itself, is kept
    once.
    """
    keys, wanted = _key(own, _IDS), _key(scores, _IDS)
    at = pc.index_in(wanted, value_set=keys)
    scored = scores.filter(pc.is_valid(at)).append_column("row", own["row"].take(at.drop_null()))
    return scored, own.filter(pc.invert(pc.is_in(keys, value_set=wanted)))


def _scored(scores: pa.Table) -> pa.Table:
    """Returns score rows with their score and their drop; an invalid picture has neither."""
    valid = pc.equal(scores["status"], pa.scalar("ok"))
    margin = pc.subtract(scores["clip_score"], scores["clip_score_donor"])
    nothing = pa.scalar(None, pa.float64())
    score = pc.if_else(valid, scores["clip_score"], nothing)
    drop = pc.if_else(valid, pc.subtract(scores["margin_clean"], margin), nothing)
    return scores.append_column("score", score).append_column("drop", drop)


def _evaluated(own: pa.Table, evaluations: pa.Table) -> pa.Table:
    """Returns pictures of edits with what was measured of them; of those drawn before an edit, by any edit's row."""
    after = pc.index_in(_key(own, _PROBE), value_set=_key(evaluations, _PROBE))
    probe = tuple(name for name in _PROBE if name != "edit_id")
    before = pc.index_in(_key(own, probe), value_set=_key(evaluations, probe))
    is_before = pc.equal(own["control"], pa.scalar("before"))

    def seen(name: str) -> Any:
        old, new = evaluations[f"{name}_before"].take(before), evaluations[f"{name}_after"].take(after)
        return pc.if_else(is_before, old, new)

    of_its_own = pc.is_in(own["prompt_role"], value_set=pa.array(_OF_THE_ATTRIBUTE))
    drop = pc.subtract(evaluations["margin_before"].take(before), seen("margin"))
    drop = pc.if_else(of_its_own, drop, pa.scalar(None, pa.float64()))
    for column, values in (("score", seen("clip")), ("drop", drop), ("seen", seen("judge"))):
        own = own.append_column(column, values)
    return own


def _own_kind_first(evaluations: pa.Table) -> pa.Table:
    """Returns what a judge names of the attribute's own kind before what it names of others."""
    of: Any = evaluations
    kind: Any = pc.list_element(pc.split_pattern(of["attribute"], "/"), 0)
    is_own: Any = pc.fill_null(pc.equal(kind, of["judge_kind"]), pa.scalar(False))
    return pa.concat_tables([evaluations.filter(is_own), evaluations.filter(pc.invert(is_own))])


def _first(own: pa.Table, measured: pa.Table | None, by: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the first row of another table of each image; nothing where there is none."""
    if measured is None:
        return [{}] * own.num_rows
    at = pc.index_in(_key(own, by), value_set=_key(measured, by))
    rows: list[dict[str, Any]] = (
        measured.drop_columns([name for name in by if name in own.column_names]).take(at).to_pylist()
    )
    return rows


def _key(table: pa.Table, names: Sequence[str]) -> pa.ChunkedArray[Any]:
    # No letter of an id, and none that a prompt needs.
    texts: list[Any] = [pc.fill_null(table[name].cast(pa.string()), pa.scalar("")) for name in names]
    return joined(*texts, by="\x1f")


def _indexed(table: pa.Table) -> pa.Table:
    rank = pc.index_in(table["control"], value_set=pa.array(CONTROLS)).cast(pa.int8())
    made: dict[str, Any] = {
        "rank": pc.fill_null(rank, pa.scalar(len(CONTROLS), pa.int8())),
        "cell": pc.utf8_slice_codeunits(table["cell_id"], 0, _NAME_DIGITS),
        "intervention": _intervention(table),
    }
    columns = [
        made[name] if name in made else table[name] if name in table.column_names else _nulls(table, kind)
        for name, kind in zip(INDEX.names, INDEX.types, strict=True)
    ]
    return pa.table(columns, schema=INDEX)


def _nulls(table: pa.Table, kind: pa.DataType) -> pa.Array[Any]:
    return pa.array([None] * table.num_rows, kind)


def intervention_words(option: InterventionSpec, steps: int) -> str:
    """Returns what the index says of pictures under a set of options.

    Args:
        option: the options.
        steps: denoising steps per picture.
    """
    start, end = option.steps or (0, steps)
    values = (option.part, start, end, option.tokens, option.guidance_half, option.pooled, option.source, "window")
    row = pa.table({name: [value] for name, value in zip((*_INTERVENTION, "control"), values, strict=True)})
    return str(_intervention(row)[0].as_py())


def _intervention(table: pa.Table) -> Any:
    """Returns the options of the interventions in words; of clean and donor images, which have none, null."""
    if "part" not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    part, start, end, tokens, half, pooled, source = (table[name].cast(pa.string()) for name in _INTERVENTION)
    steps, positions = joined("steps", joined(start, end, by="-"), by=" "), joined(tokens, "tokens", by=" ")
    words = joined(part, steps, positions, half, by=", ")
    is_pooled = pc.fill_null(pc.equal(pooled, pa.scalar("donor")), pa.scalar(False))
    words = pc.if_else(is_pooled, joined(words, "pooled donor", by=", "), words)
    is_own = pc.fill_null(pc.equal(source, pa.scalar("own")), pa.scalar(False))
    words = pc.if_else(is_own, joined(words, "own picture", by=", "), words)
    is_weights = pc.fill_null(pc.equal(source, pa.scalar("weights")), pa.scalar(False))
    words = pc.if_else(is_weights, joined(words, "weights of the donor", by=", "), words)
    has_none = pc.is_in(table["control"], value_set=pa.array(["clean", "donor", "identity"]))
    return pc.if_else(has_none, pa.scalar(None, pa.string()), words)

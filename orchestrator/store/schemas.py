"""The tables of a results root, column by column, with fixed types.

Columns are only ever added, nullable; a reader takes the schema from the first file it meets, so every file of a table
carries the whole of it. Cosines, effects and seconds are float64.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from loco_core.errors import StoreError, did_you_mean
from orchestrator.store.errors import REMEDY, DamagedFileError

SCHEMA_VERSION = 1

_TEXT, _INT, _LONG, _REAL, _FLAG = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
_HF_NAMES = {_TEXT: "string", _INT: "int32", _LONG: "int64", _REAL: "float64", _FLAG: "bool"}


def _schema(*fields: tuple[str, pa.DataType], metadata: Mapping[str, str] | None = None) -> pa.Schema:
    said = {"loco_sweep_schema_version": str(SCHEMA_VERSION), **(metadata or {})}
    return pa.schema(fields, metadata={key.encode(): value.encode() for key, value in said.items()})


_CELL: tuple[tuple[str, pa.DataType], ...] = (
    ("sweep_id", _TEXT),
    ("cell_id", _TEXT),
    ("image_id", _TEXT),
    ("unit_id", _TEXT),
    ("model", _TEXT),
    ("model_revision", _TEXT),
    ("family", _TEXT),
    ("attribute", _TEXT),
    ("attribute_kind", _TEXT),
    ("mode", _TEXT),
    ("prompt_id", _TEXT),
    ("template_id", _TEXT),
    ("prompt", _TEXT),
    ("donor", _TEXT),
    ("control", _TEXT),
    ("window_start", _INT),
    ("window_size", _INT),
    ("site_indices", pa.list_(_INT)),
    ("part", _TEXT),
    ("step_start", _INT),
    ("step_end", _INT),
    ("tokens", _TEXT),
    ("guidance_half", _TEXT),
    ("pooled", _TEXT),
    ("seed", _LONG),
)

SCORES = _schema(
    *_CELL,
    ("steps", _INT),
    ("guidance_scale", _REAL),
    ("scheduler", _TEXT),
    ("height", _INT),
    ("width", _INT),
    ("dtype", _TEXT),
    ("engine", _TEXT),
    ("scorer", _TEXT),
    ("scorer_revision", _TEXT),
    ("score_text", _TEXT),
    ("donor_text", _TEXT),
    ("content_text", _TEXT),
    ("clip_score", _REAL),
    ("clip_score_donor", _REAL),
    ("clip_score_content", _REAL),
    # Of clean images only: mean cosine with the content texts of the attribute's other records.
    ("clip_score_unrelated", _REAL),
    # Margin (clip_score - clip_score_donor) of the clean image of the same unit, made beside this one.
    ("margin_clean", _REAL),
    ("image_distance", _REAL),
    ("status", _TEXT),
    ("batch_size", _INT),
    ("device", _TEXT),
    ("torch_version", _TEXT),
    ("attempt", _INT),
    ("seconds", _REAL),
    ("schema_version", _INT),
)
"""One row a scored cell of a unit."""

FAILURES = _schema(
    *_CELL,
    ("error_type", _TEXT),
    ("error", _TEXT),
    ("attempt", _INT),
    ("device", _TEXT),
    ("schema_version", _INT),
)
"""One row a cell that could not be made, with what stopped it."""

EMBEDDINGS = _schema(
    ("unit_id", _TEXT),
    ("cell_id", _TEXT),
    ("image_id", _TEXT),
    ("model", _TEXT),
    ("scorer", _TEXT),
    ("scorer_revision", _TEXT),
    ("embedding", pa.list_(pa.float32())),
)
"""One row a scored image: the scorer's own embedding, before normalization."""

_IMAGE_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("unit_id", _TEXT),
    ("cell_id", _TEXT),
    ("image_id", _TEXT),
    ("model", _TEXT),
    ("attribute", _TEXT),
    ("prompt", _TEXT),
    ("control", _TEXT),
    ("window_start", _INT),
    ("window_size", _INT),
    ("seed", _LONG),
    # Of pictures drawn to measure edits only.
    ("edit_id", _TEXT),
    ("prompt_role", _TEXT),
)
_HF_FEATURES = {
    **{name: {"dtype": _HF_NAMES[kind], "_type": "Value"} for name, kind in _IMAGE_FIELDS},
    "image": {"_type": "Image"},
}
IMAGES = _schema(
    *_IMAGE_FIELDS,
    ("image", pa.struct([("bytes", pa.binary()), ("path", _TEXT)])),
    metadata={"huggingface": json.dumps({"info": {"features": _HF_FEATURES}})},
)
"""One row an image kept, encoded; Hugging Face ``datasets`` shows the column as images."""

EFFECTS = _schema(
    ("sweep_id", _TEXT),
    ("model", _TEXT),
    ("attribute", _TEXT),
    ("window_start", _INT),
    ("window_size", _INT),
    ("effect", _REAL),
    ("ci_low", _REAL),
    ("ci_high", _REAL),
    ("simultaneous_low", _REAL),
    ("damage", _REAL),
    ("eligible", _FLAG),
    ("in_tie_set", _FLAG),
    ("n_prompts", _INT),
    ("n_seeds", _INT),
    ("flip_rate", _REAL),
    ("holds_in", _INT),
    ("prompt_share_low", _REAL),
    ("localizer", _TEXT),
    # denoiser; text_encoder of rows about one of its layers, whose number is window_start.
    ("component", _TEXT),
    # Whether it is one to compare with, not the one that edits follow; null in older files, where there was one.
    ("beside", _FLAG),
)
"""One row a (model, attribute, localizer, window)."""

LOCALIZATIONS = _schema(
    ("sweep_id", _TEXT),
    ("model", _TEXT),
    ("attribute", _TEXT),
    ("attribute_kind", _TEXT),
    ("mode", _TEXT),
    ("localizer", _TEXT),
    ("outcome", _TEXT),
    ("window_start", _INT),
    ("window_size", _INT),
    ("best_start", _INT),
    ("best_size", _INT),
    ("site_names", pa.list_(_TEXT)),
    ("relative_depth", _REAL),
    ("effect", _REAL),
    ("ci_low", _REAL),
    ("ci_high", _REAL),
    ("runner_up_start", _INT),
    ("runner_up_effect", _REAL),
    ("tie_set", pa.list_(_INT)),
    ("sufficiency", _REAL),
    ("damage", _REAL),
    ("all_sites_effect", _REAL),
    ("threshold", _REAL),
    # these_pictures, these_prompts or prompts_like_these: whom the outcome is about.
    ("about", _TEXT),
    # In how many of the prompts the best window holds, and the share of prompts like these that this shows.
    ("holds_in", _INT),
    ("prompt_share_low", _REAL),
    ("n_prompts", _INT),
    ("n_seeds", _INT),
    ("cells", _LONG),
    ("exploratory", _FLAG),
    ("possible_size", _INT),
    ("reason", _TEXT),
    # See effects.beside.
    ("beside", _FLAG),
)
"""One row a (model, attribute, localizer)."""

TRACES = _schema(
    ("sweep_id", _TEXT),
    ("unit_id", _TEXT),
    ("model", _TEXT),
    ("attribute", _TEXT),
    ("attribute_kind", _TEXT),
    ("mode", _TEXT),
    # attention_contribution or causal_tracing.
    ("method", _TEXT),
    # contribution; of causal tracing clean, corrupted or restored.
    ("control", _TEXT),
    # denoiser or text_encoder; null with the layer where a picture has none.
    ("component", _TEXT),
    ("layer", _INT),
    ("layer_name", _TEXT),
    ("prompt_id", _TEXT),
    ("template_id", _TEXT),
    ("prompt", _TEXT),
    ("donor", _TEXT),
    ("seed", _LONG),
    # Norm of what the concept's words write; of causal tracing the margin of the picture.
    ("value", _REAL),
    ("scorer", _TEXT),
    ("status", _TEXT),
    ("batch_size", _INT),
    ("device", _TEXT),
    ("torch_version", _TEXT),
    ("attempt", _INT),
    ("seconds", _REAL),
    ("schema_version", _INT),
)
"""One row a layer that was observed or restored, prompt and seed; and one a clean and a corrupted picture."""

EDITS = _schema(
    ("sweep_id", _TEXT),
    ("unit_id", _TEXT),
    ("edit_id", _TEXT),
    ("model", _TEXT),
    ("model_revision", _TEXT),
    ("attribute", _TEXT),
    ("attribute_kind", _TEXT),
    ("editor", _TEXT),
    # Of candidates localized, by_hand or method, of baselines all_sites, window, placebo or random.
    ("scope", _TEXT),
    ("window_start", _INT),
    ("window_size", _INT),
    ("site_indices", pa.list_(_INT)),
    ("tokens", _TEXT),
    ("lambda", _REAL),
    # As it stands in the equation that was solved, not relative to the keys' mean squared norm. Of published edits this
    # one alone; null where sites that read different texts have one each.
    ("lambda_absolute", _REAL),
    ("neurons", _INT),
    ("norm", _REAL),
    ("chosen", _FLAG),
    ("delta_path", _TEXT),
    ("delta_sha256", _TEXT),
    # Of a placebo or of random neurons: the edit that it resembles.
    ("base", _TEXT),
    ("localization", _TEXT),
    ("neighbours", pa.list_(_TEXT)),
    ("schema_version", _INT),
    # Of the editor, as JSON: with the sites and the prompts, all that it takes to fit the edit again.
    ("settings", _TEXT),
    # published or paired; null where the editor was not published with targets of its own.
    ("targets", _TEXT),
    # Of neurons: conditional or both.
    ("guidance_half", _TEXT),
)
"""One row an edit and the place that it was fitted for: all sites are a baseline of several places, say."""

EVALUATIONS = _schema(
    ("sweep_id", _TEXT),
    ("unit_id", _TEXT),
    ("edit_id", _TEXT),
    ("model", _TEXT),
    ("attribute", _TEXT),
    ("editor", _TEXT),
    ("scope", _TEXT),
    ("split", _TEXT),
    ("prompt_role", _TEXT),
    ("template_id", _TEXT),
    ("content_text", _TEXT),
    ("prompt", _TEXT),
    ("clip_text", _TEXT),
    ("seed", _LONG),
    ("clip_before", _REAL),
    ("clip_after", _REAL),
    ("margin_before", _REAL),
    ("margin_after", _REAL),
    # What names what is seen; null where the sign of the CLIP margin does.
    ("judge", _TEXT),
    ("judge_kind", _TEXT),
    # What the prompt says of that kind.
    ("judge_said", _TEXT),
    ("judge_before", _TEXT),
    ("judge_after", _TEXT),
    ("flipped", _FLAG),
    ("image_distance", _REAL),
    ("status", _TEXT),
    ("scorer", _TEXT),
    ("attempt", _INT),
    ("schema_version", _INT),
)
"""One row a picture drawn with and without an edit, and kind that the judge names."""

TRIALS = _schema(
    ("sweep_id", _TEXT),
    ("model", _TEXT),
    ("attribute", _TEXT),
    ("trial", _TEXT),
    ("edit_id", _TEXT),
    ("editor", _TEXT),
    ("window_start", _INT),
    ("window_size", _INT),
    ("tokens", _TEXT),
    ("lambda", _REAL),
    # Share of the output coordinates of every projection.
    ("neurons", _REAL),
    # Of the select split, that it was measured on before it was stopped or was through.
    ("seeds", _INT),
    ("pictures", _INT),
    ("flipped", _REAL),
    ("neighbour_loss", _REAL),
    ("objective", _REAL),
    ("stopped", _FLAG),
    ("best", _FLAG),
    ("search_seed", _LONG),
    ("settings", _TEXT),
    ("schema_version", _INT),
)
"""One row a trial of ``tune``."""

TABLES: Mapping[str, pa.Schema] = MappingProxyType(
    {
        "scores": SCORES,
        "failures": FAILURES,
        "embeddings": EMBEDDINGS,
        "images": IMAGES,
        "effects": EFFECTS,
        "localizations": LOCALIZATIONS,
        "fits": EDITS,
        "edits": EDITS,
        "evaluations": EVALUATIONS,
        "trials": TRIALS,
        "traces": TRACES,
    }
)
"""Schema of every table that people read, by the name of its folder."""


_TELLS = {
    "scores": "clip_score", "failures": "error_type", "embeddings": "embedding", "images": "image",
    "effects": "eligible", "localizations": "outcome", "fits": "norm", "edits": "norm", "evaluations": "split",
    "trials": "trial", "traces": "layer",
}  # fmt: skip
"""A column by which a table is told from others: it has been there from the first version on."""


def checked_rows(name: str, rows: pa.Table, place: str) -> pa.Table:
    """Returns rows, if they may be a table's; older files lack columns, newer ones have more.

    Args:
        name: of the table.
        rows: as read.
        place: where they come from, for the message.

    Raises:
        DamagedFileError: they are another table's.
    """
    schema, there = TABLES[name], set(rows.column_names)
    wrong = [field.name for field in schema if field.name in there and rows.schema.field(field.name).type != field.type]
    if wrong or _TELLS[name] not in there:
        what = f"column {wrong[0]} has another type" if wrong else f"there is no column {_TELLS[name]}"
        raise DamagedFileError(f"{place}: is no table {name} ({what}); {REMEDY}")
    return rows


def checked_plan(rows: pa.Table, place: str) -> pa.Table:
    """Returns the rows of a plan file, if they may be such; see `checked_rows`.

    Raises:
        DamagedFileError: they are a table's.
    """
    if not {"unit_id", "unit_order", "expected_seconds"}.issubset(rows.column_names):
        raise DamagedFileError(f"{place}: is no plan (there is no column unit_order); {REMEDY}")
    return rows


def make_table(name: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Returns rows as a table with the fixed types; columns that a row lacks are null.

    Args:
        name: of the table, a key of `TABLES`.
        rows: by column name.

    Raises:
        StoreError: a row has a column that the table has not, or a value of another type.
    """
    schema, listed = TABLES[name], list(rows)
    for column in {column for row in listed for column in row} - set(schema.names):
        raise StoreError(f"table {name} has no column {column!r}{did_you_mean(column, schema.names)}")
    try:
        return pa.Table.from_pylist(listed, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise StoreError(f"table {name}: {error}") from error

"""The columns of ``checks``: certificates of models, one row each. Such a table is no part of any results."""

from __future__ import annotations

import pyarrow as pa

from orchestrator.store.columns import DEVICE, FLAG, INT, MODEL_REVISION, REAL, SCHEMA_VERSION, TEXT, Column, Columns

_DIFFERENCE = "difference of latents, relative to the latter's norm; null where it was not measured"
_LIMIT = "What that difference may be at most; null where nothing could be told"

CHECKS: Columns = (
    Column("model", TEXT, "name", "Model, by its id in sweeps"),
    Column("family", TEXT, "name", "Family of the model, such as stable_diffusion"),
    Column("pipeline", TEXT, "name", "Class of its pipeline in diffusers; empty where it could not be loaded"),
    Column("source", TEXT, "name", "Hub id, or name of the folder that it was loaded from"),
    MODEL_REVISION,
    Column("dtype", TEXT, "word", "Number format of weights and activations"),
    Column("engine", TEXT, "JSON", "Engine settings that change bits and differ from their defaults"),
    DEVICE,
    Column("checked_at", TEXT, "time", "When, in UTC, as ISO 8601"),
    Column("versions", TEXT, "JSON", "Version of each package that took part"),
    Column("passed", FLAG, "flag", "Whether no check failed"),
    Column("failed", pa.list_(TEXT), "word", "Checks that failed"),
    Column("skipped", pa.list_(TEXT), "word", "Checks that could not be made, or could tell nothing"),
    Column("sites_found", INT, "sites", "Sites of a recorded forward pass"),
    Column("sites_expected", INT, "sites", "Sites that the configuration tells"),
    Column("broken_pictures", INT, "count", "Pictures of one colour, or without numbers; null where none was drawn"),
    Column("identity", REAL, "share", f"Prompt swapped for itself, against the pipeline alone: {_DIFFERENCE}"),
    Column("identity_limit", REAL, "share", _LIMIT),
    Column("all_sites", REAL, "share", f"All sites swapped, against the donor prompt's own picture: {_DIFFERENCE}"),
    Column("all_sites_limit", REAL, "share", _LIMIT),
    Column("batch", REAL, "share", f"Rows in a batch of four, against one by one: {_DIFFERENCE}"),
    Column("batch_limit", REAL, "share", _LIMIT),
    Column("precision", REAL, "share", f"Half precision, against float32: {_DIFFERENCE}"),
    Column("precision_limit", REAL, "share", _LIMIT),
    Column("batch_sizes", pa.list_(INT), "rows", "Rows per batch that were measured"),
    Column("seconds_per_image", pa.list_(REAL), "seconds", "Time per picture of four steps, by batch size"),
    Column("peak_gigabytes", pa.list_(REAL), "GB", "Memory that tensors took at most, by batch size; null on a CPU"),
    Column("steps", INT, "steps", "Denoising steps of the pictures that were scored"),
    Column("whole_seconds_per_image", REAL, "seconds", "Time per picture of so many steps, in the best of the batches"),
    Column("guidance_scale", REAL, "scale", "Scale of classifier-free guidance"),
    Column("n_seeds", INT, "count", "Seeds of the pictures that were scored"),
    Column("scorer", TEXT, "name", "Scorer: a CLIP model, a key, or a Python file; empty where none could be had"),
    Column("attributes", pa.list_(TEXT), "name", "Attributes that were drawn, as kind/name"),
    Column("pairs", pa.list_(INT), "count", "Pairs of pictures, of a prompt and its donor, by attribute"),
    Column("closer", pa.list_(INT), "count", "Pairs whose prompt's picture is closer to the score text, by attribute"),
    Column("margins", pa.list_(REAL), "cosine", "Mean by which it is closer, by attribute"),
    Column("seconds", REAL, "seconds", "Time of all checks, loading included"),
    Column("certificate", TEXT, "JSON", "The whole certificate, with what each check said"),
    SCHEMA_VERSION,
)  # fmt: skip

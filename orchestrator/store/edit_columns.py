"""The columns of the tables about edits."""

from __future__ import annotations

import pyarrow as pa

from orchestrator.store.columns import (
    ATTEMPT,
    ATTRIBUTE,
    ATTRIBUTE_KIND,
    BATCH_SIZE,
    DEVICE,
    EDIT_ID,
    EDITOR,
    FLAG,
    INT,
    LONG,
    MODEL,
    MODEL_REVISION,
    PROMPT,
    REAL,
    SCHEMA_VERSION,
    SCOPE,
    SCORER,
    SEED,
    STATUS,
    SWEEP_ID,
    TEMPLATE_ID,
    TEXT,
    TORCH_VERSION,
    UNIT_ID,
    Column,
    Columns,
)

_START = Column("window_start", INT, "site index", "First edited site; null where the sites are no window")
_SIZE = Column("window_size", INT, "sites", "Number of edited sites; null where they are no window")
_TOKENS = Column("tokens", TEXT, "word", "Token positions at which a prompt is made to read as its donor")
_LAMBDA = Column(
    "lambda", REAL, "lambda",
    "Strength; larger changes less. Relative to the keys' mean squared norm, null where only lambda_absolute is set",
)  # fmt: skip
_GROUP = Column(
    "attributes", pa.list_(TEXT), "name",
    "Attributes that the edit is of where these are several, of which the row is about one; null of an edit of one",
)  # fmt: skip
_STEP = Column(
    "step", INT, "count", "Of edits that are fitted one after the other: how many of them were made; null of others"
)
_SETTINGS = Column("settings", TEXT, "JSON", "All settings of the editor")

EDITS: Columns = (
    SWEEP_ID,
    UNIT_ID,
    EDIT_ID,
    MODEL,
    MODEL_REVISION,
    ATTRIBUTE,
    ATTRIBUTE_KIND,
    EDITOR,
    SCOPE,
    _START,
    _SIZE,
    Column("site_indices", pa.list_(INT), "site index", "Edited sites, in execution order"),
    _TOKENS,
    _LAMBDA,
    Column(
        "lambda_absolute", REAL, "lambda",
        "Strength in the equation that was solved, not relative; null where sites that read different texts have one "
        "each",
    ),
    Column("neurons", INT, "count", "Output coordinates held, all projections together; null of other editors"),
    Column("norm", REAL, "norm", "Frobenius norm of the change of all weights together"),
    Column("chosen", FLAG, "flag", "Whether it is the chosen edit of its editor and targets; null in fits"),
    Column("delta_path", TEXT, "path", "File of the new weights, relative to the results"),
    Column("delta_sha256", TEXT, "hash", "SHA-256 of that file"),
    Column("base", TEXT, "id", "Of a baseline made at an edit's own sites: that edit"),
    Column("localization", TEXT, "text", "What picked the sites"),
    Column("neighbours", pa.list_(TEXT), "name", "Nearest attributes of the same kind, which are watched"),
    SCHEMA_VERSION,
    _SETTINGS,
    Column(
        "targets", TEXT, "word",
        "Texts that it was fitted on: published or paired; null of editors without published texts of their own",
    ),
    Column("guidance_half", TEXT, "word", "Of neuron edits: conditional or both"),
    Column(
        "chosen_by", TEXT, "name",
        "What told which of the candidates to choose: a judge, as in evaluations, or the scorer by the sign of its "
        "margin; null in fits",
    ),
    _GROUP,
    _STEP,
)  # fmt: skip

EVALUATIONS: Columns = (
    SWEEP_ID,
    UNIT_ID,
    EDIT_ID,
    MODEL,
    ATTRIBUTE,
    EDITOR,
    SCOPE,
    Column("split", TEXT, "word", "Prompts and seeds that it is measured on: select (to choose) or report"),
    Column(
        "prompt_role", TEXT, "word",
        "target, paraphrase (of another template), donor, neighbour (another attribute of the kind) or unrelated",
    ),
    TEMPLATE_ID,
    Column("content_text", TEXT, "text", "Text that says what must stay"),
    PROMPT,
    Column("clip_text", TEXT, "text", "Text that the two pictures are compared with"),
    SEED,
    Column("clip_before", REAL, "cosine", "Similarity of the picture without the edit and clip_text"),
    Column("clip_after", REAL, "cosine", "Similarity of the picture with the edit and clip_text"),
    Column(
        "margin_before", REAL, "cosine difference",
        "Of the picture without the edit: clip_before less the similarity with the donor's text, or, with margin: "
        "siblings, the largest with it and the siblings' texts",
    ),
    Column("margin_after", REAL, "cosine difference", "The same of the picture with the edit"),
    Column("judge", TEXT, "name", "What names what is seen, with a hash of its weights and settings where it "
        "has some; null where the sign of the margin decides"),
    Column("judge_kind", TEXT, "word", "Kind that the row is about: style, object, ..; a picture has a row per kind"),
    Column("judge_said", TEXT, "name", "What the prompt says of that kind"),
    Column("judge_before", TEXT, "name", "What the judge sees without the edit"),
    Column("judge_after", TEXT, "name", "What the judge sees with the edit"),
    Column(
        "flipped", FLAG, "flag",
        "Whether the picture had what its prompt says and now has what the donor prompt says; null where it had not",
    ),
    Column(
        "image_distance", REAL, "0 .. 1", "Root mean square difference of pixel values between the two pictures"
    ),
    Column("status", TEXT, "word", "ok, or invalid: one of the two pictures is blank or has no numbers"),
    SCORER,
    ATTEMPT,
    SCHEMA_VERSION,
    Column(
        "metrics", pa.list_(TEXT), "name",
        "Metrics that compared the two pictures, in picture_metrics and features; null where none was asked for",
    ),
    _GROUP,
    _STEP,
    Column(
        "flipped_by_margin", FLAG, "flag",
        "Whether the picture fitted clip_text best and now fits the donor's text best (any other text, where donors "
        "leave the attribute out); null where it did not, and in results that are older than the column",
    ),
    Column(
        "margin_texts", pa.list_(TEXT), "text",
        "Texts that the margin is taken against, the donor's first: where they changed, a picture is measured again; "
        "null in results that are older than the column",
    ),
)  # fmt: skip

_ROLE = Column("prompt_role", TEXT, "word", "Role of the prompts, as in evaluations")
_METRIC = Column("metric", TEXT, "name", "Metric, with a hash of its weights and of code that is not this project's")
_WEIGHTS = Column("weights", TEXT, "name", "Weights that the metric reads, as the sweep names them; null without any")
_WEIGHTS_HASH = Column("weights_hash", TEXT, "hash", "Hash of these weights, or hub: and a commit")

PICTURE_METRICS: Columns = (
    SWEEP_ID,
    UNIT_ID,
    EDIT_ID,
    MODEL,
    ATTRIBUTE,
    EDITOR,
    SCOPE,
    _ROLE,
    PROMPT,
    SEED,
    _METRIC,
    _WEIGHTS,
    _WEIGHTS_HASH,
    Column("value", REAL, "as of the metric", "Value of the picture with the edit beside that without it"),
    ATTEMPT,
    SCHEMA_VERSION,
)

FEATURES: Columns = (
    SWEEP_ID,
    UNIT_ID,
    Column("edit_id", TEXT, "id", "Edit that the picture was drawn with; null without one"),
    MODEL,
    ATTRIBUTE,
    Column("scope", TEXT, "word", "Where the edit is made, as in edits; null without one"),
    _ROLE,
    PROMPT,
    SEED,
    _METRIC,
    _WEIGHTS,
    _WEIGHTS_HASH,
    Column(
        "features", pa.list_(pa.float32()), "vector",
        "What the metric sees of the picture. Pictures with and without an edit go together by unit_id, prompt and "
        "seed",
    ),
    ATTEMPT,
    SCHEMA_VERSION,
)  # fmt: skip

METRICS: Columns = (
    SWEEP_ID,
    MODEL,
    ATTRIBUTE,
    EDIT_ID,
    EDITOR,
    SCOPE,
    _ROLE,
    _METRIC,
    _WEIGHTS,
    _WEIGHTS_HASH,
    Column("value", REAL, "as of the metric", "Mean over the pictures; of a metric of sets its value for all of them"),
    Column(
        "ci_low", REAL, "as of the metric",
        "Lower end of the 95 % interval for prompts like these; of sets it allows for the bias of few pictures, so "
        "that value may lie above the interval. Null without one",
    ),
    Column("ci_high", REAL, "as of the metric", "Upper end of that interval"),
    Column("pictures", INT, "count", "Pictures with the edit, each beside one without it"),
    Column("prompts", INT, "count", "Prompts that they are of"),
    Column("note", TEXT, "text", "Why there is no value or no interval; empty where there are"),
    SCHEMA_VERSION,
    Column(
        "inputs", TEXT, "hash",
        "SHA-256 of all that a distance of sets follows from, the code of its file included: while it stays, the "
        "distance is kept; null of means over pictures",
    ),
)  # fmt: skip

ATTACKS: Columns = (
    SWEEP_ID,
    UNIT_ID,
    MODEL,
    Column(
        "model_revision", TEXT, "id",
        "Weights of the model that was attacked: a commit on the hub, or a hash of the files; of floor those of that "
        "model",
    ),
    ATTRIBUTE,
    ATTRIBUTE_KIND,
    Column("edit_id", TEXT, "id", "Edit that was attacked, as in edits; null of others than edited"),
    Column("editor", TEXT, "name", "Editor of that edit"),
    Column("scope", TEXT, "word", "Where that edit is made, as in edits"),
    Column("attack", TEXT, "name", "Attack, with a hash of code that is not this project's"),
    Column("settings", TEXT, "JSON", "All settings of the attack"),
    Column(
        "who", TEXT, "word",
        "What was attacked: edited, unedited (the same model without the edit), or floor (a model that never learned "
        "the attribute)",
    ),
    Column("floor", TEXT, "name", "Of floor: that model, by its id in the sweep"),
    Column(
        "clean", INT, "count",
        "Pictures that show the attribute and were given to the attacks, those of all seeds together; 0 where none of "
        "many did, so that they were given others",
    ),
    TEMPLATE_ID,
    PROMPT,
    Column("clip_text", TEXT, "text", "Text that says the attribute"),
    SEED,
    Column("judge", TEXT, "name", "What names what is seen, as in evaluations; null where the sign of score decides"),
    Column("judge_said", TEXT, "name", "What the prompt says of the attribute's kind"),
    Column("judge_seen", TEXT, "name", "What is seen of that kind"),
    Column("returned", FLAG, "flag", "Whether what is seen is what the prompt says; false of a picture that is none"),
    Column(
        "score", REAL, "cosine difference",
        "Margin of the picture by the sweep's scorer, as margin_after in evaluations; null of a picture that is none",
    ),
    STATUS,
    SCORER,
    Column("seconds", REAL, "seconds", "Seconds of the unit, divided by its pictures"),
    BATCH_SIZE,
    DEVICE,
    TORCH_VERSION,
    ATTEMPT,
    SCHEMA_VERSION,
)  # fmt: skip

TRIALS: Columns = (
    SWEEP_ID,
    MODEL,
    ATTRIBUTE,
    Column("trial", TEXT, "id", "Trial of the search"),
    EDIT_ID,
    EDITOR,
    _START,
    _SIZE,
    _TOKENS,
    _LAMBDA,
    Column("neurons", REAL, "share", "Share of the output coordinates of every projection; null of other editors"),
    Column("seeds", INT, "count", "Seeds of the select split that it was measured on"),
    Column("pictures", INT, "count", "Pictures that it was measured on"),
    Column("flipped", REAL, "share", "Share of the target pictures that it flipped"),
    Column("neighbour_loss", REAL, "share", "Share of the neighbours' pictures that it spoiled"),
    Column(
        "objective", REAL, "share", "What is maximized: flipped, or -neighbour_loss where that is more than admitted"
    ),
    Column("stopped", FLAG, "flag", "Whether it was stopped before it was measured on all seeds"),
    Column("best", FLAG, "flag", "Whether it is the best trial"),
    Column("search_seed", LONG, "seed", "Seed of the search"),
    _SETTINGS,
    SCHEMA_VERSION,
)  # fmt: skip

"""The columns of the tables that people read: their types, what they mean, and in what unit."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

TEXT, INT, LONG, REAL, FLAG = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: name of the column.
        type: Arrow type of its values.
        unit: unit of a number, or what kind of text a text is: id, name, word, text, JSON, ...
        meaning: what it says, in a sentence without a full stop at its end.
    """

    name: str
    type: pa.DataType
    unit: str
    meaning: str


Columns = tuple[Column, ...]

SWEEP_ID = Column("sweep_id", TEXT, "id", "Sweep; the same after models, prompts, seeds or windows are added")
UNIT_ID = Column("unit_id", TEXT, "id", "Unit of work that computed the row")
MODEL = Column("model", TEXT, "name", "Model, by its id in the sweep")
MODEL_REVISION = Column(
    "model_revision", TEXT, "id", "Weights of the model: a commit on the hub, or a hash of the files"
)
ATTRIBUTE = Column("attribute", TEXT, "name", "Attribute, as kind/name")
ATTRIBUTE_KIND = Column("attribute_kind", TEXT, "word", "Kind of the attribute: style, object, fact, ..")
MODE = Column("mode", TEXT, "word", "Whether donor prompts leave the attribute out (remove) or replace it (replace)")
PROMPT_ID = Column("prompt_id", TEXT, "id", "Prompt record: a hash of prompt and donor prompt")
TEMPLATE_ID = Column("template_id", TEXT, "name", "Template that the prompt came from; empty where none is given")
PROMPT = Column("prompt", TEXT, "text", "Prompt with the attribute")
DONOR = Column("donor", TEXT, "text", "Donor prompt")
SEED = Column("seed", LONG, "seed", "Seed of the initial noise")
SCORER = Column("scorer", TEXT, "name", "Scorer: a CLIP model, a key, or a Python file")
SCORER_REVISION = Column("scorer_revision", TEXT, "id", "Weights or code of the scorer, as a hash or a commit")
BATCH_SIZE = Column("batch_size", INT, "rows", "Rows per batch")
DEVICE = Column("device", TEXT, "name", "Device that computed the row, such as cpu or the name of a GPU")
TORCH_VERSION = Column("torch_version", TEXT, "version", "Version of torch that computed the row")
ATTEMPT = Column("attempt", INT, "count", "Attempt at the unit that the row comes from, from 1")
SCHEMA_VERSION = Column("schema_version", INT, "version", "Version of the tables' schema")
LOCALIZER = Column("localizer", TEXT, "name", "Localizer: a key, or a Python file")
EDITOR = Column("editor", TEXT, "name", "Editor: a key, or a Python file")
EDIT_ID = Column("edit_id", TEXT, "id", "Edit: a hash of all that changes its weights")
SCOPE = Column(
    "scope", TEXT, "word",
    "Where the edit is made: candidates are localized, by_hand or method, or together with other attributes, or in a "
    "sequence; baselines are all_sites, window, placebo or random",
)  # fmt: skip
STATUS = Column("status", TEXT, "word", "ok, or invalid: the picture is blank or has no numbers, and has no score")
COMPARED = Column("compared", FLAG, "flag", "Whether the localizer only compares; false for the one that edits follow")
N_PROMPTS = Column("n_prompts", INT, "count", "Prompts that the row is about")
N_SEEDS = Column("n_seeds", INT, "count", "Seeds that the row is about")
HOLDS_IN = Column(
    "holds_in", INT, "count", "Prompts, of n_prompts, in which the mean effect over the seeds reaches the threshold"
)
PROMPT_SHARE_LOW = Column(
    "prompt_share_low", REAL, "share",
    "Exact lower bound of the share of prompts like these in which the effect reaches the threshold; it pays for the "
    "pick among all windows",
)  # fmt: skip
DAMAGE = Column(
    "damage", REAL, "share",
    "Content lost against the donor prompt, as a share of the difference between own and unrelated content",
)  # fmt: skip

CELL: Columns = (
    SWEEP_ID,
    Column("cell_id", TEXT, "id", "Cell: a picture scored; a hash of all that changes picture and score"),
    Column("image_id", TEXT, "id", "Picture: a hash of all that changes its pixels; several cells may share one"),
    UNIT_ID,
    MODEL,
    MODEL_REVISION,
    Column("family", TEXT, "name", "Family of the model, such as stable_diffusion"),
    ATTRIBUTE,
    ATTRIBUTE_KIND,
    MODE,
    PROMPT_ID,
    TEMPLATE_ID,
    PROMPT,
    DONOR,
    Column(
        "control", TEXT, "word",
        "What the picture is for: clean (no swap), donor (of the donor prompt), window, all_sites, complement (all "
        "sites outside the window), random (a random set of sites), identity (the prompt swapped for itself)",
    ),
    Column("window_start", INT, "site index", "First site of the window, from 0; null where there is no window"),
    Column("window_size", INT, "sites", "Number of sites of the window or the random set; null where there is none"),
    Column("site_indices", pa.list_(INT), "site index", "Sites that read the donor prompt, in execution order"),
    Column("part", TEXT, "word", "What these sites read from the donor prompt: kv, k or v"),
    Column("step_start", INT, "step index", "First denoising step of the swap, from 0"),
    Column("step_end", INT, "step index", "First denoising step after the swap"),
    Column("tokens", TEXT, "word", "Token positions that come from the donor prompt: all, words or padding"),
    Column("guidance_half", TEXT, "word", "Half of classifier-free guidance with the swap"),
    Column("pooled", TEXT, "word", "Which prompt the pooled text vector comes from: prompt or donor"),
    Column(
        "source", TEXT, "word",
        "Where text and image attend to each other: whether K and V of the donor come from its own run, or from the "
        "row's own picture (run, own); weights where they are made from the row's own prompt by another model",
    ),
    SEED,
)  # fmt: skip

SCORES: Columns = (
    *CELL,
    Column("steps", INT, "steps", "Denoising steps"),
    Column("guidance_scale", REAL, "scale", "Scale of classifier-free guidance"),
    Column("scheduler", TEXT, "name", "Class name of the scheduler"),
    Column("height", INT, "pixels", "Height of the picture"),
    Column("width", INT, "pixels", "Width of the picture"),
    Column("dtype", TEXT, "word", "Number format of weights and activations"),
    Column("engine", TEXT, "JSON", "Engine settings that change bits and differ from their defaults"),
    SCORER,
    SCORER_REVISION,
    Column("score_text", TEXT, "text", "Text that says the attribute"),
    Column("donor_text", TEXT, "text", "Text that says what the donor prompt says in its place"),
    Column("content_text", TEXT, "text", "Text that says what must stay"),
    Column(
        "sibling_texts", pa.list_(pa.string()), "texts",
        "Texts that say others of the kind, where the margin is taken against these too; else null",
    ),
    Column("clip_score", REAL, "cosine", "Similarity of the picture and score_text"),
    Column(
        "clip_score_donor", REAL, "cosine",
        "What the margin is taken against: similarity of the picture and donor_text, or, where it is larger, the "
        "largest with one of sibling_texts",
    ),
    Column("clip_score_content", REAL, "cosine", "Similarity of the picture and content_text"),
    Column(
        "clip_score_unrelated", REAL, "cosine",
        "Of clean pictures only: mean similarity with the content texts of the attribute's other prompts",
    ),
    Column(
        "margin_clean", REAL, "cosine difference",
        "clip_score - clip_score_donor of the clean picture that the same unit drew",
    ),
    Column(
        "image_distance", REAL, "0 .. 1",
        "Root mean square difference of pixel values from the clean picture of the same prompt and seed",
    ),
    STATUS,
    BATCH_SIZE,
    DEVICE,
    TORCH_VERSION,
    ATTEMPT,
    Column("seconds", REAL, "seconds", "Time to draw the picture: that of its batch, divided by the batch's pictures"),
    SCHEMA_VERSION,
)  # fmt: skip

FAILURES: Columns = (
    *CELL,
    Column("error_type", TEXT, "name", "Class of the error"),
    Column("error", TEXT, "text", "Message of the error"),
    ATTEMPT,
    DEVICE,
    SCHEMA_VERSION,
)

EMBEDDINGS: Columns = (
    UNIT_ID,
    *(column for column in CELL if column.name in ("cell_id", "image_id")),
    MODEL,
    SCORER,
    SCORER_REVISION,
    Column(
        "embedding", pa.list_(pa.float32()), "vector", "The scorer's embedding of the picture, before normalization"
    ),
)

IMAGE_FIELDS: Columns = (
    UNIT_ID,
    *(column for column in CELL if column.name in ("cell_id", "image_id")),
    MODEL,
    ATTRIBUTE,
    PROMPT,
    Column(
        "control", TEXT, "word", "What the picture is for, as in scores; of edits: before, or edited"
    ),
    Column("window_start", INT, "site index", "First site of the window, from 0; null where there is no window"),
    Column("window_size", INT, "sites", "Number of sites of the window; null where there is none"),
    SEED,
    Column("edit_id", TEXT, "id", "Edit that the picture was drawn with; null of pictures of the sweep"),
    Column("prompt_role", TEXT, "word", "Role of the prompt, as in evaluations; null of pictures of the sweep"),
)  # fmt: skip
IMAGES: Columns = (
    *IMAGE_FIELDS,
    Column(
        "image",
        pa.struct([("bytes", pa.binary()), ("path", TEXT)]),
        "picture file",
        "The encoded picture and a name for it",
    ),
)

EFFECTS: Columns = (
    SWEEP_ID,
    MODEL,
    ATTRIBUTE,
    Column("window_start", INT, "site index", "First site of the window, from 0; of a text encoder's layer its number"),
    Column("window_size", INT, "sites", "Number of sites of the window"),
    Column(
        "effect", REAL, "share",
        "Effect of swapping the window: 0 = no change, 1 = as much as the donor prompt everywhere; null where the "
        "donor prompt has no effect to take a share of",
    ),
    Column(
        "ci_low", REAL, "share",
        "Lower end of the two-sided interval of this window by itself, for the prompts of the sweep. It does not allow "
        "for picking the best of many windows: simultaneous_low does",
    ),
    Column("ci_high", REAL, "share", "Upper end of that interval"),
    Column(
        "simultaneous_low", REAL, "share",
        "One-sided lower bound of the effect that holds for all windows together, for the prompts of the sweep. Being "
        "one-sided it may be above ci_low of localizations",
    ),
    DAMAGE,
    Column("eligible", FLAG, "flag", "Whether the window may be picked: it does not do too much damage"),
    Column(
        "in_tie_set", FLAG, "flag", "Whether the window has the size of the best one and is not told apart from it"
    ),
    N_PROMPTS,
    N_SEEDS,
    Column(
        "flip_rate", REAL, "share",
        "Share of the pictures with the attribute that the swap moves to the donor prompt's side",
    ),
    HOLDS_IN,
    PROMPT_SHARE_LOW,
    LOCALIZER,
    Column(
        "component", TEXT, "word", "denoiser, or text_encoder of one of its layers; its number is window_start"
    ),
    COMPARED,
)  # fmt: skip

LOCALIZATIONS: Columns = (
    SWEEP_ID,
    MODEL,
    ATTRIBUTE,
    ATTRIBUTE_KIND,
    MODE,
    LOCALIZER,
    Column(
        "outcome", TEXT, "word",
        "localized, multiple, redundant, distributed, inconclusive, absent, no_effect, damaging or incomplete",
    ),
    Column("window_start", INT, "site index", "First site of the picked window; null unless the outcome is localized"),
    Column("window_size", INT, "sites", "Number of sites of the picked window; null unless the outcome is localized"),
    Column(
        "best_start", INT, "site index",
        "First site of the best window, which effect, damage and the bounds are about, picked or not",
    ),
    Column("best_size", INT, "sites", "Number of sites of the best window"),
    Column("site_names", pa.list_(TEXT), "name", "Names of the picked window's sites; empty without a pick"),
    Column("relative_depth", REAL, "share", "Centre of the picked window: 0 is the first site, 1 the last"),
    Column(
        "effect", REAL, "share",
        "Effect of the best window (best_start, best_size): 0 = no change, 1 = as much as the donor prompt everywhere",
    ),
    Column(
        "ci_low", REAL, "share",
        "Lower end of the two-sided interval of that effect, for the prompts of the sweep. It allows for picking the "
        "best of all windows, so it is wider than the window's own in effects; of localizers that read traces it is "
        "the pick's own",
    ),
    Column("ci_high", REAL, "share", "Upper end of that interval"),
    Column(
        "runner_up_start", INT, "site index",
        "First site of the best window of the same size that shares no site with the best one",
    ),
    Column("runner_up_effect", REAL, "share", "Effect of that window"),
    Column(
        "tie_set", pa.list_(INT), "site index", "First sites of the windows of that size not told apart from the best"
    ),
    Column(
        "sufficiency", REAL, "share",
        "Share of the effect that stays when only the best window's sites read the prompt; null unless the control "
        "complement was run",
    ),
    DAMAGE,
    Column("all_sites_effect", REAL, "share", "Effect of swapping all sites; null where it was not run"),
    Column("threshold", REAL, "share", "Share of the full effect that a window must remove"),
    Column(
        "about", TEXT, "word", "What the outcome is about: these_pictures, these_prompts or prompts_like_these"
    ),
    HOLDS_IN,
    PROMPT_SHARE_LOW,
    N_PROMPTS,
    N_SEEDS,
    Column("cells", LONG, "count", "Rows of scores behind the outcome; of localizers that read traces, pictures"),
    Column("exploratory", FLAG, "flag", "Whether there are under 8 prompts or 4 seeds"),
    Column(
        "possible_size", INT, "sites",
        "Smallest window size whose upper bound reaches the threshold; below window_size, more pictures may find a "
        "smaller window",
    ),
    Column("reason", TEXT, "text", "The outcome in one sentence, with its reason"),
    COMPARED,
)  # fmt: skip

TRACES: Columns = (
    SWEEP_ID,
    UNIT_ID,
    MODEL,
    ATTRIBUTE,
    ATTRIBUTE_KIND,
    MODE,
    Column("method", TEXT, "name", "Tracer; of one in a Python file with a hash of its code"),
    Column("control", TEXT, "word", "contribution; of causal tracing clean, corrupted or restored"),
    Column("component", TEXT, "word", "denoiser or text_encoder; null where the row is about a whole picture"),
    Column("layer", INT, "site index", "Site, or layer of the text encoder, from 0; null where there is none"),
    Column("layer_name", TEXT, "name", "Name of the layer"),
    PROMPT_ID,
    TEMPLATE_ID,
    PROMPT,
    DONOR,
    SEED,
    Column(
        "value", REAL, "norm, or cosine difference",
        "Norm of what the attribute's words write; of causal tracing, cosine with score_text less that with donor_text",
    ),
    SCORER,
    Column("status", TEXT, "word", "ok, or invalid: there is no value"),
    BATCH_SIZE,
    DEVICE,
    TORCH_VERSION,
    ATTEMPT,
    Column("seconds", REAL, "seconds", "Time of the unit, divided by its rows"),
    SCHEMA_VERSION,
)  # fmt: skip

PROBES: Columns = (
    SWEEP_ID,
    UNIT_ID,
    MODEL,
    MODEL_REVISION,
    Column("batch_size", INT, "rows", "Rows per batch that were tried"),
    Column("seconds_per_image", REAL, "seconds", "Time per picture of a few steps; donor prompts count as no picture"),
    Column("whole_seconds_per_image", REAL, "seconds", "Time per picture of all steps; null of sizes not chosen"),
    Column("chosen", FLAG, "flag", "Whether the sweep uses batches of this size"),
    DEVICE,
    TORCH_VERSION,
    ATTEMPT,
    SCHEMA_VERSION,
)

USAGE: Columns = (
    SWEEP_ID,
    Column("unit_id", TEXT, "id", "File that the rows were written with, by a driver, beside the units of the sweep"),
    Column("run_id", TEXT, "id", "Command that the worker was started by: every run, resume or edit has its own"),
    Column("worker", TEXT, "name", "Worker, by its name in that command"),
    Column("model", TEXT, "name", "Model that the worker had or loaded; empty before the first"),
    Column(
        "device", TEXT, "name",
        "Device of the worker, such as cpu or the name of a GPU; empty where it was lost before it had loaded a model",
    ),
    Column("gpus", INT, "count", "GPUs that the worker held, used or not; 0 on the CPU"),
    Column("began", pa.timestamp("ms", tz="UTC"), "time", "Beginning of the interval, by the clock of the driver"),
    Column(
        "seconds", REAL, "seconds",
        "Length of the interval: loading, computing, scoring, committing and waiting, taken together",
    ),
    Column("loading", REAL, "seconds", "Time to load the model and the scorer, failed attempts included"),
    Column("computing", REAL, "seconds", "Time in units, failed and lost ones included, but for what follows"),
    Column("scoring", REAL, "seconds", "Time in units in which the scorer or the judge looked at pictures"),
    Column("committing", REAL, "seconds", "Time in units in which results were written"),
    Column("waiting", REAL, "seconds", "Time in which the worker had nothing to do"),
    Column(
        "per_gpu_hour", REAL, "price",
        "Price per GPU and hour that the command was given; per worker and hour where workers have no GPU; null "
        "without one",
    ),
    SCHEMA_VERSION,
)  # fmt: skip

"""The model card of an exported edit: what was edited, how, on what, with what figures, and how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from loco_core.editing.base import named
from loco_core.editing.deltas import DENOISER, Provenance, WeightDelta
from loco_core.versions import versions_of

Format = Literal["folder", "lora", "delta"]
_PACKAGES = ("loco-sweep", "diffusers", "transformers", "torch", "safetensors")
# What the hub takes an adapter, and a changed model, for.
_RELATIONS = {"folder": "finetune", "lora": "adapter", "delta": "finetune"}
_TITLES = {"folder": "edited", "lora": "edited by a LoRA", "delta": "edited by new weights of single layers"}


@dataclass(frozen=True)
class Origin:
    """What is known of an edit beside the edit itself.

    Attributes:
        hub_id: the model on the hub; empty of one in a folder or bundled.
        revision: its commit.
        edit_id: id of the edit in the results of a sweep; empty where it was fitted by hand.
        sweep_id: id of the sweep.
        figures: what was measured on prompts and seeds that it was neither fitted nor chosen on, as (what, share).
        second_stage: what enlarges the pictures and is not changed; empty where there is none.
    """

    hub_id: str = ""
    revision: str | None = None
    edit_id: str = ""
    sweep_id: str = ""
    figures: Sequence[tuple[str, str]] = ()
    second_stage: str = ""


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        form: folder, lora or delta.
        file: name of the file of weights; empty where it is a whole pipeline.
        bytes: its size.
        in_words: what it keeps of the edit, in words; empty where it keeps all.
        kept: share of the energy that it keeps of each projection, in words, by component and path.
    """

    form: Format
    file: str = ""
    bytes: int = 0
    in_words: str = ""
    kept: Mapping[str, str] = field(default_factory=dict)


def card(delta: WeightDelta, written: Written, origin: Origin) -> str:
    """Returns the text of the card, with the head that the hub reads.

    Args:
        delta: the edit.
        written: what was written.
        origin: what else is known.
    """
    made = delta.provenance
    parts = (
        f"---\n{yaml.safe_dump(_head(written, origin), sort_keys=False, allow_unicode=True)}---",
        f"# {_plain(made.model)}: {_plain(', '.join(made.attributes))}, {_TITLES[written.form]}",
        f"An edit of {_base(made, origin)}, made with loco-sweep. It changes the weights of "
        f"{_where(made)} so that prompts with the attribute are read as their donors.",
        _loading(made, written, origin),
        "## What was edited",
        _table(("what", "value"), _facts(made, written, origin)),
        _projections(delta, written),
        *_prompts(made),
        "## What was measured",
        *_figures(origin),
        "## What it is not",
        _limits(made, written, origin),
    )
    return "\n\n".join(parts) + "\n"


def _head(written: Written, origin: Origin) -> dict[str, Any]:
    head: dict[str, Any] = {}
    if origin.hub_id:
        head |= {"base_model": origin.hub_id, "base_model_relation": _RELATIONS[written.form]}
    tags = ["text-to-image", "diffusers", *(["lora"] if written.form == "lora" else []), "model-editing", "loco-sweep"]
    return {**head, "library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": tags}


def _base(made: Provenance, origin: Origin) -> str:
    if origin.hub_id:
        at = f" at commit `{origin.revision}`" if origin.revision else ""
        return f"`{origin.hub_id}`{at}"
    return f"the model `{_plain(made.model)}`"


def _where(made: Provenance) -> str:
    """Says which parts change, in words."""
    words = [f"{len(made.sites)} cross-attention sites (K and V)" if part == DENOISER else part
             for part in made.components]  # fmt: skip
    return " and ".join(words)


def _loading(made: Provenance, written: Written, origin: Origin) -> str:
    place = f'"{origin.hub_id}"' if origin.hub_id else '"FOLDER_OF_THE_BASE_MODEL"'
    if origin.hub_id and origin.revision:
        place += f', revision="{origin.revision}"'
    dtype = f"dtype=torch.{made.dtype}"
    lines = {
        "folder": [
            "import torch", "from diffusers import DiffusionPipeline", "",
            f'pipeline = DiffusionPipeline.from_pretrained("PATH_OF_THIS_FOLDER", {dtype})',
        ],
        "lora": [
            "import torch", "from diffusers import DiffusionPipeline", "",
            f"pipeline = DiffusionPipeline.from_pretrained({place}, {dtype})",
            f'pipeline.load_lora_weights("PATH_OF_THIS_FOLDER", weight_name="{written.file}")',
        ],
        "delta": [
            "import loco_core", "",
            f'model = loco_core.load_model({place}, dtype="{made.dtype}")',
            f'with model.edited(loco_core.load_edit("PATH_OF_THIS_FOLDER/{written.file}")):',
            '    picture, = model.draw("PROMPT")',
        ],
    }[written.form]  # fmt: skip
    note = {
        "folder": "", "lora": "\n\ndiffusers needs the package `peft` for it.",
        "delta": "\n\nIt needs the package `loco-sweep`. Applied to a plain pipeline: "
        "`loco_core.apply_edit(pipeline, loco_core.load_edit(..))`.",
    }[written.form]  # fmt: skip
    return "\n".join(["## How to load it", "", "```python", *lines, "```"]) + note


def _facts(made: Provenance, written: Written, origin: Origin) -> list[tuple[str, str]]:
    settings = json.loads(made.settings or "{}")
    rows = [
        ("attribute", ", ".join(made.attributes)),
        ("editor", named(made.editor, settings.get("targets"))),
        ("place picked by", made.localization),
        ("settings", json.dumps(settings, sort_keys=True)),
        ("hash of the base's weights", made.weights),
        ("dtype", made.dtype),
    ]
    if written.file:
        rows.append(("file", f"{written.file}, {size(written.bytes)}"))
    if written.in_words:
        rows.append(("kept", written.in_words))
    if origin.second_stage:
        rows.append(("second stage", f"{origin.second_stage}, unchanged, not part of this"))
    if origin.edit_id:
        rows += [("edit", origin.edit_id), ("sweep", origin.sweep_id)]
    return [
        *rows,
        ("versions", ", ".join(f"{name} {found}" for name, found in versions_of(_PACKAGES, "not installed").items())),
    ]


def _projections(delta: WeightDelta, written: Written) -> str:
    """Lists what changes, of a LoRA with the share of each that it keeps."""
    rows = []
    for change in delta.changes:
        where = "" if change.component == DENOISER else f"{change.component}: "
        count = f"{len(change.rows)} rows"
        kept = written.kept.get(f"{change.component}:{change.module}")
        rows.append((f"`{where}{change.module}`", f"{count}, {kept} of the energy kept" if kept else count))
    return _table(("projection", "what changes"), rows)


def _prompts(made: Provenance) -> list[str]:
    if not made.prompts:
        return []
    rows = [(prompt, donor) for prompt, donor in made.prompts]
    return ["It was fitted on these prompts:", _table(("prompt", "is to read as (donor)"), rows)]


def _figures(origin: Origin) -> list[str]:
    if not origin.figures:
        return ["Nothing: these results hold no evaluation of this edit."]
    return [
        "Shares of pictures of prompts and seeds that it was neither fitted nor chosen on, with 95 % intervals:",
        _table(("what", "share"), list(origin.figures)),
    ]


def _limits(made: Provenance, written: Written, origin: Origin) -> str:
    lines = [
        "It is fitted to the base's weights with the hash above. What it does to others is not known.",
        "It says nothing of prompts, attributes or settings other than those that were measured.",
        "It does not make a model safe: other prompts may still bring the attribute out.",
    ]
    if not origin.figures:
        lines[1] = "Nobody has measured what it does, and what it spares."
    if written.form == "lora" and written.in_words:
        lines.append("It is an approximation where it keeps less than all of the energy.")
    return "\n".join(f"- {line}" for line in lines)


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "\n".join(f"| {_plain(left)} | {_plain(right)} |" for left, right in lines)


def _plain(text: str) -> str:
    """Keeps a text within one cell."""
    return " ".join(text.split()).replace("|", "\\|")


def size(count: int) -> str:
    """Says a size: "1.2 MB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"

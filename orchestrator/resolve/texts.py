"""Which tokenizers on this machine read the texts of a sweep; without torch, see `loco_core.diffusion.checks`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loco_core.diffusion.checks import Place, Reader
from loco_core.diffusion.folders import INDEX, components, place_of, read_object
from loco_core.diffusion.hub import cached_folder
from loco_core.errors import ModelError
from orchestrator.resolve.resolved import ResolvedModel


def prompt_reader(model: ResolvedModel, place: Place) -> Reader | None:
    """Returns what reads a model's prompts; None where it is not on this machine, or only the loaded model can tell.

    Args:
        model: the model.
        place: where the sweep names it.

    Raises:
        ModelError: its folder names no tokenizer.
    """
    reading, folder = model.facts.reading, cached_folder(model.described_in, model.revision, INDEX)
    if reading is None or folder is None:
        return None
    read = reading(read_object(folder / INDEX))
    parts = {part.name: part for part in components(folder)}
    if read.tokenizer not in parts:
        raise ModelError(f"{folder / INDEX} names no {read.tokenizer}, which reads the prompts of a {model.family}")
    there = place_of(folder, parts[read.tokenizer])
    whole = Path(model.described_in).is_dir()
    if not whole and not (there / "tokenizer_config.json").is_file():
        # Of a hub model only what was asked for is here.
        return None
    config = {}
    if read.encoder in parts and (file := place_of(folder, parts[read.encoder]) / "config.json").is_file():
        config = read_object(file)
    # Others cut words of textual inversions into pieces, as they do all that they do not know.
    learns = parts[read.tokenizer].class_name.startswith("CLIP")
    return Reader(
        model.id, str(there), parts[read.tokenizer].class_name, parts[read.tokenizer].library, model.weights,
        read.tokens, _number(config, "max_position_embeddings"), _number(config, "vocab_size"), read.lower, whole,
        place, read.template, model.extras.textual_inversions if learns else (), read.unquoted,
    )  # fmt: skip


def scorer_reader(name: str, path: str, revision: str | None, weights: str) -> Reader | None:
    """Returns what reads a CLIP scorer's texts; None where it is not on this machine.

    Args:
        name: name of the scorer in the sweep.
        path: its folder or hub id.
        revision: commit on the hub; None for a folder.
        weights: hash of its weights.

    Raises:
        ModelError: its configuration is none.
    """
    folder = cached_folder(path, revision, "config.json")
    whole = Path(path).is_dir()
    if folder is None or not (whole or (folder / "tokenizer_config.json").is_file()):
        return None
    found = read_object(folder / "config.json").get("text_config")
    config = found if isinstance(found, dict) else {}
    return Reader(
        name, str(folder), "AutoTokenizer", "transformers", weights, 0, _number(config, "max_position_embeddings"),
        _number(config, "vocab_size"), False, whole, ("scorer",),
    )  # fmt: skip


def _number(config: dict[str, Any], name: str) -> int | None:
    value = config.get(name)
    return value if isinstance(value, int) else None

"""Writes an edit for others: as a whole pipeline, as a LoRA, or as its new weights; each a folder with a model card."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.card import Format, Origin, Written, card
from loco_core.editing.deltas import WeightDelta, applied, to_bytes
from loco_core.editing.lora import LoraSettings, low_rank, percent
from loco_core.editing.lora import to_bytes as lora_bytes
from loco_core.errors import EditError

LORA_FILE = "pytorch_lora_weights.safetensors"
"""What diffusers looks for in a folder."""
DELTA_FILE = "delta.safetensors"
CARD = "README.md"


@dataclass(frozen=True)
class ExportSettings:
    """What is written.

    Attributes:
        form: ``folder`` is a pipeline, edited; ``lora`` its change in a low rank; ``delta`` the new weights alone.
        lora: how a LoRA is made.
    """

    form: Format = "folder"
    lora: LoraSettings = field(default_factory=LoraSettings)


def check_free(out: Path) -> None:
    """Refuses a folder that is there already.

    Raises:
        EditError: it is.
    """
    if out.exists():
        raise EditError(f"{out} exists already; name a new folder")


def check_exportable(delta: WeightDelta, form: Format, what: str) -> None:
    """Refuses edits that live in this runtime alone, where weights are asked for.

    Args:
        delta: the edit.
        form: what is to be written.
        what: the edit, for the message.

    Raises:
        EditError: no weights can hold it.
    """
    if delta.runtime_only and form != "delta":
        raise EditError(
            f"{what} exists in this runtime alone: {delta.runtime_only}; draw with it in Python "
            "(loco_core.Model.edited), export it with --format delta, or export another edit"
        )


def export(
    model: LoadedModel | None, weights: str | None, delta: WeightDelta, out: Path, settings: ExportSettings,
    origin: Origin,
) -> Written:  # fmt: skip
    """Writes an edit; the folder appears whole or not at all.

    Args:
        model: the model that it was fitted on; None where the delta alone is written.
        weights: hash of the model's weights; None takes for granted that they are those of the edit.
        delta: the edit.
        out: the folder, which must not exist.
        settings: what is written.
        origin: what the model card says beside.

    Returns:
        what was written.

    Raises:
        EditError: the folder exists or cannot be written, the edit is of another model, plain diffusers cannot hold it,
            or see :func:`loco_core.editing.lora.low_rank`.
    """
    check_free(out)
    check_exportable(delta, settings.form, "the edit")
    temporary = _beside(out)
    # A folder within the temporary one, which only this user may open: the model is for whoever may read its place.
    made = temporary / "model"
    try:
        made.mkdir()
        written = _write(model, weights, delta, made, settings)
        (made / CARD).write_text(card(delta, written, origin), encoding="utf-8")
        made.rename(out)
    except OSError as error:
        raise EditError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return written


def _write(
    model: LoadedModel | None, weights: str | None, delta: WeightDelta, out: Path, settings: ExportSettings
) -> Written:
    if settings.form == "delta":
        return _file("delta", out / DELTA_FILE, to_bytes(delta))
    assert model is not None
    if settings.form == "folder":
        with applied(model, delta, weights):
            model.pipeline.save_pretrained(out, safe_serialization=True)
        return Written("folder")
    lora = low_rank(model, delta, weights, settings.lora)
    kept = {f"{part.change.component}:{part.change.module}": percent(part.kept) for part in lora.parts}
    return _file("lora", out / LORA_FILE, lora_bytes(lora, delta), lora.in_words, kept)


def _file(form: Format, file: Path, data: bytes, in_words: str = "", kept: Mapping[str, str] | None = None) -> Written:
    file.write_bytes(data)
    return Written(form, file.name, len(data), in_words, kept or {})


def _beside(out: Path) -> Path:
    """Makes a folder of our own beside another, on the same disk: one of a fixed name may be somebody's.

    Raises:
        EditError: it cannot be made.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{out.name[:100]}.", suffix=".partial", dir=out.parent))
    except OSError as error:
        raise EditError(f"{out} cannot be written: {error.strerror or error}") from error

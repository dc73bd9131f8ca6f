"""Edits to fit, save, load, apply and undo. In the examples ``model`` is ``loco_core.load_model("toy")``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from loco_core import plugins
from loco_core.attributes import attribute as bundled
from loco_core.diffusion.checkpoints import family_of_index
from loco_core.diffusion.facts import DEFAULT
from loco_core.diffusion.model import LoadedModel
from loco_core.editing import base
from loco_core.editing.base import Concept, EditSettings, Target
from loco_core.editing.card import Format, Origin, Written
from loco_core.editing.deltas import WeightDelta, read_delta
from loco_core.editing.lora import Naming
from loco_core.errors import EditError, did_you_mean
from loco_core.face.applied import AppliedEdit
from loco_core.face.model import Model
from loco_core.types import Attribute, PromptRecord, Window


def fit_edit(
    model: Model,
    attribute: str | Attribute | Sequence[tuple[str, str]],
    sites: Sequence[int] | Window | None = None,
    *,
    editor: str = "loco_edit",
    preserve: Sequence[str | Attribute] = (),
    **settings: Any,
) -> WeightDelta:
    """Fits an edit that takes an attribute out of a model; the model stays as it is.

    Args:
        model: the model.
        attribute: what is taken out: the name of a bundled attribute such as ``style/lumio``
            (``loco-sweep attributes`` lists them), an :class:`loco_core.Attribute`, or pairs of a prompt with the
            attribute and its donor prompt without it.
        sites: sites whose K and V change, e.g. those that a localizer found; None where the editor is a method with a
            place of its own, such as ``uce``, ``speed`` and ``rece`` (all sites) and ``diff_quick_fix`` (text encoder).
        editor: name of an editor, or a Python file with one.
        preserve: attributes whose prompts must read as before.
        settings: further settings of the edit, see :class:`loco_core.editing.base.EditSettings`, e.g.
            ``strength=0.01`` or ``targets="published"``.

    Returns:
        the edit: new rows of projections and where they come from. ``loco_core.save_edit`` writes it to a file,
        `apply_edit` and ``Model.edited`` apply it.

    Raises:
        SpecError: there is no such attribute or editor.
        EditError: a site admits no edit, sites are missing, a prompt equals its donor, or the attribute has no texts
            to be edited on as published.

    Example:
        >>> import loco_core
        >>> model = loco_core.load_model("toy")
        >>> pairs = [("a red circle in the style of lumio", "a red circle"), ("a star in the style of lumio", "a star")]
        >>> edit = loco_core.fit_edit(model, pairs, sites=[11, 12], strength=0.1)
        >>> edit.provenance.sites, len(edit.changes)
        ((11, 12), 4)
    """
    chosen = EditSettings(editor=editor, preserve=len(preserve), **settings)
    wanted = _attribute(attribute)
    concept = Concept(wanted.key, _records(wanted, chosen))
    kept = tuple(record for item in preserve for record in _records(_attribute(item), chosen))
    target = Target(model.name, model.weights, _sites(model, editor, sites), (concept,), kept)
    return base.fit_edit(model.loaded, target, chosen)


def save_edit(edit: WeightDelta, path: str | Path) -> None:
    """Writes an edit to a safetensors file, as sweeps keep them in ``RESULTS/deltas``.

    Args:
        edit: the edit.
        path: the file; one that is there is replaced.

    Raises:
        EditError: the file cannot be written.

    Example:
        >>> import loco_core, tempfile, pathlib
        >>> edit = loco_core.fit_edit(model, "style/lumio", sites=[11])
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "lumio.safetensors"
        >>> loco_core.save_edit(edit, file)
        >>> loco_core.load_edit(file).provenance == edit.provenance
        True
    """
    from loco_core.editing.deltas import to_bytes

    try:
        Path(path).write_bytes(to_bytes(edit))
    except OSError as error:
        raise EditError(f"{path} cannot be written: {error.strerror or error}") from error


def export_edit(
    model: Model,
    edit: WeightDelta,
    out: str | Path,
    *,
    form: Format = "folder",
    naming: Naming = "diffusers",
    energy: float = 0.999,
    rank: int | None = None,
) -> Written:
    """Writes an edit for others, as a new folder with a model card.

    Args:
        model: the model that it was fitted on.
        edit: the edit.
        out: the folder; it must not exist.
        form: ``folder`` is the whole pipeline with the edit in it; ``lora`` a file that ``load_lora_weights`` of plain
            diffusers takes; ``delta`` a file that `load_edit` takes.
        naming: how a LoRA names modules: ``diffusers``, or ``kohya`` (UNets of Stable Diffusion and their encoders).
        energy: share of the energy of the change, its squared Frobenius norm, that a LoRA keeps in every projection.
        rank: rank of a LoRA; None takes the smallest that keeps it.

    Returns:
        what was written: the file, its size, and in words the rank and the energy kept.

    Raises:
        EditError: the folder exists, the edit is of another model, plain diffusers cannot hold it, or the rank is too
            small.

    Example:
        >>> import loco_core, tempfile, pathlib
        >>> pairs = [("a red circle in the style of lumio", "a red circle"), ("a star in the style of lumio", "a star")]
        >>> edit = loco_core.fit_edit(model, pairs, sites=[11, 12], tokens="last_subject")
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "lumio-lora"
        >>> written = loco_core.export_edit(model, edit, folder, form="lora")
        >>> sorted(file.name for file in folder.iterdir()), written.in_words.partition(",")[0]
        (['README.md', 'pytorch_lora_weights.safetensors'], 'rank 2')
    """
    from loco_core.editing.export import ExportSettings, export
    from loco_core.editing.lora import LoraSettings

    for name, value, known in (("form", form, get_args(Format)), ("naming", naming, get_args(Naming))):
        if value not in known:
            raise EditError(f'no {name} "{value}"{did_you_mean(value, known)}')
    commit = model.weights.removeprefix("hub:")
    origin = Origin(hub_id=model.path, revision=commit) if commit != model.weights else Origin()
    settings = ExportSettings(form, LoraSettings(naming, energy, rank))
    return export(model.loaded, model.weights, edit, Path(out), settings, origin)


def load_edit(path: str | Path) -> WeightDelta:
    """Reads an edit from a file of `save_edit`, or of ``RESULTS/deltas``.

    Args:
        path: the file.

    Raises:
        EditError: it cannot be read, or holds something else.

    Example:
        >>> import loco_core
        >>> loco_core.load_edit("nothing.safetensors")
        Traceback (most recent call last):
        ...
        loco_core.errors.EditError: nothing.safetensors cannot be read: No such file or directory
    """
    return read_delta(path)


def apply_edit(pipeline: Any, edit: WeightDelta) -> AppliedEdit:
    """Applies an edit to a plain diffusers pipeline, or to a model of this package.

    Of a plain pipeline nobody knows the hash of its weights: that they are those the edit was fitted on is taken for
    granted, and only shapes and dtype are compared.

    Args:
        pipeline: a diffusers pipeline of a known family, on any device, or a :class:`loco_core.Model`.
        edit: the edit, from `fit_edit` or `load_edit`.

    Returns:
        what undoes it, bit for bit: its ``undo()``, or the end of a ``with`` block.

    Raises:
        ModelError: no family knows the pipeline's class.
        EditError: the edit was fitted in another dtype, does not fit the model, or cannot act in a plain pipeline, as
            one of the conditional half of guidance alone.

    Example:
        >>> import loco_core, torch
        >>> from diffusers import StableDiffusionPipeline
        >>> edit = loco_core.fit_edit(model, "style/lumio", sites=[11, 12])
        >>> pipeline = StableDiffusionPipeline.from_pretrained(
        ...     model.path, dtype=torch.float32, use_safetensors=True
        ... )
        >>> before = pipeline.unet.state_dict()[edit.changes[0].module + ".weight"].clone()
        >>> in_it = loco_core.apply_edit(pipeline, edit)
        >>> torch.equal(pipeline.unet.state_dict()[edit.changes[0].module + ".weight"], before)
        False
        >>> in_it.undo()
        >>> torch.equal(pipeline.unet.state_dict()[edit.changes[0].module + ".weight"], before)
        True
    """
    if isinstance(pipeline, Model):
        return AppliedEdit(pipeline.loaded, edit, pipeline.weights)
    kind = type(pipeline).__name__
    family = family_of_index({**pipeline.config, "_class_name": kind}, "the pipeline")
    if family == DEFAULT:
        raise EditError(f"the pipeline is a {kind}, which no family serves but the default one; that edits no weights")
    if any(change.conditional is not None for change in edit.changes):
        raise EditError(f"the edit cannot act in a plain pipeline: {edit.runtime_only}; draw with loco_core.load_model")
    module = plugins.load("families", family)
    dtype = str(next(module.Family().denoiser(pipeline).parameters()).dtype).removeprefix("torch.")
    plain = LoadedModel(pipeline, module.Family(), module.INFO, (), str(pipeline.device), dtype)
    return AppliedEdit(plain, edit, None)


def _attribute(said: str | Attribute | Sequence[tuple[str, str]]) -> Attribute:
    if isinstance(said, Attribute):
        return said
    if isinstance(said, str):
        return bundled(said)
    return Attribute("own", "pairs", "remove", tuple(PromptRecord(prompt, donor, "", "", "") for prompt, donor in said))


def _records(attribute: Attribute, settings: EditSettings) -> tuple[PromptRecord, ...]:
    if settings.targets == "paired":
        return attribute.records
    records = attribute.published_records(settings.editor)
    if not records:
        raise EditError(f"{attribute.key} has no texts to be edited on by {settings.editor} as published")
    return records


def _sites(model: Model, editor: str, sites: Sequence[int] | Window | None) -> tuple[int, ...]:
    if isinstance(sites, Window):
        return sites.sites
    if sites is not None:
        return tuple(sites)
    place = base.editor_info(editor).place
    if place is None:
        raise EditError(f"{editor} edits at sites that it is given; expected some, e.g. those that a localizer found")
    return tuple(site.index for site in model.sites if site.text_only) if place == "all_sites" else ()

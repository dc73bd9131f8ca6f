"""A model to draw with: by name, folder or hub id, with swaps, one row or many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loco_core.diffusion import facts
from loco_core.diffusion import model as models
from loco_core.diffusion.checkpoints import family_of_index, lent
from loco_core.diffusion.folders import INDEX
from loco_core.diffusion.hub import on_hub
from loco_core.diffusion.single_files import is_single_file
from loco_core.diffusion.weights import identity, read_json
from loco_core.errors import SpecError
from loco_core.types import Engine, Extras, Generation, Intervention, Row, Site, Window

if TYPE_CHECKING:
    from PIL.Image import Image

    from loco_core.diffusion.model import LoadedModel
    from loco_core.editing.deltas import WeightDelta
    from loco_core.face.applied import AppliedEdit

TOGETHER = 8
"""Rows per forward pass where nobody says how many."""


class Model:
    """A text-to-image model on its device; `load_model` makes one.

    The examples below are of ``model = loco_core.load_model("toy")``.

    Attributes:
        name: name, folder or hub id that it was loaded by.
        loaded: the model underneath, see :class:`loco_core.diffusion.model.LoadedModel`.
        path: its folder, hub id or file.
    """

    def __init__(
        self, name: str, loaded: LoadedModel, family: str, path: str, revision: str | None, extras: Extras
    ) -> None:
        """Takes what `load_model` has loaded.

        Args:
            name: name, folder or hub id that it was loaded by.
            loaded: the model underneath.
            family: key of its family.
            path: its folder, hub id or file.
            revision: commit on the hub; None for a folder.
            extras: what it was loaded with beside its path.
        """
        self.name, self.loaded, self.path = name, loaded, path
        self._family, self._revision, self._extras = family, revision, extras

    def __repr__(self) -> str:
        return f"Model({self.name!r}: {len(self.sites)} sites, {self.loaded.dtype} on {self.loaded.device})"

    @property
    def sites(self) -> tuple[Site, ...]:
        """The places where text enters the denoiser, in execution order; see :class:`loco_core.Site`.

        Example:
            >>> model.sites[0].name, len(model.sites)
            ('down_blocks.0.attentions.0', 16)
        """
        return self.loaded.sites

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline underneath."""
        return self.loaded.pipeline

    @cached_property
    def weights(self) -> str:
        """Hash of all that it was loaded from, as sweeps record it; of a hub model alone ``hub:`` and its commit.

        Edits carry it. A folder is read whole for it, once.

        Raises:
            ModelError: the folder is gone or damaged.
        """
        return identity(self.path, self._revision, facts.left_out(self._family), self._extras)[0]

    def draw(
        self,
        prompt: str | Sequence[str],
        donor: str | Sequence[str] | None = None,
        swap: Window | Intervention | Sequence[int] | Sequence[Intervention] = (),
        *,
        seed: int | Sequence[int] = 0,
        steps: int = 50,
        guidance_scale: float = 7.5,
        height: int | None = None,
        width: int | None = None,
        scheduler: str | None = None,
        batch_size: int | None = None,
    ) -> list[Image]:
        """Draws pictures, each with a swap of its own.

        At the sites of a swap, K and V are made from the donor prompt instead of the prompt. What is given once holds
        for all rows; what is given as a list has one entry per row.

        Args:
            prompt: what all sites read where no swap says otherwise.
            donor: what the sites of the swap read; needed with a swap only.
            swap: sites that read the donor: a window, a list of site numbers, or an :class:`loco_core.Intervention`
                with its further options, or one of these per row.
            seed: seed of the initial noise, which is drawn on the CPU.
            steps: denoising steps.
            guidance_scale: scale of classifier-free guidance; of a distilled model the number that it reads.
            height: pixels; None is the model's own.
            width: pixels; None is the model's own.
            scheduler: diffusers class of another scheduler; None keeps the model's own.
            batch_size: rows per forward pass, to which the last batch is filled up. Pictures are equal bit for bit
                between calls with the same batch size; None takes as many as there are rows, at most 8.

        Returns:
            one RGB picture per row, of height x width pixels; black where generation failed.

        Raises:
            SpecError: lists differ in length, or a swap has no donor.
            ModelError: a site is not in the model, or the scheduler is unknown or cannot take the steps.

        Example:
            >>> import loco_core
            >>> prompt, donor = "a red circle in the style of lumio", "a red circle"
            >>> clean, swapped = model.draw(
            ...     prompt, donor, [loco_core.Intervention(), loco_core.Intervention((11, 12))],
            ...     steps=4, guidance_scale=3.0,
            ... )
            >>> clean.size, clean == swapped
            ((32, 32), False)
        """
        swaps = _swaps(swap)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        donors = [donor] if donor is None or isinstance(donor, str) else list(donor)
        seeds = list(seed) if isinstance(seed, Sequence) else [seed]
        lengths = {"prompt": len(prompts), "donor": len(donors), "seed": len(seeds), "swap": len(swaps)}
        count = max(lengths.values())
        for name, length in lengths.items():
            if length not in (1, count):
                raise SpecError(f"{length} values of {name} for {count} rows; expected one, or one per row")
        rows = []
        for at in range(count):
            text, other, does = prompts[at % len(prompts)], donors[at % len(donors)], swaps[at % len(swaps)]
            if other is None and (does.sites or does.pooled == "donor"):
                raise SpecError("a swap needs what its sites read instead; expected a donor, e.g. the prompt without X")
            rows.append(Row(text, text if other is None else other, seeds[at % len(seeds)], does))
        settings = Generation(steps, guidance_scale, height, width, scheduler)
        return self.draw_rows(rows, settings, batch_size)

    def draw_rows(
        self, rows: Sequence[Row], settings: Generation | None = None, batch_size: int | None = None
    ) -> list[Image]:
        """Draws rows as a sweep draws them; see `draw` for the errors.

        Args:
            rows: one :class:`loco_core.Row` per picture.
            settings: settings of the generation, the same for all rows; None takes the defaults.
            batch_size: rows per forward pass; see `draw`.

        Returns:
            one RGB picture per row.

        Example:
            >>> import loco_core
            >>> rows = [loco_core.Row("a blue star", "a blue star", seed) for seed in range(2)]
            >>> [picture.mode for picture in model.draw_rows(rows, loco_core.Generation(steps=2, guidance_scale=3.0))]
            ['RGB', 'RGB']
        """
        from loco_core.diffusion.generate import generate
        from loco_core.diffusion.pictures import to_picture

        # A row that reads an evolving text has its donor drawn beside it.
        beside = self.loaded.facts.stream == "evolving" and any(row.intervention.sites for row in rows)
        size = batch_size or min(TOGETHER, max(len(rows), 1) * (2 if beside else 1))
        batches = generate(self.loaded, rows, settings or Generation(), size)
        return [to_picture(image) for batch in batches for image in batch.images]

    def edited(self, edit: WeightDelta) -> AppliedEdit:
        """Applies an edit; within a ``with`` block for as long as that lasts.

        Args:
            edit: an edit that was fitted on these weights, from `loco_core.fit_edit` or `loco_core.load_edit`.

        Returns:
            what undoes it, bit for bit: its ``undo()``, or the end of a ``with`` block.

        Raises:
            EditError: the edit was fitted on other weights or in another dtype, or does not fit the model.

        Example:
            >>> import loco_core
            >>> edit = loco_core.fit_edit(model, "style/lumio", sites=[11, 12])
            >>> def draw():
            ...     return model.draw("a red circle in the style of lumio", steps=4, guidance_scale=3.0)[0]
            >>> before = draw()
            >>> with model.edited(edit):
            ...     inside = draw()
            >>> inside == before, draw() == before
            (False, True)
        """
        from loco_core.face.applied import AppliedEdit

        return AppliedEdit(self.loaded, edit, self.weights)


def load_model(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str = "float32",
    engine: Engine | None = None,
    extras: Extras | None = None,
) -> Model:
    """Loads a model onto a device, from safetensors only.

    Args:
        name: name that a family knows (``loco-sweep models`` lists them), a folder of a diffusers pipeline, a hub id
            such as ``owner/name``, or a checkpoint in one safetensors file.
        revision: commit, tag or branch on the hub; None for a folder, or for the commit that the family was written
            against.
        device: e.g. ``cuda`` or ``cpu``; None takes a GPU where torch sees one.
        dtype: dtype of weights and activations: ``float32``, ``float16`` or ``bfloat16``.
        engine: how it computes, e.g. ``loco_core.Engine(offload="model")``; None takes the defaults.
        extras: LoRAs, words of textual inversions, a variant of the weights, and the pipeline that lends a single file
            its configuration, e.g. ``loco_core.Extras(loras=(loco_core.Lora("a.safetensors", 0.8),))``; None for none.

    Raises:
        SpecError: there is no such name, folder or hub id.
        ModelError: it is no pipeline of a known family, or cannot be loaded.
        OutOfMemoryError: it does not fit into memory.

    Example:
        >>> import loco_core
        >>> loco_core.load_model("toy", device="cpu")
        Model('toy': 16 sites, float32 on cpu)
    """
    import torch

    from loco_core.checking.trial import try_out

    path, family, extras = str(name), "", extras or Extras()
    if is_single_file(path):
        found = lent(path, revision, extras)
        family, revision, extras = found.family, found.revision, found.extras
    elif Path(path).is_dir() or on_hub(path):
        family = family_of_index(read_json(path, revision, INDEX), path)
    else:
        family, info = facts.find_model(path)
        path, revision = str(info.path or info.hub_id), revision or info.revision
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    loaded = models.load_model(family, path, revision, dtype, device, engine, extras=extras)
    if family == facts.DEFAULT:
        # Nobody has checked how it is drawn.
        try_out(loaded, str(name))
    return Model(str(name), loaded, family, path, revision, extras)


def _swaps(swap: Window | Intervention | Sequence[int] | Sequence[Intervention]) -> list[Intervention]:
    if isinstance(swap, Intervention):
        return [swap]
    if isinstance(swap, Window):
        return [Intervention(swap.sites)]
    if all(isinstance(item, Intervention) for item in swap) and swap:
        return [replace(item) for item in swap if isinstance(item, Intervention)]
    return [Intervention(tuple(int(item) for item in swap if not isinstance(item, Intervention)))]

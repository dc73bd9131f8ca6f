"""The intervention itself: which prompt each row of a batch reads at each cross-attention site.

While a pipeline runs, the forward of every site's K and V projection of the text is replaced, so that rows with
different prompts, donors, windows and steps share one forward pass. This is the intervention of LocoGen (Basu et al.,
section 4.2: K and V of the selected layers are computed from the target prompt), row by row. Where the text is the same
at every step, K and V of every prompt are computed once and looked up. Where text and image attend to each other the
text evolves with the picture: there a row reads, at that site and step, K and V of a row that draws the donor from the
same noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from loco_core.diffusion.cutting import draws
from loco_core.diffusion.engine import device_of, replaced_forwards
from loco_core.diffusion.model import LoadedModel, PromptEmbeds
from loco_core.diffusion.sites import outputs
from loco_core.types import Row

# How a prompt enters the table of encoded prompts: donors are encoded apart from prompts of the same text, so that an
# identity swap exercises the whole path.
PromptKey = tuple[str, str]
# Some schedulers run the denoiser more often than there are steps (PNDM 51 times for 50, Heun 99 times): "to the
# end" is the end of the loop, whatever it counts to.
NEVER = 2**31
UNCONDITIONAL: PromptKey = ("unconditional", "")


def prompt_keys(rows: Sequence[Row]) -> list[PromptKey]:
    """Returns every text that the rows read, the empty prompt first, each once."""
    found = dict.fromkeys([UNCONDITIONAL])
    for row in rows:
        found[("prompt", row.prompt)] = None
        if row.intervention.sites or row.intervention.pooled == "donor":
            found[("donor", row.donor)] = None
    return list(found)


@dataclass(frozen=True)
class _Plan:
    """What each row of the denoiser's batch reads; ``m`` rows (the unconditional half first where there is one).

    Attributes:
        base: ``(m,)`` prompt number read where no intervention says otherwise.
        donor: ``(m,)`` prompt number read by the intervention.
        source: ``(m,)`` row of the batch that draws the donor; itself where nothing is read from another.
        swap: ``(2, sites, m)`` whether the intervention covers K (0) or V (1) at a site.
        first: ``(m,)`` first step of the intervention.
        end: ``(m,)`` first step after it.
        tokens: ``(m, tokens)`` positions taken from the donor; None where all rows take all.
        count: positions of the text.
    """

    base: torch.Tensor
    donor: torch.Tensor
    source: torch.Tensor
    swap: torch.Tensor
    first: torch.Tensor
    end: torch.Tensor
    tokens: torch.Tensor | None
    count: int


class Router:
    """Routes prompts to rows while a denoiser runs.

    Attributes:
        step: the denoising step now running, from 0.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._denoiser = model.family.denoiser(model.pipeline)
        self._evolves = model.facts.stream == "evolving"
        self.step = 0

    @contextmanager
    def route(
        self, keys: Sequence[PromptKey], prompts: PromptEmbeds, rows: Sequence[Row], steps: int, guided: bool
    ) -> Iterator[None]:
        """Replaces the projections of all sites for the rows of one batch.

        Args:
            keys: the texts behind ``prompts``, from :func:`prompt_keys`.
            prompts: those texts encoded, in the same order.
            rows: one image each, in the order of the batch; where the text evolves, sources among them.
            steps: denoising steps of the generation.
            guided: whether the batch has an unconditional half (in front of the conditional one).
        """
        plan = self._plan(keys, prompts, rows, steps, guided)
        counter = self._denoiser.register_forward_pre_hook(self._count)
        try:
            tables = {} if self._evolves else self._tables(prompts)
            self.step = -1
            self._model.running.conditional = torch.arange(len(plan.base)) >= len(plan.base) - len(rows)
            with replaced_forwards() as replace:
                for site in self._model.sites:
                    for part, path in enumerate((site.key_path, site.value_path)):
                        projection = self._denoiser.get_submodule(path)
                        forward = (
                            self._borrow(projection, plan, part, site.index)
                            if self._evolves
                            else self._look_up(tables[path], plan, part, site.index)
                        )
                        replace(projection, forward)
                    if prompts.mask is not None:
                        attention = self._denoiser.get_submodule(site.key_path.rpartition(".")[0])
                        replace(attention, self._masked(attention, prompts.mask, plan, site.index))
                yield
        finally:
            counter.remove()
            self._model.running.conditional = None

    def _count(self, *_: Any) -> None:
        self.step += 1

    def _tables(self, prompts: PromptEmbeds) -> dict[str, torch.Tensor]:
        """Returns what every projection makes of every prompt: ``(prompts, tokens, width)`` by path.

        A text has no half of guidance yet: an edit that holds one holds rows of the batch, after they are looked up.
        """
        paths = [path for site in self._model.sites for path in (site.key_path, site.value_path)]
        self._model.running.conditional = torch.zeros(len(prompts.embeds), dtype=torch.bool)
        with outputs(self._denoiser, paths) as found, torch.no_grad():
            self._model.family.forward(self._model.pipeline, prompts)
        return found

    def _plan(
        self, keys: Sequence[PromptKey], prompts: PromptEmbeds, rows: Sequence[Row], steps: int, guided: bool
    ) -> _Plan:
        number = {key: index for index, key in enumerate(keys)}
        halves = ("unconditional", "conditional") if guided else ("conditional",)
        # Read from, whichever half reads: the conditional row of the donor.
        drawn = {draws(row): len(rows) * (len(halves) - 1) + r for r, row in enumerate(rows)}
        device = device_of(self._denoiser)
        base, donor, source, first, end = [], [], [], [], []
        swap = torch.zeros(2, len(self._model.sites), len(halves) * len(rows), dtype=torch.bool)
        for h, half in enumerate(halves):
            for r, row in enumerate(rows):
                does, at = row.intervention, h * len(rows) + r
                base.append(number[("prompt", row.prompt) if half == "conditional" else UNCONDITIONAL])
                donor.append(number[("donor", row.donor)] if does.sites else base[-1])
                source.append(drawn[row.donor, row.seed] if self._evolves and does.sites else at)
                first.append(does.step_start)
                end.append(NEVER if does.step_end is None or does.step_end >= steps else does.step_end)
                if does.guidance_half in (half, "both"):
                    for part, letter in enumerate("kv"):
                        swap[part, list(does.sites), at] = letter in does.part
        base_, donor_ = torch.tensor(base, device=device), torch.tensor(donor, device=device)
        tokens = None
        if any(row.intervention.tokens != "all" for row in rows):
            words = prompts.words[base_] | prompts.words[donor_]
            kind = [row.intervention.tokens for row in rows] * len(halves)
            tokens = torch.stack([_positions(words[i], name) for i, name in enumerate(kind)])
        return _Plan(
            base_, donor_, torch.tensor(source, device=device), swap.to(device), torch.tensor(first, device=device),
            torch.tensor(end, device=device), tokens, prompts.embeds.shape[1],
        )  # fmt: skip

    def _active(self, plan: _Plan, part: int, site: int) -> torch.Tensor:
        return plan.swap[part, site] & (plan.first <= self.step) & (self.step < plan.end)

    def _look_up(self, table: torch.Tensor, plan: _Plan, part: int, site: int):  # type: ignore[no-untyped-def]
        """Returns a forward that ignores its input and gives ``(m, tokens, width)`` from the table."""

        def forward(_: torch.Tensor) -> torch.Tensor:
            active = self._active(plan, part, site)
            if plan.tokens is None:
                return table[torch.where(active, plan.donor, plan.base)]
            taken = (active[:, None] & plan.tokens)[..., None]
            return torch.where(taken, table[plan.donor], table[plan.base])

        return forward

    def _borrow(self, projection: torch.nn.Module, plan: _Plan, part: int, site: int):  # type: ignore[no-untyped-def]
        """Returns a forward that gives rows what it makes of the text of their sources; image tokens stay."""
        original = projection.forward

        def forward(given: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = original(given)
            active = self._active(plan, part, site)[:, None]
            taken = active.expand(-1, plan.count) if plan.tokens is None else active & plan.tokens
            # In blocks that the text shares with the image it stands in front.
            taken = torch.nn.functional.pad(taken, (0, made.shape[1] - plan.count))
            return torch.where(taken[..., None], made[plan.source], made)

        return forward

    def _masked(self, attention: torch.nn.Module, mask: torch.Tensor, plan: _Plan, site: int):  # type: ignore[no-untyped-def]
        """Returns a forward of an attention whose mask of padding goes with the text that K comes from."""
        original = attention.forward

        def forward(*args: Any, attention_mask: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            taken = self._active(plan, 0, site)[:, None]
            if plan.tokens is not None:
                taken = taken & plan.tokens
            seen = torch.where(taken, mask[plan.donor], mask[plan.base]).to(attention_mask.dtype)
            # As diffusers turns a mask into something to add to the scores.
            made: torch.Tensor = original(*args, attention_mask=((1 - seen) * -10000.0)[:, None], **kwargs)
            return made

        return forward


def _positions(words: torch.Tensor, tokens: str) -> torch.Tensor:
    if tokens == "all":
        return torch.ones_like(words)
    return words if tokens == "words" else ~words

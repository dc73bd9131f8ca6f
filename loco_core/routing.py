"""The intervention itself: which prompt each row of a batch reads at each cross-attention site.

Every site's K and V projections of every prompt are computed once. While a pipeline runs, the projections' forward is
replaced by a look-up that gives each row the K and V of its own prompt or donor, so that rows with different prompts,
donors, windows and steps share one forward pass. This is the intervention of LocoGen (Basu et al., ICML 2024, section
4.2: K and V of the selected layers are computed from the target prompt), row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from loco_core.models import PromptEmbeds
from loco_core.types import Row, Site

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
        if row.intervention.sites:
            found[("donor", row.donor)] = None
    return list(found)


@dataclass(frozen=True)
class _Plan:
    """What each row of the denoiser's batch reads; ``m`` rows (the unconditional half first where there is one).

    Attributes:
        base: ``(m,)`` prompt number read where no intervention says otherwise.
        donor: ``(m,)`` prompt number read by the intervention.
        swap: ``(2, sites, m)`` whether the intervention covers K (0) or V (1) at a site.
        first: ``(m,)`` first step of the intervention.
        end: ``(m,)`` first step after it.
        tokens: ``(m, tokens)`` positions taken from the donor; None where all rows take all.
    """

    base: torch.Tensor
    donor: torch.Tensor
    swap: torch.Tensor
    first: torch.Tensor
    end: torch.Tensor
    tokens: torch.Tensor | None


class Router:
    """Routes prompts to rows while a denoiser runs.

    Attributes:
        step: the denoising step now running, from 0; whoever drives the pipeline counts it up.
    """

    def __init__(self, denoiser: torch.nn.Module, sites: Sequence[Site]) -> None:
        self._denoiser = denoiser
        self._sites = tuple(sites)
        self.step = 0

    @contextmanager
    def route(
        self, keys: Sequence[PromptKey], prompts: PromptEmbeds, rows: Sequence[Row], steps: int, guided: bool
    ) -> Iterator[None]:
        """Replaces the projections of all sites by look-ups for the rows of one batch.

        Args:
            keys: the texts behind ``prompts``, from :func:`prompt_keys`.
            prompts: those texts encoded, in the same order.
            rows: one image each, in the order of the batch.
            steps: denoising steps of the generation.
            guided: whether the batch has an unconditional half (in front of the conditional one).
        """
        plan = self._plan(keys, prompts, rows, steps, guided)
        patched: list[torch.nn.Module] = []
        self.step = 0
        try:
            for site in self._sites:
                for part, path in enumerate((site.key_path, site.value_path)):
                    projection = self._denoiser.get_submodule(path)
                    with torch.no_grad():
                        table = projection(prompts.embeds)
                    projection.forward = self._look_up(table, plan, part, site.index)
                    patched.append(projection)
            yield
        finally:
            for projection in patched:
                del projection.forward

    def _plan(
        self, keys: Sequence[PromptKey], prompts: PromptEmbeds, rows: Sequence[Row], steps: int, guided: bool
    ) -> _Plan:
        number = {key: index for index, key in enumerate(keys)}
        halves = ("unconditional", "conditional") if guided else ("conditional",)
        device = prompts.embeds.device
        base, donor, first, end = [], [], [], []
        swap = torch.zeros(2, len(self._sites), len(halves) * len(rows), dtype=torch.bool)
        for h, half in enumerate(halves):
            for r, row in enumerate(rows):
                does, at = row.intervention, h * len(rows) + r
                base.append(number[("prompt", row.prompt) if half == "conditional" else UNCONDITIONAL])
                donor.append(number[("donor", row.donor)] if does.sites else base[-1])
                first.append(does.step_start)
                end.append(NEVER if does.step_end is None or does.step_end >= steps else does.step_end)
                if does.guidance_half in (half, "both"):
                    for part, letter in enumerate("kv"):
                        swap[part, list(does.sites), at] = letter in does.part
        base_, donor_ = torch.tensor(base, device=device), torch.tensor(donor, device=device)
        tokens = None
        if any(row.intervention.tokens != "all" for row in rows):
            position = torch.arange(prompts.embeds.shape[1], device=device)
            words = position < torch.maximum(prompts.words_end[base_], prompts.words_end[donor_])[:, None]
            kind = [row.intervention.tokens for row in rows] * len(halves)
            tokens = torch.stack([_positions(words[i], name) for i, name in enumerate(kind)])
        return _Plan(
            base_, donor_, swap.to(device), torch.tensor(first, device=device), torch.tensor(end, device=device), tokens
        )

    def _look_up(self, table: torch.Tensor, plan: _Plan, part: int, site: int):  # type: ignore[no-untyped-def]
        """Returns a forward that ignores its input and gives ``(m, tokens, width)`` from the table."""

        def forward(_: torch.Tensor) -> torch.Tensor:
            active = plan.swap[part, site] & (plan.first <= self.step) & (self.step < plan.end)
            if plan.tokens is None:
                return table[torch.where(active, plan.donor, plan.base)]
            taken = (active[:, None] & plan.tokens)[..., None]
            return torch.where(taken, table[plan.donor], table[plan.base])

        return forward


def _positions(words: torch.Tensor, tokens: str) -> torch.Tensor:
    if tokens == "all":
        return torch.ones_like(words)
    return words if tokens == "words" else ~words

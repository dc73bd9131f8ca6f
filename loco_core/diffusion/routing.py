"""The intervention itself: which prompt each row of a batch reads at each cross-attention site.

While a pipeline runs, the forward of every site's K and V projection of the text is replaced, so that rows with
different prompts, donors, windows and steps share one forward pass. This is the intervention of LocoGen (Basu et al.,
section 4.2: K and V of the selected layers are computed from the target prompt), row by row. Where the text is the same
at every step, K and V of every prompt are computed once and looked up. Where text and image attend to each other the
text evolves with the picture: there a row reads, at that site and step, K and V of a row that draws the donor from the
same noise.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from loco_core.diffusion.cutting import draws, follows, reads_own
from loco_core.diffusion.engine import device_of, replaced_forwards
from loco_core.diffusion.facts import UNGUIDED, Half
from loco_core.diffusion.model import LoadedModel, PromptEmbeds
from loco_core.diffusion.packed import hidden, refiners
from loco_core.diffusion.sites import outputs
from loco_core.errors import ModelError
from loco_core.types import Row

# How a prompt enters the table of encoded prompts: donors are encoded apart from prompts of the same text, so that an
# identity swap exercises the whole path.
PromptKey = tuple[str, str]
# Some schedulers run the denoiser more often than there are steps (PNDM 51 times for 50, Heun 99 times): "to the
# end" is the end of the loop, whatever it counts to.
NEVER = 2**31
UNCONDITIONAL: PromptKey = ("unconditional", "")
NOISY = ("hidden_states", "sample", "x")
"""Arguments that denoisers take noisy pictures by; others take them in the first place."""


def prompt_keys(rows: Sequence[Row]) -> list[PromptKey]:
    """Returns every text that the rows read, the empty prompt first, each once."""
    found = dict.fromkeys([UNCONDITIONAL])
    for row in rows:
        found[("prompt", row.prompt)] = None
        swaps = row.intervention.sites and row.intervention.source != "weights"
        if swaps or row.intervention.pooled == "donor":
            found[("donor", row.donor)] = None
    return list(found)


@dataclass(frozen=True)
class _Plan:
    """What each row of one call of the denoiser reads; ``m`` rows, those of a half of guidance behind each other.

    Attributes:
        base: ``(m,)`` prompt number read where no intervention says otherwise.
        donor: ``(m,)`` prompt number read by the intervention.
        read: the same as a row of a projection's table, where what the donor's weights make of the prompts stands
            behind what the model's own make of them.
        source: ``(m,)`` row that draws the donor, of the call that holds the conditional half; itself where nothing is
            read from another.
        swap: ``(2, sites, m)`` whether the intervention covers K (0) or V (1) at a site.
        first: ``(m,)`` first step of the intervention.
        end: ``(m,)`` first step after it.
        tokens: ``(m, tokens)`` positions taken from the donor; None where all rows take all.
        count: positions of the text.
        conditional: ``(m,)`` whether a row is of the conditional half.
        drawn: whether the rows that draw donors are of this call; else they were of an earlier one.
        touched: paths of the projections of which a row reads a donor's, at some step.
    """

    base: torch.Tensor
    donor: torch.Tensor
    read: torch.Tensor
    source: torch.Tensor
    swap: torch.Tensor
    first: torch.Tensor
    end: torch.Tensor
    tokens: torch.Tensor | None
    count: int
    conditional: torch.Tensor
    drawn: bool
    touched: frozenset[str]


@dataclass(frozen=True)
class _Part:
    """K or V of a site.

    Attributes:
        letter: K (0) or V (1).
        site: number of the site.
        columns: columns of the projection's output; None where it gives nothing else.
    """

    letter: int
    site: int
    columns: tuple[int, int] | None


class Router:
    """Routes prompts to rows while a denoiser runs.

    Attributes:
        step: the denoising step now running, from 0.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._denoiser = model.family.denoiser(model.pipeline)
        self._evolves = model.facts.stream == "evolving"
        # What the sites take from every projection, by its path.
        self._parts: dict[str, list[_Part]] = {}
        for site in model.sites:
            self._parts.setdefault(site.key_path, []).append(_Part(0, site.index, site.key_columns))
            self._parts.setdefault(site.value_path, []).append(_Part(1, site.index, site.value_columns))
        self._calls = 0
        self._plans: list[_Plan] = []
        self._now: _Plan
        # What projections made of the text in a call whose donors a later one reads, by path.
        self._kept: dict[str, torch.Tensor] = {}
        self._later: frozenset[str] = frozenset()
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
            guided: whether there is an unconditional half.
        """
        passes = self._model.facts.passes if guided else UNGUIDED
        self._plans = [self._plan(keys, prompts, rows, steps, halves) for halves in passes]
        self._later = frozenset(path for plan in self._plans if not plan.drawn for path in plan.touched)
        others = any(row.intervention.source == "weights" for row in rows)
        tables = {} if self._evolves else self._tables(prompts, (self._model.donor or {}) if others else {})
        self._calls = 0
        counter = self._denoiser.register_forward_pre_hook(self._count)
        following = self._denoiser.register_forward_pre_hook(
            partial(_follow, _followed(rows), len(rows)), with_kwargs=True
        )
        try:
            with replaced_forwards() as replace, ExitStack() as stack:
                for path, parts in self._parts.items():
                    projection = self._denoiser.get_submodule(path)
                    forward = (
                        self._borrow(path, projection, parts) if self._evolves else self._look_up(tables[path], parts)
                    )
                    replace(projection, forward)
                if prompts.mask is not None and self._model.family.mask_argument:
                    for site in self._model.sites:
                        attention = self._denoiser.get_submodule(site.attention_path)
                        replace(attention, self._masked(attention, prompts.mask, site.index))
                    stack.enter_context(self._placing(prompts.mask))
                elif prompts.mask is not None and not prompts.mask.all():
                    self._hide(prompts.mask, stack)
                yield
        finally:
            counter.remove()
            following.remove()
            self._kept.clear()
            self._model.running.conditional = None

    def _count(self, *_: Any) -> None:
        self.step, number = divmod(self._calls, len(self._plans))
        self._now = self._plans[number]
        self._model.running.conditional = self._now.conditional
        self._calls += 1

    def _tables(self, prompts: PromptEmbeds, others: Mapping[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
        """Returns what every projection makes of every prompt: ``(prompts, tokens, width)`` by path.

        A text has no half of guidance yet: an edit that holds one holds rows of the batch, after they are looked up.

        Args:
            prompts: the encoded texts.
            others: projections of the donor by path; what they make of the same prompts stands behind.
        """
        self._model.running.conditional = torch.zeros(len(prompts.embeds), dtype=torch.bool)
        try:
            with (
                outputs(self._denoiser, list(self._parts)) as found,
                outputs(self._denoiser, list(others), others) as theirs,
                torch.no_grad(),
            ):
                self._model.family.forward(self._model.pipeline, prompts)
        finally:
            self._model.running.conditional = None
        return {path: torch.cat([made, theirs[path]]) if others else made for path, made in found.items()}

    def _plan(
        self,
        keys: Sequence[PromptKey],
        prompts: PromptEmbeds,
        rows: Sequence[Row],
        steps: int,
        halves: Sequence[Half],
    ) -> _Plan:
        number = {key: index for index, key in enumerate(keys)}
        # Read from, whichever half reads: the conditional row of the donor.
        behind = len(rows) * halves.index("conditional") if "conditional" in halves else 0
        drawn = {draws(row): behind + r for r, row in enumerate(rows)}
        own = {reader: behind + r for r, reader in _followed(rows).items()}
        device = device_of(self._denoiser)
        base, donor, read, source, first, end = [], [], [], [], [], []
        swap = torch.zeros(2, len(self._model.sites), len(halves) * len(rows), dtype=torch.bool)
        for h, half in enumerate(halves):
            for r, row in enumerate(rows):
                does, at = row.intervention, h * len(rows) + r
                base.append(number[("prompt", row.prompt) if half == "conditional" else UNCONDITIONAL])
                weights = does.source == "weights"
                donor.append(number[("donor", row.donor)] if does.sites and not weights else base[-1])
                read.append(donor[-1] + len(keys) * weights)
                reads = self._evolves and does.sites
                source.append((own[r] if r in own else drawn[row.donor, row.seed]) if reads else at)
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
        conditional = torch.tensor([half == "conditional" for half in halves]).repeat_interleave(len(rows))
        touched = frozenset(
            path
            for path, parts in self._parts.items()
            if any(bool(swap[part.letter, part.site].any()) for part in parts)
        )
        return _Plan(
            base_, donor_, torch.tensor(read, device=device), torch.tensor(source, device=device), swap.to(device),
            torch.tensor(first, device=device), torch.tensor(end, device=device), tokens, prompts.embeds.shape[1],
            conditional, "conditional" in halves, touched,
        )  # fmt: skip

    def _active(self, plan: _Plan, part: int, site: int) -> torch.Tensor:
        return plan.swap[part, site] & (plan.first <= self.step) & (self.step < plan.end)

    def _taken(self, plan: _Plan, part: int, site: int) -> torch.Tensor:
        """Returns which positions of each row come from the donor: ``(m, tokens)``, or ``(m, 1)`` for all alike."""
        active = self._active(plan, part, site)[:, None]
        return active if plan.tokens is None else active & plan.tokens

    def _look_up(self, table: torch.Tensor, parts: Sequence[_Part]):  # type: ignore[no-untyped-def]
        """Returns a forward that ignores its input and gives ``(m, tokens, width)`` from the table."""

        def forward(_: torch.Tensor) -> torch.Tensor:
            plan, (part, *more) = self._now, parts
            if plan.tokens is None and not more and part.columns is None:
                return table[torch.where(self._active(plan, part.letter, part.site), plan.read, plan.base)]
            made, others = table[plan.base], table[plan.read]
            for part in parts:
                taken = self._taken(plan, part.letter, part.site)[..., None]
                _mix(made, taken, others, part.columns)
            return made

        return forward

    def _borrow(self, path: str, projection: torch.nn.Module, parts: Sequence[_Part]):  # type: ignore[no-untyped-def]
        """Returns a forward that gives rows what it makes of the text of their sources; image tokens stay."""
        original, last = projection.forward, self._model.facts.text_last

        def forward(given: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = original(given)
            plan = self._now
            # In blocks that the text shares with the image.
            text = slice(max(0, made.shape[1] - plan.count), None) if last else slice(0, plan.count)
            if plan.drawn and path in self._later:
                self._kept[path] = made[:, text].clone()
            if path not in plan.touched:
                return made
            drawn = made[:, text] if plan.drawn else self._kept[path]
            mixed = made.clone()
            for part in parts:
                taken = self._taken(plan, part.letter, part.site)[..., None]
                _mix(mixed[:, text], taken, drawn[plan.source], part.columns)
            return mixed

        return forward

    def _masked(self, attention: torch.nn.Module, mask: torch.Tensor, site: int):  # type: ignore[no-untyped-def]
        """Returns a forward of an attention whose mask of padding goes with the text that K comes from."""
        original, family = attention.forward, self._model.family
        name = family.mask_argument
        names = list(inspect.signature(original).parameters)

        def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
            plan, own = self._now, mask[self._now.base]
            seen = torch.where(self._taken(plan, 0, site), mask[plan.donor], own)
            if name in names[: len(args)]:
                # Some blocks give it without its name.
                args, kwargs = (), {**dict(zip(names, args, strict=False)), **kwargs}
            made: torch.Tensor = original(*args, **{**kwargs, name: family.attention_mask(own, seen, kwargs.get(name))})
            return made

        return forward

    def _hide(self, mask: torch.Tensor, stack: ExitStack) -> None:
        """Hides positions that hold no token of the text that a row reads, where texts have lengths of their own."""

        def own() -> torch.Tensor:
            return mask[self._now.base]

        def seen(site: int) -> torch.Tensor:
            plan = self._now
            # A position of a text has both, K and V: where one comes from a shorter text, it is not there.
            either = [torch.where(self._taken(plan, part, site), mask[plan.donor], own()) for part in (0, 1)]
            return either[0] & either[1]

        visible: dict[str, Any] = dict.fromkeys(refiners(self._denoiser, self._model.facts.refiners), own)
        visible |= {site.attention_path: partial(seen, site.index) for site in self._model.sites}
        stack.enter_context(hidden(self._denoiser, visible, last=self._model.facts.text_last))
        stack.enter_context(self._placing(mask))

    def _placing(self, mask: torch.Tensor) -> AbstractContextManager[None]:
        return self._model.family.placing(self._model.pipeline, lambda: mask[self._now.base])


def _followed(rows: Sequence[Row]) -> dict[int, int]:
    """Returns for every row that follows another's picture the one that it follows, by their numbers."""
    readers = [number for number, row in enumerate(rows) if reads_own(row)]
    followers = [number for number, row in enumerate(rows) if follows(row)]
    # Behind the readers, in their order; a batch is filled up with copies of its last row.
    return {follower: readers[min(at, len(readers) - 1)] for at, follower in enumerate(followers)}


def _follow(
    followed: Mapping[int, int], count: int, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Gives rows that follow others those rows' noisy pictures, in every half of guidance of ``count`` rows."""
    if not followed:
        return None
    name = next((name for name in NOISY if name in kwargs), None)
    if name is None and not args:
        raise ModelError("nobody knows which argument of the denoiser is the noisy picture; expected source: run")
    noisy = kwargs[name] if name else args[0]
    # Some denoisers are given a list, of a picture each.
    noisy = list(noisy) if isinstance(noisy, list) else noisy.clone()
    for half in range(0, len(noisy), count):
        for row, other in followed.items():
            noisy[half + row] = noisy[half + other]
    return (args, {**kwargs, name: noisy}) if name else ((noisy, *args[1:]), kwargs)


def _mix(made: torch.Tensor, taken: torch.Tensor, others: torch.Tensor, columns: tuple[int, int] | None) -> None:
    """Writes what is taken from others into columns of what was made: both ``(m, tokens, width)``."""
    at = slice(*columns) if columns else slice(None)
    made[..., at] = torch.where(taken, others[..., at], made[..., at])


def _positions(words: torch.Tensor, tokens: str) -> torch.Tensor:
    if tokens == "all":
        return torch.ones_like(words)
    return words if tokens == "words" else ~words

"""Serves pipelines of classes that have no family: sentences go to the pipeline's own call, which encodes them.

Rows read K and V, masks of padding and pooled texts of rows and sentences that the pipeline itself has made, so that
nothing has to be known of how it makes them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from loco_core.diffusion.checkpoints import class_of
from loco_core.diffusion.default.calls import (
    CALL,
    TEXT,
    TRUE_SCALE,
    again,
    denoiser_of,
    leaves,
    mapped,
    named,
    record,
    takes,
)
from loco_core.diffusion.default.probe import SCALE, STEPS, difference, probe
from loco_core.diffusion.default.profile import Profile
from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import UNGUIDED, FamilyInfo, Half
from loco_core.diffusion.loading import load_pipeline
from loco_core.diffusion.model import LoadedModel, PromptEmbeds
from loco_core.diffusion.pipelines import pipeline_class
from loco_core.errors import ModelError
from loco_core.types import Extras, Site

LEFT_OUT: Mapping[str, Any] = MappingProxyType({"safety_checker": None, "requires_safety_checker": False})
"""Its black would pass for effects."""

ALIKE = 1e-6
"""What is read of two sentences that are cut alike may differ by, relative."""


INFO = FamilyInfo(
    pipelines=(), models={}, seconds_per_image=20.0, config_file="", site_names=lambda _: (), native_side=lambda _: 0,
    encoders="", stream="evolving", words=False,
)  # fmt: skip
"""Facts of no pipeline: the profile of a pipeline says what is known of it."""


@dataclass(frozen=True)
class Sentences(PromptEmbeds):
    """Prompts that the pipeline encodes itself.

    Attributes:
        sentences: the prompts; of the others ``embeds`` are zeros of the right number of tokens.
    """

    sentences: tuple[str, ...] = ()

    def take(self, numbers: Sequence[int]) -> Sentences:
        """Returns prompts by their numbers, which may repeat."""
        found = super().take(numbers)
        return Sentences(
            found.embeds, found.ids, found.words, found.mask, sentences=tuple(self.sentences[i] for i in numbers)
        )


class Family(DiffusersFamily):
    """Loads a pipeline of any class, finds out what it is, and hands it sentences.

    Attributes:
        profile: what was found out.
    """

    pipeline_class = "DiffusionPipeline"
    profile: Profile

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._first: dict[str, Any] = {}
        self._read: set[str] = set()
        self._empty: torch.Tensor | None = None

    def load(self, path: str, revision: str | None, dtype: str, device_map: str | None, extras: Extras | None) -> Any:
        """Loads the pipeline of the class that its folder names, without a safety checker."""
        name = class_of(path, revision)
        cls = pipeline_class(name, path)
        has = inspect.signature(cls.__init__).parameters
        without = {part: value for part, value in LEFT_OUT.items() if part in has}
        return load_pipeline(name, path, revision, dtype, device_map, extras, **without)

    def probe(self, pipeline: Any, where: str) -> tuple[Site, ...]:
        """Finds out what a pipeline is, and returns its sites.

        Args:
            pipeline: the pipeline on its device.
            where: its folder or hub id, for messages.

        Raises:
            ModelError: it cannot be served.
        """
        self.profile, sites = probe(pipeline, where)
        return sites

    @property
    def mask_argument(self) -> str:  # type: ignore[override]
        """Name of the argument that attentions take their mask by."""
        return self.profile.mask_argument

    def denoiser(self, pipeline: Any) -> torch.nn.Module:
        """Returns its transformer or UNet."""
        return denoiser_of(pipeline)[1]

    def where(self, pipeline: Any) -> dict[str, Any]:
        """Returns the dtype of the denoiser and the device that it computes on."""
        from loco_core.diffusion.engine import device_of

        found = self.denoiser(pipeline)
        return {"dtype": next(found.parameters()).dtype, "device": device_of(found)}

    def blank(self, pipeline: Any, tokens: int = 2) -> PromptEmbeds:
        """Returns zeros of so many tokens."""
        ids = torch.zeros(1, tokens, dtype=torch.long)
        return PromptEmbeds(torch.zeros(1, tokens, 1, **self.where(pipeline)), ids, ids.bool())

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the denoiser as the pipeline called it last, with zeros in place of the text."""
        if not self._first:
            self._first = self._recorded(pipeline, ["a word"])
        again(self.denoiser(pipeline), self._first, prompts.embeds.shape[1])

    def _recorded(self, pipeline: Any, sentences: Sequence[str]) -> dict[str, Any]:
        """Returns what the denoiser is given first for sentences."""
        scale = max(self.profile.guidance_scale, SCALE)
        return record(pipeline, sentences, scale=scale, steps=STEPS, first_only=True).first

    def _rows(self, pipeline: Any, sentences: Sequence[str], half: Half) -> dict[str, Any]:
        """Returns what holds rows among that, one row a sentence, of a half of guidance of the first call."""
        given, halves = leaves(self._recorded(pipeline, sentences)), self.profile.passes[0]
        count, rows = len(sentences), len(halves) * len(sentences)
        if given[TEXT].shape[0] != rows:
            raise ModelError(f"{count} sentences are read as {given[TEXT].shape[0]} rows; expected {rows}")
        at = halves.index(half) * count
        return {
            name: value[at : at + count]
            for name, value in given.items()
            if isinstance(value, torch.Tensor) and value.shape[:1] == (rows,)
        }

    def encode(self, pipeline: Any, prompts: list[str]) -> Sentences:
        """Returns sentences with the masks of their padding, where there are masks.

        Raises:
            ModelError: a sentence is longer than the pipeline reads.
        """
        self._check_ends(pipeline, prompts)
        where, count, tokens = self.where(pipeline), len(prompts), self.profile.tokens
        mask: torch.Tensor | None = None
        if self.profile.mask:
            mask = self._rows(pipeline, prompts, "conditional")[self.profile.mask].long()
            if any("unconditional" in halves for halves in self.profile.passes):
                empty = [number for number, text in enumerate(prompts) if not text]
                mask[empty] = self._unconditional_mask(pipeline).expand(len(empty), -1)
        ids = torch.zeros(count, tokens, dtype=torch.long)
        return Sentences(
            torch.zeros(count, tokens, 1, **where), ids, ids.bool().to(where["device"]), mask, sentences=tuple(prompts)
        )

    def _unconditional_mask(self, pipeline: Any) -> torch.Tensor:
        """Returns ``(1, tokens)`` the mask of what the unconditional half reads."""
        if self._empty is None:
            scale = max(self.profile.guidance_scale, SCALE)
            # One step is another way of drawing to some pipelines.
            found = record(pipeline, ["a word"], scale=scale, steps=STEPS)
            (number,) = (at for at, halves in enumerate(self.profile.passes) if "unconditional" in halves)
            mask = leaves(found.calls[number])[self.profile.mask]
            self._empty = mask[[self.profile.passes[number].index("unconditional")]].long()
        return self._empty

    def _check_ends(self, pipeline: Any, prompts: Sequence[str]) -> None:
        """Refuses sentences behind which no more is read.

        Where several encoders read a sentence, one that cuts it beside others that do not goes unseen.
        """
        new = [text for text in dict.fromkeys(prompts) if text and text not in self._read]
        if not new:
            return
        pairs = [said for text in new for said in (text, f"{text} a")]
        read = self._rows(pipeline, pairs, "conditional")[TEXT]
        for text, whole, longer in zip(new, read[::2], read[1::2], strict=True):
            if difference(whole, longer) <= ALIKE:
                raise ModelError(
                    f'the prompt "{text[:60]}..." is longer than a {type(pipeline).__name__} reads, or just as long; '
                    "shorten it"
                )
        self._read.update(new)

    def arguments(
        self,
        pipeline: Any,
        texts: PromptEmbeds,
        pooled: PromptEmbeds,
        negative: tuple[PromptEmbeds, PromptEmbeds] | None,
    ) -> dict[str, Any]:
        """Returns the sentences; what the unconditional half reads is left to the pipeline."""
        known, sentences = takes(pipeline), _sentences(texts)
        if self.profile.mask and not all(sentences):
            raise ModelError("an empty prompt is drawn by no model of the default family; expected words")
        found: dict[str, Any] = {"prompt": list(sentences)}
        found |= {name: value for name, value in CALL.items() if name in known}
        if negative is not None and self.profile.scale_argument == TRUE_SCALE:
            found["negative_prompt"] = [" "] * len(sentences)
        return found

    def guide(self, pipeline: Any, argument: str, scale: float, *, guided: bool) -> dict[str, Any]:
        """Returns the guidance scale, where the pipeline takes one."""
        return {argument: scale} if argument else {}

    @contextmanager
    def drawing(
        self,
        pipeline: Any,
        texts: PromptEmbeds,
        pooled: PromptEmbeds,
        negative: tuple[PromptEmbeds, PromptEmbeds] | None,
    ) -> Iterator[None]:
        """Gives rows the pooled texts that they are to have, and refuses guidance that runs otherwise than found out.

        Raises:
            ModelError: it does.
        """
        passes, count = self.profile.passes if negative is not None else UNGUIDED, len(texts.embeds)
        others = self._pooled(pipeline, texts, pooled, negative)
        denoiser, calls = self.denoiser(pipeline), 0

        def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            nonlocal calls
            halves = passes[calls % len(passes)]
            calls += 1
            given = named(module, args, kwargs)
            if (rows := len(given[TEXT])) != count * len(halves):
                raise ModelError(
                    f"the denoiser of a {self.profile.pipeline} is given {rows} rows for {count} pictures; expected "
                    f"{count * len(halves)}: guidance runs otherwise than it did when the model was loaded"
                )
            if not others:
                return None
            return (), mapped(given, lambda name, value: _placed(value, others.get(name), halves, count))

        handle = denoiser.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
        if calls != (expected := len(pipeline.scheduler.timesteps) * len(passes)):
            raise ModelError(
                f"a {self.profile.pipeline} called its denoiser {calls} times; expected {expected}: guidance runs "
                "otherwise than it did when the model was loaded"
            )

    def _pooled(
        self,
        pipeline: Any,
        texts: PromptEmbeds,
        pooled: PromptEmbeds,
        negative: tuple[PromptEmbeds, PromptEmbeds] | None,
    ) -> dict[str, dict[tuple[Half, int], torch.Tensor]]:
        """Returns pooled texts that are not those of rows' own sentences, by argument, half and row."""
        wanted: dict[tuple[Half, int], str] = {}
        for row, (own, other) in enumerate(zip(_sentences(texts), _sentences(pooled), strict=True)):
            if own != other:
                wanted["conditional", row] = other
        if negative is not None:
            pairs = zip(_sentences(negative[0]), _sentences(negative[1]), strict=True)
            wanted |= {("unconditional", row): other for row, (own, other) in enumerate(pairs) if own != other}
        if not wanted:
            return {}
        sentences = list(dict.fromkeys(wanted.values()))
        read = self._rows(pipeline, sentences, "conditional")
        return {
            name: {at: read[name][sentences.index(text)] for at, text in wanted.items()} for name in self.profile.pooled
        }

    def attention_mask(self, own: torch.Tensor, seen: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor | None:
        """Returns the mask that an attention is given, with what is seen of another text in place of a row's own.

        Raises:
            ModelError: there is none to be changed, or it is of another form.
        """
        if given is None or given.shape[0] != len(own) or given.shape[-1] != own.shape[-1]:
            if bool((own == seen).all()):
                return given
            raise ModelError("an attention is given no mask of (rows, tokens), and texts are of several lengths")
        between = (1,) * (given.ndim - 2)
        see = seen.bool().view(len(seen), *between, -1)
        changed = (own.bool() ^ seen.bool()).view(len(own), *between, -1)
        if given.is_floating_point():
            hidden = -10000.0 if float(given.min()) > torch.finfo(given.dtype).min else float(given.min())
            value = torch.where(see, 0.0, hidden).to(given.dtype)
        else:
            value = see.to(given.dtype)
        return torch.where(changed, value, given)


def _sentences(texts: PromptEmbeds) -> tuple[str, ...]:
    if not isinstance(texts, Sentences):
        raise ModelError("the default family draws sentences alone; expected prompts without an encoding of their own")
    return texts.sentences


def _placed(
    value: Any, others: Mapping[tuple[Half, int], torch.Tensor] | None, halves: Sequence[Half], count: int
) -> Any:
    """Returns rows with others in their places."""
    if not others:
        return value
    made = value.clone()
    for (half, row), other in others.items():
        if half in halves:
            made[halves.index(half) * count + row] = other
    return made


def profile_in(model: LoadedModel) -> Profile:
    """Returns what was found out of a model of the default family.

    Args:
        model: the model, loaded.

    Raises:
        TypeError: it is of another family.
    """
    if not isinstance(model.family, Family):
        raise TypeError(f"{type(model.family).__module__} serves it; expected the default family")
    return model.family.profile

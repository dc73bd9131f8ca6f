"""The paper's intervention without the engine: through a pipeline's own call, one image at a time, hook by hook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from loco_core.checking.plain import draw_plainly
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.testing import plain_attention
from loco_core.testing.plain_attention import Rotary
from loco_core.types import Generation, Row, Site

STEPS = 3


@dataclass(frozen=True)
class Subject:
    """A family under test.

    Attributes:
        family: its key, or its file.
        folder: a tiny pipeline, saved by diffusers.
        arguments: of the pipeline's call, without which it would not draw as the engine asks it to.
        guidance_scale: of the generations.
        side: of an image in pixels; None is the pipeline's default.
        padding: tokens to which sentences with an intervention are padded, their padding masked, where the pipeline
            leaves every sentence as long as it is: two sentences have positions in common only then.
        rotary: how keys of the text are turned, where texts have lengths of their own.
        prepared: returns what is entered on the pipeline while it draws sentences with an intervention, such as what
            gives both of them positions in common where `padding` does not.
    """

    family: str
    folder: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    guidance_scale: float = 3.0
    side: int | None = None
    padding: int = 0
    rotary: Rotary = field(default_factory=Rotary)
    prepared: Callable[[Any], AbstractContextManager[Any]] = nullcontext

    @property
    def settings(self) -> Generation:
        """How all images of the suite are generated."""
        return Generation(STEPS, self.guidance_scale, self.side, self.side)

    def load(self) -> LoadedModel:
        """Loads the pipeline as a sweep does."""
        return load_model(self.family, str(self.folder), None, "float32", "cpu")


class Plain:
    """The paper's intervention through the pipeline's own call with sentences, one image at a time, hook by hook.

    It shares no mechanism with the engine, and takes from the family where sites and words are and how guidance runs.
    The donor is drawn first, alone, and what its conditional half makes of the text at every site and step is noted;
    then the prompt is drawn, and hooks overwrite its rows with that.
    """

    def __init__(self, subject: Subject, model: LoadedModel) -> None:
        self._subject, self._model = subject, model
        self._denoiser = model.family.denoiser(model.pipeline)
        self._passes = model.facts.passes
        # Elsewhere texts have one length, and are read where projections make K and V of them.
        self._own_lengths = not model.family.mask_argument

    def free(self, text: str, seed: int) -> torch.Tensor:
        """Returns the final latents of a sentence, drawn by the pipeline alone."""
        drawn = draw_plainly(
            self._model.pipeline, [text], [seed], self._subject.settings, self._model.facts.scale_argument,
            self._subject.arguments,
        )  # fmt: skip
        return drawn.latents[0]

    def draw(self, row: Row) -> torch.Tensor:
        """Returns the final latents of a row with its intervention."""
        does, taken = row.intervention, self._taken(row)
        own, calls = does.source == "own", Calls(self._passes)
        with ExitStack() as stack:
            stack.enter_context(_padded(self._model.pipeline, self._subject.padding))
            stack.enter_context(self._subject.prepared(self._model.pipeline))
            seen, given = ({}, self._given(row)) if own else (self._watched(row), [])
            stack.enter_context(_Removing(self._denoiser.register_forward_pre_hook(calls.advance)))
            if own:
                beside = _Beside(self._denoiser, calls, given, lambda: self._noting(row, seen, calls))
                stack.enter_context(_Removing(self._denoiser.register_forward_pre_hook(beside.run, with_kwargs=True)))
            if self._own_lengths:
                stack.enter_context(
                    plain_attention.overwriting(
                        self._denoiser, self._attentions(row), seen, calls, row, taken, self._lengths(row.prompt),
                        self._subject.rotary, last=self._model.facts.text_last,
                    )
                )  # fmt: skip
                return self.free(row.prompt, row.seed)
            for index in does.sites:
                site = self._model.sites[index]
                for letter, path, columns in _parts(site):
                    if letter in does.part:
                        module = self._denoiser.get_submodule(path)
                        hook = self._overwrite(seen.setdefault(path, []), calls, row, taken, columns)
                        stack.enter_context(_Removing(module.register_forward_hook(hook)))
                name = site.attention_path
                if (own or name in seen) and "k" in does.part:
                    hook = self._masked(seen.setdefault(name, []), calls, row, taken)
                    attention = self._denoiser.get_submodule(name)
                    stack.enter_context(_Removing(attention.register_forward_pre_hook(hook, with_kwargs=True)))
            return self.free(row.prompt, row.seed)

    def _taken(self, row: Row) -> dict[str, torch.Tensor]:
        """Returns which positions each half that the intervention covers takes from the donor."""
        does = row.intervention
        halves = [half for halves in self._passes for half in halves if does.guidance_half in (half, "both")]
        own = [row.prompt if half == "conditional" else "" for half in halves]
        words = self._model.family.encode(self._model.pipeline, [*own, row.donor]).words
        either = {half: words[number] | words[-1] for number, half in enumerate(halves)}
        kind = does.tokens
        return {
            half: torch.ones_like(found) if kind == "all" else found if kind == "words" else ~found
            for half, found in either.items()
        }

    def _watched(self, row: Row) -> dict[str, list[Any]]:
        """Returns what the donor's conditional half made at every step, by module; masks by attention."""
        seen: dict[str, list[Any]] = {}
        calls = Calls(self._passes)
        with ExitStack() as stack:
            stack.enter_context(_Removing(self._denoiser.register_forward_pre_hook(calls.advance)))
            stack.enter_context(self._noting(row, seen, calls))
            self.free(row.donor, row.seed)
        return seen

    def _sites(self, row: Row) -> list[Site]:
        return [self._model.sites[index] for index in row.intervention.sites]

    def _attentions(self, row: Row) -> list[str]:
        return [site.attention_path for site in self._sites(row)]

    def _lengths(self, text: str) -> dict[str, int]:
        """Returns how many tokens the text of each half has where a sentence is drawn alone."""
        encoded = {"conditional": text, "unconditional": ""}
        masks = {half: self._model.family.encode(self._model.pipeline, [said]).mask for half, said in encoded.items()}
        return {half: int(mask.sum()) for half, mask in masks.items() if mask is not None}

    def _noting(self, row: Row, seen: dict[str, list[Any]], calls: Calls) -> AbstractContextManager[None]:
        if not self._own_lengths:
            return _noting(self._denoiser, seen, calls, self._sites(row))
        lengths, last = self._lengths(row.donor), self._model.facts.text_last
        return plain_attention.noting(self._denoiser, self._attentions(row), seen, calls, lengths, last=last)

    def _given(self, row: Row) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Returns what the denoiser is given at every call while it draws the donor."""
        given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        note = lambda _, args, kwargs: given.append((args, kwargs))  # noqa: E731
        with _Removing(self._denoiser.register_forward_pre_hook(note, with_kwargs=True)):
            self.free(row.donor, row.seed)
        return given

    def _overwrite(
        self,
        seen: list[torch.Tensor],
        calls: Calls,
        row: Row,
        taken: dict[str, torch.Tensor],
        columns: tuple[int, int] | None,
    ) -> Callable[..., torch.Tensor]:
        def hook(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            for at, half in calls.covered(row, taken):
                count = len(taken[half])
                text = slice(-count, None) if self._model.facts.text_last else slice(count)
                for position in taken[half].nonzero().flatten().tolist():
                    part = slice(*columns) if columns else slice(None)
                    output[at, text][position, part] = seen[calls.step][text][position, part]
            return output

        return hook

    def _masked(
        self, seen: list[torch.Tensor], calls: Calls, row: Row, taken: dict[str, torch.Tensor]
    ) -> Callable[..., Any]:
        def hook(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            place = next((name for name in MASKS if kwargs.get(name) is not None), None)
            given = _mask_among(args, kwargs)
            if given is None:
                return None
            mask = given.clone()
            for at, half in calls.covered(row, taken):
                positions, donor = taken[half], seen[calls.step]
                if mask.ndim == 4 and mask.shape[2] > 1:
                    # Of queries and keys: those queries that the row's own padding has stay as they are.
                    positions, own = _within(positions, mask.shape[3]), mask[at, 0].amax(1, keepdim=True)
                    mask[at, 0][:, positions] = own * donor[0].amax(0)[positions]
                else:
                    positions = _within(positions, mask.shape[-1], last=self._model.facts.text_last)
                    mask[at, ..., positions] = donor[..., positions]
            return (args, {**kwargs, place: mask}) if place else ((*args[:2], mask, *args[3:]), kwargs)

        return hook


MASKS = ("attention_mask", "encoder_hidden_states_mask")
"""Names by which attentions of diffusers take masks of the text's padding."""


def _mask_among(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """Returns the mask that an attention is given: by its name, or third, behind the image and the text."""
    named = next((kwargs[name] for name in MASKS if kwargs.get(name) is not None), None)
    found: torch.Tensor | None = named if named is not None or len(args) < 3 else args[2]
    return found


class Calls:
    """Counts the calls of a denoiser.

    Attributes:
        count: the call, from 0.
        held: whether what runs now is no call of the pipeline.
        step: the denoising step, from 0.
        halves: halves of guidance in the batch of this call, in their order.
    """

    def __init__(self, passes: Sequence[Sequence[str]]) -> None:
        self._passes, self.count, self.held = passes, -1, False
        self.step, self.halves = -1, tuple(passes[0])

    def advance(self, *_: Any) -> None:
        """Begins a call; one beside it is none."""
        if self.held:
            return
        self.count += 1
        self.step, number = divmod(self.count, len(self._passes))
        self.halves = tuple(self._passes[number])

    def covered(self, row: Row, taken: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
        """Yields the rows of the batch that an intervention covers now, with their halves."""
        does = row.intervention
        if not self.held and does.step_start <= self.step < (STEPS if does.step_end is None else does.step_end):
            yield from ((at, half) for at, half in enumerate(self.halves) if half in taken)


@contextmanager
def _padded(pipeline: Any, tokens: int) -> Iterator[None]:
    """Makes what a pipeline makes of a sentence so many tokens long, of one encoder alone; 0 leaves it."""
    if not tokens:
        yield
        return
    encode = pipeline.encode_prompt

    def longer(*args: Any, **options: Any) -> tuple[torch.Tensor, ...]:
        embeds, mask, *others = encode(*args, **options)
        assert not any(other.any() for other in others)
        mask = torch.ones(embeds.shape[:2], dtype=torch.long) if mask is None else mask
        more = tokens - embeds.shape[1]
        pad = torch.nn.functional.pad
        return pad(embeds, (0, 0, 0, more)), pad(mask, (0, more)), *(other[:, :1] for other in others)

    pipeline.encode_prompt = longer
    try:
        yield
    finally:
        del pipeline.encode_prompt


def _parts(site: Site) -> tuple[tuple[str, str, tuple[int, int] | None], ...]:
    return ("k", site.key_path, site.key_columns), ("v", site.value_path, site.value_columns)


def _within(positions: torch.Tensor, count: int, *, last: bool = False) -> torch.Tensor:
    more = count - len(positions)
    return torch.nn.functional.pad(positions, (more, 0) if last else (0, more))


class _Beside:
    """Runs the denoiser on the picture that it is given with the texts of another call, before every call."""

    def __init__(
        self,
        denoiser: torch.nn.Module,
        calls: Calls,
        texts: list[tuple[tuple[Any, ...], dict[str, Any]]],
        noting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._denoiser, self._calls, self._texts, self._noting = denoiser, calls, texts, noting

    def run(self, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Notes what the sites make of those texts."""
        if self._calls.held:
            return
        self._calls.held = True
        with self._noting():
            other_args, others = self._texts[self._calls.count]
            if "hidden_states" in kwargs:
                self._denoiser(*other_args, **{**others, "hidden_states": kwargs["hidden_states"]})
            else:
                self._denoiser(args[0], *other_args[1:], **others)
        self._calls.held = False


class _Removing:
    """Removes a hook at the end of a ``with`` block."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


@contextmanager
def _noting(
    denoiser: torch.nn.Module, seen: dict[str, list[torch.Tensor]], calls: Calls, sites: Sequence[Site]
) -> Iterator[None]:
    """Notes what the conditional half makes of the text, by module, and masks, by attention."""
    with ExitStack() as stack:
        for path in dict.fromkeys(path for site in sites for _, path, _ in _parts(site)):
            hook = _note(seen.setdefault(path, []), calls)
            stack.enter_context(_Removing(denoiser.get_submodule(path).register_forward_hook(hook)))
        for site in sites:
            attention, note = denoiser.get_submodule(site.attention_path), _note_mask(seen, site, calls)
            stack.enter_context(_Removing(attention.register_forward_pre_hook(note, with_kwargs=True)))
        yield


def _note(made: list[torch.Tensor], calls: Calls) -> Callable[..., None]:
    def hook(_: Any, __: Any, output: torch.Tensor) -> None:
        if "conditional" in calls.halves:
            made.append(output[calls.halves.index("conditional")].clone())

    return hook


def _note_mask(seen: dict[str, list[torch.Tensor]], site: Site, calls: Calls) -> Callable[..., None]:
    def hook(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        given = _mask_among(args, kwargs)
        if given is not None and "conditional" in calls.halves:
            seen.setdefault(site.attention_path, []).append(given[calls.halves.index("conditional")].clone())

    return hook

"""The paper's intervention without the engine: through a pipeline's own call, one image at a time, hook by hook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.types import Generation, Intervention, Row

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
    """

    family: str
    folder: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    guidance_scale: float = 3.0
    side: int | None = None

    @property
    def settings(self) -> Generation:
        """How all images of the suite are generated."""
        return Generation(STEPS, self.guidance_scale, self.side, self.side)

    def load(self) -> LoadedModel:
        """Loads the pipeline as a sweep does."""
        return load_model(self.family, str(self.folder), None, "float32", "cpu")


class Plain:
    """The paper's intervention through the pipeline's own call with sentences, one image at a time, hook by hook.

    It shares nothing with the engine: the donor is drawn first, alone, and what its conditional half makes of the text
    at every site and step is noted; then the prompt is drawn, and hooks overwrite its rows with that.
    """

    def __init__(self, subject: Subject, model: LoadedModel) -> None:
        self._subject, self._model = subject, model
        self._denoiser = model.family.denoiser(model.pipeline)
        self._guided = model.facts.guided

    def free(self, text: str, seed: int) -> torch.Tensor:
        """Returns the final latents of a sentence, drawn by the pipeline alone."""
        latents: list[torch.Tensor] = []

        def keep(*given: Any) -> Any:
            latents[:] = [given[3]["latents"] if isinstance(given[-1], dict) else given[2]]
            return given[3] if isinstance(given[-1], dict) else None

        old = type(self._model.pipeline).__name__.startswith(("IF", "PixArt"))
        watch: dict[str, Any] = {"callback": keep, "callback_steps": 1} if old else {"callback_on_step_end": keep}
        sides = {"height": self._subject.side, "width": self._subject.side} if self._subject.side else {}
        self._model.pipeline(
            text, num_inference_steps=STEPS, guidance_scale=self._subject.guidance_scale, output_type="pt",
            generator=[torch.Generator().manual_seed(seed)], **sides, **watch, **self._subject.arguments,
        )  # fmt: skip
        return latents[0][0]

    def draw(self, row: Row) -> torch.Tensor:
        """Returns the final latents of a row with its intervention."""
        does, taken = row.intervention, self._taken(row)
        seen = self._watched(row)
        step = {"now": -1}
        with ExitStack() as stack:
            stack.enter_context(_Removing(self._denoiser.register_forward_pre_hook(lambda *_: _advance(step))))
            for index in does.sites:
                site = self._model.sites[index]
                for letter, path in (("k", site.key_path), ("v", site.value_path)):
                    if letter in does.part:
                        module = self._denoiser.get_submodule(path)
                        hook = self._overwrite(seen[path], step, row, taken)
                        stack.enter_context(_Removing(module.register_forward_hook(hook)))
                name = site.key_path.rpartition(".")[0]
                if name in seen and "k" in does.part:
                    hook = self._masked(seen[name], step, row, taken)
                    attention = self._denoiser.get_submodule(name)
                    stack.enter_context(_Removing(attention.register_forward_pre_hook(hook, with_kwargs=True)))
            return self.free(row.prompt, row.seed)

    def _halves(self, does: Intervention) -> tuple[int, ...]:
        names = ("unconditional", "conditional") if self._guided else ("conditional",)
        return tuple(at for at, name in enumerate(names) if does.guidance_half in (name, "both"))

    def _taken(self, row: Row) -> dict[int, torch.Tensor]:
        """Returns which positions each half takes from the donor."""
        halves = self._halves(row.intervention)
        own = [row.prompt if half == 1 or not self._guided else "" for half in halves]
        words = self._model.family.encode(self._model.pipeline, [*own, row.donor]).words
        either = {half: words[number] | words[-1] for number, half in enumerate(halves)}
        kind = row.intervention.tokens
        return {
            half: torch.ones_like(found) if kind == "all" else found if kind == "words" else ~found
            for half, found in either.items()
        }

    def _watched(self, row: Row) -> dict[str, list[torch.Tensor]]:
        """Returns what the donor's conditional half made at every step, by module; masks by attention."""
        seen: dict[str, list[torch.Tensor]] = {}
        with ExitStack() as stack:
            for index in row.intervention.sites:
                site = self._model.sites[index]
                for path in (site.key_path, site.value_path):
                    hook = _note(seen.setdefault(path, []))
                    stack.enter_context(_Removing(self._denoiser.get_submodule(path).register_forward_hook(hook)))
                name = site.key_path.rpartition(".")[0]
                attention = self._denoiser.get_submodule(name)
                stack.enter_context(
                    _Removing(attention.register_forward_pre_hook(_note_mask(seen, name), with_kwargs=True))
                )
            self.free(row.donor, row.seed)
        return seen

    def _overwrite(
        self, seen: list[torch.Tensor], step: dict[str, int], row: Row, taken: dict[int, torch.Tensor]
    ) -> Callable[..., torch.Tensor]:
        does = row.intervention

        def hook(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            if does.step_start <= step["now"] < (STEPS if does.step_end is None else does.step_end):
                for half, positions in taken.items():
                    count = len(positions)
                    output[half, :count][positions] = seen[step["now"]][:count][positions]
            return output

        return hook

    def _masked(
        self, seen: list[torch.Tensor], step: dict[str, int], row: Row, taken: dict[int, torch.Tensor]
    ) -> Callable[..., Any]:
        does = row.intervention

        def hook(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            mask = kwargs["attention_mask"].clone()
            if does.step_start <= step["now"] < (STEPS if does.step_end is None else does.step_end):
                for half, positions in taken.items():
                    mask[half, 0, positions] = seen[step["now"]][0, positions]
            return args, {**kwargs, "attention_mask": mask}

        return hook


class _Removing:
    """Removes a hook at the end of a ``with`` block."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def _advance(step: dict[str, int]) -> None:
    step["now"] += 1


def _note(calls: list[torch.Tensor]) -> Callable[..., None]:
    def hook(_: Any, __: Any, output: torch.Tensor) -> None:
        calls.append(output[-1].clone())

    return hook


def _note_mask(seen: dict[str, list[torch.Tensor]], name: str) -> Callable[..., None]:
    def hook(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("attention_mask") is not None:
            seen.setdefault(name, []).append(kwargs["attention_mask"][-1].clone())

    return hook

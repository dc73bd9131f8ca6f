"""The paper's intervention step by step, one image at a time: what an engine must equal, and what it is faster than."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from loco_core.diffusion.model import LoadedModel
from loco_core.types import Generation, Row


def plain_loop(model: LoadedModel, row: Row, settings: Generation) -> torch.Tensor:
    """Generates one image as the paper describes it: forward hooks on K and V overwrite rows of their output.

    Args:
        model: a Stable Diffusion pipeline.
        row: the image, with its intervention.
        settings: of the generation; classifier-free guidance must be on.

    Returns:
        the final latents ``(channels, h, w)``.
    """
    pipe, does = model.pipeline, row.intervention
    prompt, donor, empty = (encode(pipe, text) for text in (row.prompt, row.donor, ""))
    words = {text: len(pipe.tokenizer(text).input_ids) - 1 for text in (row.prompt, row.donor, "")}
    step = {"now": 0}
    last = does.step_end if does.step_end is not None else settings.steps
    position = torch.arange(prompt.shape[1])

    def hook(weight: torch.Tensor) -> Callable[..., torch.Tensor]:
        def overwrite(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            if does.step_start <= step["now"] < last:
                for half, text in ((0, ""), (1, row.prompt)):
                    name = ("unconditional", "conditional")[half]
                    if does.guidance_half not in (name, "both"):
                        continue
                    is_word = position < max(words[text], words[row.donor])
                    taken = {"all": position >= 0, "words": is_word, "padding": ~is_word}[does.tokens]
                    output[half, taken] = (donor[0] @ weight.T)[taken]
            return output

        return overwrite

    handles = []
    for site in does.sites:
        for letter, path in (("k", model.sites[site].key_path), ("v", model.sites[site].value_path)):
            if letter in does.part:
                projection = pipe.unet.get_submodule(path)
                handles.append(projection.register_forward_hook(hook(projection.weight.detach())))

    def count(_: Any, i: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        step["now"] = i + 1
        return tensors

    try:
        latents: torch.Tensor = pipe(
            prompt_embeds=prompt, negative_prompt_embeds=empty, num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale, generator=torch.Generator().manual_seed(row.seed),
            output_type="latent", callback_on_step_end=count,
        ).images  # fmt: skip
    finally:
        for handle in handles:
            handle.remove()
    return latents[0]


@torch.no_grad()
def encode(pipe: Any, text: str) -> torch.Tensor:
    """Returns a text's embedding ``(1, tokens, width)``, encoded by itself."""
    tokenizer = pipe.tokenizer
    ids = tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    hidden: torch.Tensor = pipe.text_encoder(ids.to(pipe.text_encoder.device)).last_hidden_state
    return hidden

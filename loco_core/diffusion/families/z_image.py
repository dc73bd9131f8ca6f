"""Z-Image: text and image in one sequence in every block, the image in front, read from Qwen3.

A text is filled up to a multiple of 32 tokens with a token of the transformer's own, which is read like words are, and
so is an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import FamilyInfo, ModelInfo
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.packed import NO_TOKEN, aligned
from loco_core.diffusion.sites import block_names
from loco_core.diffusion.tokens import Reading, check_lengths

if TYPE_CHECKING:
    import torch

LENGTH = 512
REQUEST = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
"""What the published tokenizer makes of a request; the loaded pipeline takes its own tokenizer's word."""
MULTIPLE = 32
"""The transformer fills texts and images up to multiples of so many tokens."""
_TRANSFORMER = {
    "n_layers": 30, "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30, "dim": 3840, "in_channels": 16,
    "cap_feat_dim": 2560, "axes_lens": [1536, 512, 512],
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("ZImagePipeline",),
    models={
        "z-image": ModelInfo(60.0, "Tongyi-MAI/Z-Image", gigabytes=24, published=_TRANSFORMER, dtype="bfloat16"),
        # The distilled model is drawn without guidance.
        "z-image-turbo": ModelInfo(
            30.0,
            "Tongyi-MAI/Z-Image-Turbo",
            gigabytes=24,
            published=_TRANSFORMER,
            dtype="bfloat16",
            steps=9,
            guidance_scale=0.0,
        ),
    },
    seconds_per_image=60.0,
    config_file="transformer/config.json",
    site_names=lambda config: block_names("layers", config["n_layers"]),
    native_side=lambda _: 1024,
    encoders="Qwen3 4B, as a request to its assistant",
    text_encoders={"text_encoder": 0},
    stream="evolving",
    editable="nothing: every site shares K and V with the image",
    shared="layers.",
    side_multiple=16,
    schedulers=("FlowMatchEulerDiscreteScheduler",),
    passes=(("conditional", "unconditional"),),
    text_last=True,
    refiners="context_refiner.",
    unguided_scale=0.0,
    reading=lambda _: Reading("tokenizer", LENGTH, encoder="text_encoder", template=REQUEST),
    steps=50,
    guidance_scale=5.0,
)


class Family(DiffusersFamily):
    """Loads and prompts a ``ZImagePipeline``."""

    pipeline_class = "ZImagePipeline"
    text_width = "cap_feat_dim"
    mask_argument = ""

    def blank(self, pipeline: Any, tokens: int = 2) -> PromptEmbeds:
        """Returns zeros in place of an encoded prompt of so many tokens, filled up."""
        return super().blank(pipeline, _filled(tokens))

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts, each by itself as a request to the assistant, and leaves room for what fills it up."""
        return aligned([self._encoded(pipeline, text) for text in prompts])

    def _encoded(self, pipeline: Any, text: str) -> PromptEmbeds:
        import torch
        from torch.nn.functional import pad

        tokenizer = pipeline.tokenizer
        said, empty = (
            tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, enable_thinking=True
            )
            for content in (text, "")
        )  # fmt: skip
        ids = torch.tensor([tokenizer(said).input_ids])
        check_lengths([text], [ids.shape[1]], LENGTH)
        with torch.no_grad():
            (embeds,), _ = pipeline.encode_prompt(
                [text], device=self.where(pipeline)["device"], do_classifier_free_guidance=False,
                max_sequence_length=LENGTH,
            )  # fmt: skip
        missing = _filled(ids.shape[1]) - ids.shape[1]
        # The request ends as that for nothing does; before that ends the last word.
        behind = _alike(ids[0].tolist(), tokenizer(empty).input_ids)
        words = torch.arange(ids.shape[1] + missing, device=embeds.device) < ids.shape[1] - behind
        return PromptEmbeds(pad(embeds, (0, 0, 0, missing))[None], pad(ids, (0, missing), value=NO_TOKEN), words[None])

    def prompt_arguments(self, pipeline: Any, texts: PromptEmbeds, pooled: PromptEmbeds) -> dict[str, Any]:
        """Returns lists of embeddings, without the room behind them: the transformer fills it with its own token."""
        return {"prompt_embeds": _listed(texts)}

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once."""
        import torch

        denoiser, n, where = pipeline.transformer, len(prompts.embeds), self.where(pipeline)
        images = torch.zeros(n, denoiser.config.in_channels, 1, 4, 4, **where)
        denoiser(list(images.unbind()), torch.zeros(n, **where), list(prompts.embeds.unbind()))

    @contextmanager
    def placing(self, pipeline: Any, own: Callable[[], torch.Tensor]) -> Iterator[None]:
        """Puts what fills images up as far in front of texts as where they are drawn alone: one before their first."""
        import torch

        transformer = pipeline.transformer
        original = transformer._prepare_sequence

        def placed(
            features: list[torch.Tensor], places: list[torch.Tensor], fills: list[torch.Tensor], token: Any, *more: Any
        ) -> Any:
            if token is transformer.x_pad_token:
                further = (own() == 0).sum(1)
                places = [
                    torch.cat([torch.where(fill, further[row].to(place), place[:, 0])[:, None], place[:, 1:]], 1)
                    for row, (place, fill) in enumerate(zip(places, fills, strict=True))
                ]
            return original(features, places, fills, token, *more)

        transformer._prepare_sequence = placed
        try:
            yield
        finally:
            del transformer._prepare_sequence


def _filled(tokens: int) -> int:
    return tokens + -tokens % MULTIPLE


def _listed(texts: PromptEmbeds) -> list[torch.Tensor]:
    """Returns the embeddings of each row up to its last token."""
    found = []
    for embeds, ids in zip(texts.embeds, texts.ids, strict=True):
        found.append(embeds[: int((ids != NO_TOKEN).nonzero().max()) + 1])
    return found


def _alike(ids: list[int], others: list[int]) -> int:
    """Returns how many of the last ids are the same."""
    pairs = list(zip(reversed(ids), reversed(others), strict=False))
    return next((number for number, (one, other) in enumerate(pairs) if one != other), len(pairs))

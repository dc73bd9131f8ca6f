"""HunyuanDiT: a transformer whose cross-attention reads BERT and, behind it, T5; padding is a vector of its own.

T5's text is pooled too, and added to the time embedding. Both texts are one tensor here, as they are of two widths:
BERT's positions are filled up with zeros, and the last column says where there is no padding.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import FamilyInfo, ModelInfo
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.sites import block_names, largest_side
from loco_core.diffusion.tokens import Reading, check_lengths, t5_tokens

if TYPE_CHECKING:
    import torch

_TRANSFORMER = {
    "sample_size": 128, "num_layers": 40, "num_attention_heads": 16, "attention_head_dim": 88, "hidden_size": 1408,
    "in_channels": 4, "patch_size": 2, "mlp_ratio": 4.3637, "cross_attention_dim": 1024,
    "cross_attention_dim_t5": 2048, "pooled_projection_dim": 1024, "text_len": 77, "text_len_t5": 256,
    "use_style_cond_and_image_meta_size": False,
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("HunyuanDiTPipeline",),
    models={
        "hunyuan-dit": ModelInfo(
            14.0, "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers", gigabytes=10, published=_TRANSFORMER
        )
    },
    seconds_per_image=14.0,
    config_file="transformer/config.json",
    site_names=lambda config: block_names("blocks", config["num_layers"]),
    native_side=lambda config: 8 * largest_side(config),
    encoders="a bilingual CLIP's BERT, and mT5-XL behind it",
    text_encoders={"text_encoder": 0, "text_encoder_2": 1},
    pooled="attention pooling of all of T5's text, added to the time embedding",
    side_multiple=16,
    reading=lambda _: Reading("tokenizer", 77, encoder="text_encoder"),
    guidance_scale=5.0,
)


class Family(DiffusersFamily):
    """Loads and prompts a ``HunyuanDiTPipeline``, without its safety checker: its black would pass for effects."""

    pipeline_class = "HunyuanDiTPipeline"
    left_out = MappingProxyType({"safety_checker": None, "requires_safety_checker": False, "feature_extractor": None})
    call = MappingProxyType({"use_resolution_binning": False})

    def blank(self, pipeline: Any, tokens: int = 2) -> PromptEmbeds:
        """Returns zeros in place of an encoded prompt, always as long as the transformer reads."""
        import torch

        config, where = pipeline.transformer.config, self.where(pipeline)
        ids = torch.zeros(1, config.text_len + config.text_len_t5, dtype=torch.long)
        width = max(config.cross_attention_dim, config.cross_attention_dim_t5)
        return PromptEmbeds(torch.zeros(*ids.shape, width + 1, **where), ids, ids.bool())

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts with BERT and with T5."""
        import torch

        lengths, device = self._lengths(pipeline), self.where(pipeline)["device"]
        texts = []
        for number, length in enumerate(lengths):
            with torch.no_grad():
                embeds, _, mask, _ = pipeline.encode_prompt(
                    prompts, device, pipeline.transformer.dtype, do_classifier_free_guidance=False,
                    max_sequence_length=length, text_encoder_index=number,
                )  # fmt: skip
            texts.append((embeds, mask))
        width = max(embeds.shape[2] for embeds, _ in texts)
        filled = [
            torch.cat([torch.nn.functional.pad(embeds, (0, width - embeds.shape[2])), mask[..., None].to(embeds)], 2)
            for embeds, mask in texts
        ]
        ids, words = _bert_tokens(pipeline.tokenizer, prompts, lengths[0])
        more, said = t5_tokens(pipeline.tokenizer_2, prompts, lengths[1])
        return PromptEmbeds(
            torch.cat(filled, 1), torch.cat([ids, more], 1), torch.cat([words, said], 1).to(device), segments=lengths
        )

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once."""
        import torch

        denoiser, n, where = pipeline.transformer, len(prompts.embeds), self.where(pipeline)
        (bert, bert_mask), (t5, t5_mask) = self._texts(pipeline, prompts)
        side = 4 * int(denoiser.config.patch_size)
        denoiser(
            torch.zeros(n, denoiser.config.in_channels, side, side, **where),
            torch.zeros(n, **where),
            encoder_hidden_states=bert,
            text_embedding_mask=bert_mask,
            encoder_hidden_states_t5=t5,
            text_embedding_mask_t5=t5_mask,
            # Of the first versions alone.
            image_meta_size=torch.zeros(n, 6, **where),
            style=torch.zeros(n, dtype=torch.long, device=where["device"]),
        )

    def prompt_arguments(self, pipeline: Any, texts: PromptEmbeds, pooled: PromptEmbeds) -> dict[str, Any]:
        """Returns the texts that are pooled: what cross-attention reads is routed, whatever is given here."""
        found: dict[str, Any] = {}
        for suffix, (embeds, mask) in zip(("", "_2"), self._texts(pipeline, pooled), strict=True):
            found |= {f"prompt_embeds{suffix}": embeds, f"prompt_attention_mask{suffix}": mask}
        return found

    def _lengths(self, pipeline: Any) -> tuple[int, int]:
        config = pipeline.transformer.config
        return int(config.text_len), int(config.text_len_t5)

    def _texts(self, pipeline: Any, prompts: PromptEmbeds) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Returns embeddings and mask of either encoder."""
        config = pipeline.transformer.config
        widths = (config.cross_attention_dim, config.cross_attention_dim_t5)
        first, _ = self._lengths(pipeline)
        parts = (prompts.embeds[:, :first], prompts.embeds[:, first:])
        return tuple(
            (part[..., :width].contiguous(), part[..., -1].round().long())
            for part, width in zip(parts, widths, strict=True)
        )


def _bert_tokens(tokenizer: Any, prompts: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and words of prompts as BERT reads them: its start counts as a word, its end does not."""
    check_lengths(prompts, [len(tokenizer(text).input_ids) for text in prompts], length)
    read = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return read.input_ids, read.attention_mask.bool() & (read.input_ids != tokenizer.sep_token_id)

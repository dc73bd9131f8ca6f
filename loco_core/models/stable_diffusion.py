"""Stable Diffusion 1.x and 2.x, OpenJourney, and the bundled models: one CLIP text encoder, one UNet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from loco_core.errors import ModelError
from loco_core.models import FamilyInfo, ModelInfo, PromptEmbeds
from loco_core.quiet import quiet_libraries
from loco_core.types import Site

if TYPE_CHECKING:
    import torch

_WEIGHTS = Path(__file__).parent.parent / "toyworld" / "weights"
_BUNDLED = ("toy", "toy-planted-a", "toy-planted-b", "toy-planted-c")


def site_names(config: dict[str, Any]) -> tuple[str, ...]:
    """Returns the sites' addresses in execution order: lower blocks, middle, upper blocks."""
    layers = config["layers_per_block"]
    down, up = config["down_block_types"], config["up_block_types"]
    per_block = layers if isinstance(layers, list) else [layers] * len(down)
    names = [
        f"down_blocks.{i}.attentions.{j}"
        for i, kind in enumerate(down)
        if kind.startswith("CrossAttn")
        for j in range(per_block[i])
    ]
    if (config.get("mid_block_type") or "").endswith("CrossAttn"):
        names.append("mid_block.attentions.0")
    return (
        *names,
        *(
            f"up_blocks.{i}.attentions.{j}"
            for i, kind in enumerate(up)
            if kind.startswith("CrossAttn")
            for j in range(per_block[::-1][i] + 1)
        ),
    )


# For bundled models measured on two CPU cores (float32, batches of 64); for others one consumer GPU, half precision.
INFO = FamilyInfo(
    pipelines=("StableDiffusionPipeline",),
    models={
        **{name: ModelInfo(0.15, path=_WEIGHTS / name) for name in _BUNDLED},
        "sd14": ModelInfo(4.0, "CompVis/stable-diffusion-v1-4", "133a221b8aa7292a167afc5127cb63fb5005638b"),
        "sd15": ModelInfo(
            4.0, "stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
        ),
        "sd21": ModelInfo(6.0, "stabilityai/stable-diffusion-2-1", "5cae40e6a2745ae2b01ad92ae5043f95f23644d6"),
        "openjourney": ModelInfo(4.0, "prompthero/openjourney"),
    },
    status="supported",
    gigabytes=4.0,
    seconds_per_image=6.0,
    config_file="unet/config.json",
    site_names=site_names,
    # The VAE enlarges eightfold, that of the bundled models fourfold.
    native_side=lambda config: 8 * int(config["sample_size"]),
)


class Family:
    """Loads and prompts a ``StableDiffusionPipeline``."""

    def load(self, path: str, revision: str | None, dtype: str, device: str) -> Any:
        """Loads the pipeline without its safety checker, whose black pictures would pass for an effect.

        Args:
            path: a folder or a hub id.
            revision: the hub's commit; None for a folder.
            dtype: ``float32``, ``float16`` or ``bfloat16``.
            device: e.g. ``cuda`` or ``cpu``.

        Raises:
            ModelError: no such model, not in safetensors, or damaged.
        """
        # First: the import alone gives advice on packages that are not needed.
        quiet_libraries()
        import torch
        from diffusers import StableDiffusionPipeline
        from safetensors import SafetensorError

        try:
            pipeline = StableDiffusionPipeline.from_pretrained(
                path, revision=revision, dtype=getattr(torch, dtype), use_safetensors=True, safety_checker=None,
                requires_safety_checker=False,
            )  # fmt: skip
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"cannot load {path} as a Stable Diffusion pipeline from safetensors: {reason}") from error
        pipeline.set_progress_bar_config(disable=True)
        if device == "cpu":
            # Measured on two CPU cores with the bundled model: a step of 96 rows is faster in this layout.
            pipeline.unet.to(memory_format=torch.channels_last)
        return pipeline.to(device)

    def denoiser(self, pipeline: Any) -> torch.nn.Module:
        """Returns the UNet."""
        unet: torch.nn.Module = pipeline.unet
        return unet

    def find_sites(self, pipeline: Any) -> tuple[Site, ...]:
        """Finds cross-attention by class, and its order by running one forward pass.

        The order of ``named_modules`` would be wrong: a UNet registers its middle after its upper blocks.
        """
        import torch
        from diffusers.models.attention_processor import Attention

        unet = pipeline.unet
        order: list[str] = []
        handles = [
            module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
            for name, module in unet.named_modules()
            if isinstance(module, Attention) and module.is_cross_attention
        ]
        # Eight is the smallest side that three halvings leave whole.
        side = min(int(unet.config.sample_size), 8)
        with torch.no_grad():
            unet(
                torch.zeros(1, unet.config.in_channels, side, side, dtype=unet.dtype, device=unet.device),
                torch.zeros(1, dtype=torch.long, device=unet.device),
                torch.zeros(1, 2, unet.config.cross_attention_dim, dtype=unet.dtype, device=unet.device),
            )
        for handle in handles:
            handle.remove()
        return tuple(
            Site(
                index=index,
                name=_address(name),
                key_path=f"{name}.to_k",
                value_path=f"{name}.to_v",
                width=unet.get_submodule(f"{name}.to_k").out_features,
            )
            for index, name in enumerate(order)
        )

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts with the pipeline's own text encoder, padded to its length."""
        import torch

        with torch.no_grad():
            embeds, _ = pipeline.encode_prompt(
                prompts, pipeline.unet.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        tokenizer = pipeline.tokenizer
        # Start and end are not words, but the start sits at the first position of every sentence.
        ends = [min(len(tokenizer(text).input_ids) - 1, tokenizer.model_max_length) for text in prompts]
        ids = tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        ).input_ids
        return PromptEmbeds(embeds, torch.tensor(ends, device=embeds.device), ids)


def _address(module_name: str) -> str:
    """Shortens ``up_blocks.1.attentions.2.transformer_blocks.0.attn2`` to ``up_blocks.1.attentions.2``."""
    return module_name.removesuffix(".attn2").removesuffix(".transformer_blocks.0")

"""What families of diffusers pipelines have in common; a family's file says only what is its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from loco_core.diffusion.model import PromptEmbeds, load_pipeline
from loco_core.diffusion.sites import largest_side
from loco_core.types import Extras

if TYPE_CHECKING:
    import torch

AS_GIVEN: Mapping[str, Any] = MappingProxyType(
    {"negative_prompt": None, "clean_caption": False, "use_resolution_binning": False}
)
"""Captions and sides are taken as they are; without the None a pipeline would encode a negative prompt of its own."""


class DiffusersFamily:
    """Loads a pipeline of diffusers and hands it encoded prompts.

    Attributes:
        pipeline_class: what is loaded; ``DiffusionPipeline`` is the class that the folder names.
        left_out: components and flags that it is loaded with, e.g. without a safety checker.
        part: the pipeline's component that is intervened on.
        text_width: key of the denoiser's configuration that tells the width of encoded prompts.
        pooled_width: key of that of pooled texts; empty where there are none beside the prompts.
        masked: whether padding is masked in attention.
        mask_argument: name of the argument that an attention takes its mask by.
        call: further arguments of the pipeline's call.
    """

    pipeline_class: ClassVar[str]
    left_out: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    part: ClassVar[str] = "transformer"
    text_width: ClassVar[str]
    pooled_width: ClassVar[str] = ""
    masked: ClassVar[bool] = False
    mask_argument: ClassVar[str] = "attention_mask"
    call: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def load(self, path: str, revision: str | None, dtype: str, device_map: str | None, extras: Extras | None) -> Any:
        """Loads the pipeline; see :func:`loco_core.diffusion.model.load_pipeline`."""
        return load_pipeline(self.pipeline_class, path, revision, dtype, device_map, extras, **self.left_out)

    def denoiser(self, pipeline: Any) -> torch.nn.Module:
        """Returns the module whose cross-attention is intervened on."""
        found: torch.nn.Module = getattr(pipeline, self.part)
        return found

    def where(self, pipeline: Any) -> dict[str, Any]:
        """Returns the dtype of the denoiser and the device that it computes on."""
        from loco_core.diffusion.engine import device_of

        found = getattr(pipeline, self.part)
        return {"dtype": found.dtype, "device": device_of(found)}

    def width_of_pooled(self, config: Any) -> int:
        """Returns the width of pooled texts; 0 where there are none beside the prompts."""
        return int(config[self.pooled_width]) if self.pooled_width else 0

    def blank(self, pipeline: Any, tokens: int = 2) -> PromptEmbeds:
        """Returns zeros in place of an encoded prompt of so many tokens."""
        import torch

        config, where = getattr(pipeline, self.part).config, self.where(pipeline)
        ids, width = torch.zeros(1, tokens, dtype=torch.long), self.width_of_pooled(config)
        return PromptEmbeds(
            torch.zeros(1, tokens, config[self.text_width], **where),
            ids,
            ids.bool(),
            mask=torch.ones(1, tokens, dtype=torch.long, device=where["device"]) if self.masked else None,
            pooled=torch.zeros(1, width, **where) if width else None,
        )

    def arguments(
        self,
        pipeline: Any,
        texts: PromptEmbeds,
        pooled: PromptEmbeds,
        negative: tuple[PromptEmbeds, PromptEmbeds] | None,
    ) -> dict[str, Any]:
        """Returns the arguments of both halves of guidance, those of the unconditional one as diffusers names them."""
        found = self.prompt_arguments(pipeline, texts, pooled)
        if negative is not None:
            found |= {f"negative_{name}": value for name, value in self.prompt_arguments(pipeline, *negative).items()}
        return {**found, **self.call}

    def prompt_arguments(self, pipeline: Any, texts: PromptEmbeds, pooled: PromptEmbeds) -> dict[str, Any]:
        """Returns the arguments that one half of guidance has, named as those of the conditional one.

        Here embeddings, with masks and pooled texts where the family has them.

        Args:
            pipeline: the pipeline.
            texts: embeddings that the denoiser reads.
            pooled: sentence that its pooled text comes from.
        """
        found = {"prompt_embeds": texts.embeds}
        if self.masked and texts.mask is not None:
            found["prompt_attention_mask"] = texts.mask
        if pooled.pooled is not None:
            found["pooled_prompt_embeds"] = pooled.pooled
        return found

    def noise(self, pipeline: Any, count: int, *shape: int) -> torch.Tensor:
        """Returns one noise ``(count, *shape)`` for every prompt, the same whenever it is asked for.

        Where text and image share one softmax, it stands for as many image tokens as a picture has: with few of them
        the text would read mostly itself.
        """
        import torch

        made = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
        return made.to(**self.where(pipeline)).expand(count, *shape)

    def guide(self, pipeline: Any, argument: str, scale: float, *, guided: bool) -> dict[str, Any]:
        """Returns the argument of the pipeline's call that the guidance scale is."""
        return {argument: scale}

    def drawing(
        self,
        pipeline: Any,
        texts: PromptEmbeds,
        pooled: PromptEmbeds,
        negative: tuple[PromptEmbeds, PromptEmbeds] | None,
    ) -> AbstractContextManager[None]:
        """Returns nothing to enter: all that a call needs are its arguments."""
        return nullcontext()

    def attention_mask(self, own: torch.Tensor, seen: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor | None:
        """Returns the mask as diffusers adds it to the scores of a cross-attention: ``(rows, 1, tokens)``."""
        import torch

        dtype = torch.get_default_dtype() if given is None else given.dtype
        return ((1 - seen.to(dtype)) * -10000.0)[:, None]

    def placing(self, pipeline: Any, own: Callable[[], torch.Tensor]) -> AbstractContextManager[None]:
        """Returns nothing to enter: nothing but attentions heeds padding, and the image stands behind the text."""
        return nullcontext()

    def images(self, output: torch.Tensor) -> torch.Tensor:
        """Returns the pipeline's tensors as they are: images in [0, 1]."""
        return output


class UNetFamily(DiffusersFamily):
    """A family whose denoiser is a UNet."""

    part = "unet"

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the UNet once."""
        import torch

        unet, n, where = pipeline.unet, len(prompts.embeds), self.where(pipeline)
        # Eight is the smallest side that three halvings leave whole.
        side = min(largest_side(unet.config), 8)
        unet(
            torch.zeros(n, unet.config.in_channels, side, side, **where),
            torch.zeros(1, dtype=torch.long, device=where["device"]),
            prompts.embeds,
            **self.conditions(prompts, where),
        )

    def conditions(self, prompts: PromptEmbeds, where: dict[str, Any]) -> dict[str, Any]:
        """Returns what the UNet reads beside noise, time and prompts."""
        return {}


class OfNoise:
    """What a family has beside whose VAE makes latents of pictures, and whose denoiser predicts noise added to them.

    See :class:`loco_core.diffusion.model.Attackable`. It stands before the other bases of a family.
    """

    def read(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts, with gradients where torch keeps them."""
        raise NotImplementedError

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts with the pipeline's own text encoder, padded to its length."""
        import torch

        with torch.no_grad():
            return self.read(pipeline, prompts)

    def latents(self, pipeline: Any, pictures: torch.Tensor) -> torch.Tensor:
        """Returns the mean of what the VAE says of each picture, scaled as the denoiser reads it."""
        import torch

        from loco_core.diffusion.engine import device_of

        vae = pipeline.vae
        with torch.no_grad():
            mean = vae.encode((2 * pictures - 1).to(device_of(vae), vae.dtype)).latent_dist.mode()
        found: torch.Tensor = mean * vae.config.scaling_factor
        return found

"""What calling a pipeline has told of it: facts of a model whose class has no family. Without torch."""

from __future__ import annotations

from dataclasses import dataclass

from loco_core.diffusion.facts import DEFAULT, FamilyInfo, Half

EDITS = f"nothing: the {DEFAULT} family does not know which tokens of a text are words"


@dataclass(frozen=True)
class Profile:
    """What was found by calling a pipeline.

    Attributes:
        pipeline: its class.
        part: component that draws: ``transformer`` or ``unet``.
        site_names: addresses of its sites in execution order.
        tokens: positions of a text at its sites.
        passes: how guidance runs, see :class:`FamilyInfo`.
        text_last: whether the image stands in front of the text where one projection serves both.
        mask: argument of the denoiser that masks padding; empty where there is none.
        mask_argument: argument by which attentions at the sites take that mask.
        pooled: arguments of the denoiser that hold a text beside the sites, one vector a row.
        scale_argument: argument of its call that the guidance scale is; empty where it takes none.
        unguided_scale: largest guidance scale at which it runs no guidance.
        steps: denoising steps by default.
        guidance_scale: guidance scale by default.
        native_side: larger side of its pictures in pixels by default.
        side_multiple: number of pixels that sides are multiples of.
        scheduler: class of its scheduler.
        follows: whether rows can be given other rows' noisy pictures.
        sides: whether its call takes height and width.
    """

    pipeline: str
    part: str
    site_names: tuple[str, ...]
    tokens: int
    passes: tuple[tuple[Half, ...], ...]
    text_last: bool
    mask: str
    mask_argument: str
    pooled: tuple[str, ...]
    scale_argument: str
    unguided_scale: float
    steps: int
    guidance_scale: float
    native_side: int
    side_multiple: int
    scheduler: str
    follows: bool
    sides: bool

    @property
    def facts(self) -> FamilyInfo:
        """The same as facts of a family.

        Donors are drawn beside the rows that read them, as where the text evolves: that is right wherever K and V come
        from, and nobody has to know how a text becomes what the denoiser reads.
        """
        return FamilyInfo(
            pipelines=(self.pipeline,),
            models={},
            seconds_per_image=20.0,
            config_file=f"{self.part}/config.json",
            site_names=lambda _: self.site_names,
            native_side=lambda _: self.native_side,
            encoders="whatever its own call reads texts with",
            stream="evolving",
            pooled=", ".join(self.pooled),
            editable=EDITS,
            side_multiple=self.side_multiple,
            schedulers=(self.scheduler,),
            passes=self.passes,
            scale_argument=self.scale_argument,
            text_last=self.text_last,
            words=False,
            follows=self.follows,
            sides=self.sides,
            unguided_scale=self.unguided_scale,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
        )

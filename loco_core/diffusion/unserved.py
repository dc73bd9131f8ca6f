"""Pipelines of diffusers that no family serves, each with the reason: what a person is told of a folder of one.

A family of a plug-in may serve any of them; it is asked first.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_PRIOR = (
    "the text enters a prior, which draws an embedding of a picture, and the denoiser that draws the picture reads that"
)
_TWO = "two denoisers draw a picture, the first of them an embedding of it, and a sweep intervenes on one"
_SINGLE = "text and image are one sequence in every block, and no family says where the text stands in it"
_JOINT = "text and image attend to each other in every block, and no family says how it is prompted"
_PRX = "with guidance its pipeline tells the denoiser two times whatever the batch, so that a batch holds one picture"
REASONS = {
    "AmusedPipeline": "tokens of a codebook are predicted; nothing is denoised",
    "BriaFibo2Pipeline": _JOINT,
    "BriaFiboPipeline": _JOINT,
    "BriaPipeline": _JOINT,
    "Cosmos2TextToImagePipeline": "it does not load without a safety checker, whose black would pass for effects",
    "ErnieImagePipeline": _SINGLE,
    "GlmImagePipeline": (
        "a language model first draws tokens of the picture from the prompt; the denoiser reads these, and of the "
        "prompt the words in quotation marks alone"
    ),
    "HiDreamImagePipeline": (
        "every block of the denoiser reads another layer of a language model, and an encoded prompt holds one; it is "
        "published without that language model, too"
    ),
    "Ideogram4Pipeline": _SINGLE,
    "Kandinsky5T2IPipeline": (
        "it reads texts of a batch without masking their padding, so that a picture depends on the others of its batch"
    ),
    "Krea2Pipeline": _SINGLE,
    "LongCatImagePipeline": _JOINT,
    "LuminaPipeline": "no family says how it is prompted",
    "NucleusMoEImagePipeline": _JOINT,
    "OmniGenPipeline": _SINGLE,
    "PRXPipeline": _PRX,
    "PRXPixelPipeline": _PRX,
    "QwenImage21Pipeline": (
        "a word's position counts on the axes of the picture, too, so that sentences of several lengths have no place "
        "in common; and K and V of the text are kept from the first step, whatever is read later"
    ),
    "StableCascadeCombinedPipeline": _TWO,
    "StableCascadePriorPipeline": "it draws an embedding of a picture, not a picture",
    "StableUnCLIPPipeline": _PRIOR,
    "UnCLIPPipeline": _PRIOR,
    "WuerstchenCombinedPipeline": _TWO,
    "ZImageOmniPipeline": "it reads pictures beside the text; of a text alone, ZImagePipeline is the one to load",
}
"""Why pipelines are not served, by class."""


class Kind(NamedTuple):
    """Pipelines that are told by what their names hold.

    Attributes:
        words: what they are, in words.
        pattern: what their names hold.
        reason: why none is served.
    """

    words: str
    pattern: str
    reason: str


KINDS = (
    Kind(
        "pipelines with a control image",
        r"Control|Adapter|GLIGEN",
        "it draws from a control image beside the text, and a sweep has none",
    ),
    Kind("priors", r"Prior", "it draws an embedding of a picture, not a picture"),
    Kind("Kandinsky 1 and 2", r"^Kandinsky(V22)?(Combined)?Pipeline$", _PRIOR),
    Kind(
        "pipelines that change or enlarge pictures",
        r"Img2Img|Image2Image|I2I|Inpaint|Edit|Fill|Redux|Variation|Depth2Img|Pix2Pix|Upscale|SuperResolution|Upsample"
        r"|Refiner|PaintByExample|Layered|VisualCloze",
        "it draws from a picture beside the text, and a sweep has none",
    ),
    Kind(
        "pipelines for videos",
        r"Video|AnimateDiff|T2V|I2V|V2V|CogVideo|^LTX|Mochi|Latte|Allegro|SkyReels|World|Wan|EasyAnimate"
        r"|Framepack|ConsisID|ChronoEdit|^PIA|Helios",
        "it draws videos, and no family takes one frame of them as a picture",
    ),
    Kind(
        "pipelines that draw Stable Diffusion in another way",
        r"^StableDiffusion(SAG|AttendAndExcite|Panorama|Paradigms)Pipeline$|^SemanticStableDiffusionPipeline$",
        "it changes how pictures are drawn; expected the same weights saved from a StableDiffusionPipeline",
    ),
    Kind(
        "pipelines without a text",
        r"^(DDIM|DDPM|PNDM|LDM|DiT|ScoreSdeVe|KarrasVe|ConsistencyModel|RePaint)Pipeline$",
        "it reads no text",
    ),
    Kind(
        "modular pipelines",
        r"Modular",
        "it is put together of blocks anew for every call; expected one with a call of its own",
    ),
    Kind("pipelines for sounds", r"Audio|Music|AceStep|DanceDiffusion|Spectrogram", "it draws sounds"),
    Kind("pipelines for shapes, depths and proteins", r"ShapE|Proteina|Marigold", "it draws no pictures of a text"),
)
"""Why kinds of pipelines are not served; the first that fits."""


def why_unserved(class_name: str, *, brought: bool = False) -> str | None:
    """Returns why no family serves a pipeline of diffusers, in words; None where nobody has looked at it.

    Args:
        class_name: name of its class.
        brought: whether a package brings the class: what the name of one of diffusers holds tells nothing of it.
    """
    if class_name in REASONS or brought:
        return REASONS.get(class_name)
    return next((kind.reason for kind in KINDS if re.search(kind.pattern, class_name)), None)

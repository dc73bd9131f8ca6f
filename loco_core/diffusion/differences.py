"""In what two models differ beside K and V of their sites, told from their files. No torch.

Where one model is the donor of another, all of that stays the other's: a swap reaches K and V of sites alone.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loco_core.diffusion.adapters import lora_file
from loco_core.diffusion.folders import components, model_files, place_of, variant_of
from loco_core.diffusion.formats import SIZES, same_values
from loco_core.diffusion.headers import SUFFIX, read_header, read_spans
from loco_core.types import Extras, Lora

_CHUNK = 2**22
"""Numbers that are compared at once."""
# Projections that serve the text alone come first: beside them the plain ones serve the image.
_PROJECTIONS = (("add_k_proj", "add_v_proj"), ("to_k", "to_v"))
_LORA_END = re.compile(r"(\.lora_\w+|_lora|\.lora|\.processor|\.alpha|\.dora_scale)(\.\w+)*$")
_PROCESSOR = re.compile(r"\.processor\.")


@dataclass(frozen=True)
class Differences:
    """What differs between two models.

    Attributes:
        sites: sites whose K or V differ.
        elsewhere: tensors of the denoiser that differ and are not K or V of a site.
        components: other parts that differ, such as ``text_encoder``.
    """

    sites: tuple[int, ...]
    elsewhere: int
    components: tuple[str, ...]


@dataclass(frozen=True)
class Weighed:
    """A model in a folder.

    Attributes:
        folder: folder of its pipeline.
        extras: what it is loaded with beside that.
        denoiser: name of its denoiser's component.
        left_out: components that it is loaded without.
    """

    folder: Path
    extras: Extras
    denoiser: str
    left_out: Collection[str]


@dataclass(frozen=True)
class _Span:
    dtype: str
    file: Path
    start: int
    end: int


def differences(one: Weighed, other: Weighed, site_names: Sequence[str]) -> Differences:
    """Compares the weights of two models, and the LoRAs that only one of them has.

    A tensor that they hold in two formats of numbers is the same where it is after rounding to the narrower one.

    Args:
        one: a model.
        other: the other one, of the same architecture.
        site_names: addresses of the sites of both.

    Raises:
        ModelError: a file cannot be read.
    """
    changed: dict[str, set[str]] = {}
    theirs = _tensors(other)
    for name, spans in _tensors(one).items():
        against = theirs.get(name, {})
        keys = {key for key in spans.keys() | against.keys() if not _same(spans.get(key), against.get(key))}
        changed[name] = {key.rpartition(".")[0] for key in keys}
    for lora in set(one.extras.loras) ^ set(other.extras.loras):
        for name, modules in _modules_of(lora, one.denoiser).items():
            changed.setdefault(name, set()).update(modules)
    projections = _projections(_tensors(one).get(one.denoiser, {}), site_names)
    modules = {re.sub(r"\W", "_", key) for key in changed.pop(one.denoiser, ())}
    sites = tuple(i for i, paths in enumerate(projections) if modules & paths)
    elsewhere = modules - set[str]().union(*projections)
    return Differences(sites, len(elsewhere), tuple(sorted(name for name, keys in changed.items() if keys)))


def _tensors(model: Weighed) -> dict[str, dict[str, _Span]]:
    """Returns where the tensors of every component are, by their names."""
    variant = variant_of(model.folder, model.left_out, model.extras.variant)
    found: dict[str, dict[str, _Span]] = {}
    for part in components(model.folder, model.left_out):
        if part.kind == "model":
            files = model_files(place_of(model.folder, part), part.library, variant)
            found[part.name] = {
                key: _Span(dtype, file, *span)
                for file in files
                if file.suffix == SUFFIX
                for key, (dtype, span) in read_spans(file).items()
            }
    return found


def _same(one: _Span | None, other: _Span | None) -> bool:
    if one is None or other is None:
        return False
    # Of formats that are not known here bytes are compared.
    known = one.dtype in SIZES and other.dtype in SIZES
    sizes = (SIZES[one.dtype], SIZES[other.dtype]) if known else (1, 1)
    count = (one.end - one.start) // sizes[0]
    if count != (other.end - other.start) // sizes[1] or (not known and one.dtype != other.dtype):
        return False
    if count == 0:
        return True
    with one.file.open("rb") as first, other.file.open("rb") as second:
        a, b = (mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for file in (first, second))
        with a, b:
            return all(
                here == there if one.dtype == other.dtype else same_values(here, one.dtype, there, other.dtype)
                for at in range(0, count, _CHUNK)
                for here, there in [(_cut(a, one, at, sizes[0]), _cut(b, other, at, sizes[1]))]
            )


def _cut(data: mmap.mmap, span: _Span, first: int, size: int) -> bytes:
    return data[span.start + size * first : min(span.start + size * (first + _CHUNK), span.end)]


def _modules_of(lora: Lora, denoiser: str) -> Mapping[str, set[str]]:
    """Returns the modules that a LoRA changes, by component; with underscores for dots, as one naming has it."""
    found: dict[str, set[str]] = {}
    for key in read_header(lora_file(lora.path)):
        # Older training scripts write the processor of an attention between it and its layers.
        module = _LORA_END.sub("", _PROCESSOR.sub(".", key))
        if _PROCESSOR.search(key):
            module = re.sub(r"\.to_out$", ".to_out.0", module)
        known = {"lora_unet_": denoiser, "lora_te": "text_encoder", "text_encoder": "text_encoder"}
        name = next((name for start, name in known.items() if module.startswith(start)), denoiser)
        for start in ("lora_unet_", "unet.", "transformer."):
            module = module.removeprefix(start)
        found.setdefault(name, set()).add(re.sub(r"\W", "_", module))
    return found


def _projections(keys: Collection[str], site_names: Sequence[str]) -> list[set[str]]:
    """Returns the modules that are K and V of every site, with underscores for dots."""
    modules = {key.rpartition(".")[0] for key in keys}
    return [{re.sub(r"\W", "_", path) for path in _of_site(modules, name)} for name in site_names]


def _of_site(modules: Collection[str], name: str) -> Iterator[str]:
    for names in _PROJECTIONS:
        inside = rf"(\.transformer_blocks\.0)?(\.(attn2|attn|cross_attention))?\.({'|'.join(names)})"
        found = [path for path in modules if re.fullmatch(re.escape(name) + inside, path)]
        if found:
            yield from found
            return

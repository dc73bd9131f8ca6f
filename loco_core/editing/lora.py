"""Edits as LoRA: the change of every projection as the product of two thin matrices, which other programs load.

``W0 + up @ down`` is the edited weight. The factors are those of the singular value decomposition in float64, cut at
the smallest rank that keeps the asked share of the energy, the squared Frobenius norm of the change (Eckart and Young,
1936: none of that rank keeps more). All projections of a file have the same rank, as programs expect it; where one
needs less, it is filled up with what its change holds beyond that, or with zeros.

A change that LocoEdit makes of ``n`` keys is of rank ``n``. In a half precision its rounding is added, which is of full
rank: it is no part of the edit, and a change is cut where nothing but rounding would be left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.deltas import DENOISER, Change, WeightDelta, changed_projection, check_made_for
from loco_core.errors import EditError

if TYPE_CHECKING:
    import torch

Naming = Literal["diffusers", "kohya"]
METADATA = "loco_sweep_lora"
# What programs that read kohya's names know of a UNet and of CLIP.
_KOHYA = re.compile(
    r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.attentions\.\d+\.transformer_blocks\.\d+\.attn[12]\.to_[qkv]"
    r"|text_model\.encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj"
)
_OTHERWISE = "; expected --format folder"


@dataclass(frozen=True)
class LoraSettings:
    """How a LoRA is made.

    Attributes:
        naming: ``diffusers`` names modules as peft does; ``kohya`` as its scripts for Stable Diffusion do, which
            diffusers and other programs read.
        energy: share of the energy that every projection is to keep, above 0 and up to 1.
        rank: of all projections; None takes the smallest that will do.
    """

    naming: Naming = "diffusers"
    energy: float = 0.999
    rank: int | None = None


@dataclass(frozen=True)
class LowRank:
    """The change of one projection.

    Attributes:
        change: the change.
        component: part of the pipeline, as the pipeline names it.
        module: path of the projection inside it, as files name it.
        down: ``(rank, input width)``, in the model's dtype.
        up: ``(output width, rank)``.
        bias: ``(output width,)`` change of the bias; None where no bias changes anywhere.
        energy: squared Frobenius norm of the whole change.
        kept: share of it that ``up @ down`` holds, as rounded to the dtype.
    """

    change: Change
    component: str
    module: str
    down: torch.Tensor
    up: torch.Tensor
    bias: torch.Tensor | None
    energy: float
    kept: float


@dataclass(frozen=True)
class Lora:
    """An edit as a LoRA.

    Attributes:
        rank: of all its projections.
        parts: the projections.
        settings: how it was made.
    """

    rank: int
    parts: tuple[LowRank, ...]
    settings: LoraSettings

    @property
    def kept(self) -> float:
        """Share of the energy that it keeps, all projections together."""
        whole = sum(part.energy for part in self.parts)
        return sum(part.kept * part.energy for part in self.parts) / whole if whole else 1.0

    @property
    def in_words(self) -> str:
        """Rank and energy in words, and why less is kept than was asked for, if so."""
        least, asked = min(part.kept for part in self.parts), self.settings.energy
        words = f"rank {self.rank}, {percent(self.kept)} of the energy of the change kept"
        if len(self.parts) > 1:
            words += f", at least {percent(least)} in each of {len(self.parts)} projections"
        if least < asked and percent(least) != percent(asked):
            words += f"; what is missing of {percent(asked)} is the rounding of the edited weights"
        return words


@dataclass(frozen=True)
class _Decomposed:
    """A change in factors of full rank, largest first.

    Attributes:
        change: the change.
        place: component, and path inside it, as the file names them.
        up: ``(output width, k)``, each column times the root of its singular value.
        down: ``(k, input width)``, the same of rows.
        tails: ``(k + 1,)`` energy that is lost at rank 0 to k.
        rounding: energy that rounding to the model's dtype adds, as expected.
    """

    change: Change
    place: tuple[str, str]
    up: torch.Tensor
    down: torch.Tensor
    tails: Sequence[float]
    rounding: float

    def needs(self, energy: float) -> int:
        """Returns the smallest rank, from 1, that keeps a share of the energy, or loses nothing but rounding."""
        most = max((1 - energy) * self.tails[0], self.rounding)
        return max(1, next(rank for rank, lost in enumerate(self.tails) if lost <= most or rank == len(self.tails) - 1))


def percent(share: float) -> str:
    """Says a share of energy: "99.9 %"."""
    return f"{100 * share:.6g} %"


def low_rank(model: LoadedModel, delta: WeightDelta, weights: str | None, settings: LoraSettings) -> Lora:
    """Turns an edit into a LoRA.

    Args:
        model: the model that it was fitted on; no pass is made.
        delta: the edit.
        weights: hash of the model's weights; None takes for granted that they are those of the edit.
        settings: how it is made.

    Raises:
        EditError: diffusers loads no LoRA into what the edit changes, kohya has no names for it, the edit is no change
            of weights or is of another model, or the rank is too small, or larger than any change has.
    """
    energy, rank = settings.energy, settings.rank
    if not 0 < energy <= 1:
        raise EditError(f"energy {energy:g} is no share; expected one above 0 and up to 1, such as 0.999")
    check_made_for(model, delta, weights)
    components = {change.component: _component(model, change.component) for change in delta.changes}
    places = [(components[change.component], _path(components[change.component], change)) for change in delta.changes]
    biased = any(change.bias is not None for change in delta.changes)
    if settings.naming == "kohya":
        _check_kohya(model, places, biased)
    found = [_decomposed(model, change, place) for change, place in zip(delta.changes, places, strict=True)]
    found = [item for item in found if item.tails[0] > 0 or item.change.bias is not None]
    if not found:
        raise EditError("the edit leaves all weights as they are, so that a LoRA of it would be empty")
    needed = max(found, key=lambda item: item.needs(energy))
    chosen = _checked(rank, needed, energy, found) if rank is not None else needed.needs(energy)
    return Lora(chosen, tuple(_cut(model, item, chosen, biased) for item in found), settings)


def _checked(rank: int, needed: _Decomposed, energy: float, found: Sequence[_Decomposed]) -> int:
    most = max(len(item.tails) - 1 for item in found)
    if not 1 <= rank <= most:
        raise EditError(f"rank {rank}: no change of this edit has it; expected 1 to {most}")
    if rank < (least := needed.needs(energy)):
        kept = 1 - needed.tails[rank] / needed.tails[0]
        raise EditError(
            f"rank {rank} keeps {percent(kept)} of the energy of {needed.place[1]}; expected rank {least}, which keeps "
            f"{percent(energy)}, or a lower --energy"
        )
    return rank


def _component(model: LoadedModel, component: str) -> str:
    """Returns what the pipeline calls a component of an edit, if it loads a LoRA into it."""
    pipeline = model.pipeline
    name = component
    if component == DENOISER:
        denoiser = model.family.denoiser(pipeline)
        name = next(key for key, part in pipeline.components.items() if part is denoiser)
    kind = type(pipeline).__name__
    if not hasattr(pipeline, "load_lora_weights"):
        raise EditError(f"{kind} of diffusers loads no LoRA{_OTHERWISE}")
    loadable = tuple(getattr(pipeline, "_lora_loadable_modules", ()))
    if name not in loadable:
        raise EditError(f"{kind} of diffusers loads LoRAs into {' and '.join(loadable)}, not into {name}{_OTHERWISE}")
    return name


def _path(component: str, change: Change) -> str:
    """Returns a module's path as files have it: newer versions of transformers leave out a part, as loaders know."""
    left_out = "text_encoder" in component and not change.module.startswith("text_model.")
    return f"text_model.{change.module}" if left_out else change.module


def _check_kohya(model: LoadedModel, places: Sequence[tuple[str, str]], biased: bool) -> None:
    for component, path in places:
        if "unet" not in model.pipeline.components or not _KOHYA.fullmatch(path):
            raise EditError(
                f"kohya has no name for {component}.{path}: its names are of the UNets of Stable Diffusion 1, 2 and XL "
                "and of their text encoders; expected --naming diffusers"
            )
    if biased:
        raise EditError("the edit changes biases, for which kohya has no names; expected --naming diffusers")


def _decomposed(model: LoadedModel, change: Change, place: tuple[str, str]) -> _Decomposed:
    import torch

    module, dtype = changed_projection(model, change), getattr(torch, model.dtype)
    difference = _difference(module, change)
    left, values, right = torch.linalg.svd(difference, full_matrices=False)
    up = torch.zeros(module.out_features, len(values), dtype=dtype)
    up[change.rows] = (left * values.sqrt()).to(dtype)
    down = (values.sqrt()[:, None] * right).to(dtype)
    squares = values.square()
    tails = [*squares.flip(0).cumsum(0).flip(0).tolist(), 0.0]
    rounding = 0.0 if change.weight is None else _rounding(change.weight)
    return _Decomposed(change, place, up, down, tails, rounding)


def _difference(module: torch.nn.Linear, change: Change) -> torch.Tensor:
    """Returns the change of the rows, ``(r, input width)`` in float64."""
    import torch

    if change.weight is None:
        return torch.zeros(len(change.rows), module.in_features, dtype=torch.float64)
    before = module.weight.detach()[change.rows.to(module.weight.device)]
    return change.weight.double().cpu() - before.double().cpu()


def _rounding(weight: torch.Tensor) -> float:
    """Returns the energy that rounding adds, as expected of errors that are uniform: spacing squared over 12."""
    import torch

    info = torch.finfo(weight.dtype)
    exponents = torch.frexp(weight.float().cpu())[1].double()
    spacing = info.eps * torch.exp2(exponents - 1).clamp(min=info.smallest_normal)
    return float((spacing.square() / 12)[weight.cpu() != 0].sum())


def _cut(model: LoadedModel, item: _Decomposed, rank: int, biased: bool) -> LowRank:
    import torch

    change, module = item.change, changed_projection(model, item.change)
    held = min(rank, len(item.down))
    down, up = item.down.new_zeros(rank, module.in_features), item.up.new_zeros(module.out_features, rank)
    down[:held], up[:, :held] = item.down[:held], item.up[:, :held]
    lost = _difference(module, change) - up[change.rows].double() @ down.double()
    bias = None
    if biased:
        if module.bias is None:
            raise EditError(f"the edit changes biases, and {change.module} has none{_OTHERWISE}")
        bias = torch.zeros_like(module.bias, device="cpu")
        if change.bias is not None:
            bias[change.rows] = change.bias.cpu() - module.bias.detach().cpu()[change.rows]
    kept = max(0.0, 1 - float(lost.square().sum()) / item.tails[0]) if item.tails[0] else 1.0
    return LowRank(change, *item.place, down, up, bias, item.tails[0], kept)


def to_bytes(lora: Lora, delta: WeightDelta) -> bytes:
    """Returns a LoRA as the content of a safetensors file.

    Args:
        lora: the edit as a LoRA.
        delta: the edit that it was made of, for provenance.
    """
    from safetensors.torch import save

    tensors = _peft(lora) if lora.settings.naming == "diffusers" else _kohya(lora)
    said = {
        "rank": lora.rank,
        "energy_kept": lora.kept,
        "energy_kept_by_module": {f"{part.component}.{part.module}": part.kept for part in lora.parts},
        "provenance": asdict(delta.provenance),
    }
    # One key: see `loco_core.editing.deltas.to_bytes`.
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={METADATA: json.dumps(said)})


def _peft(lora: Lora) -> Mapping[str, torch.Tensor]:
    tensors = {}
    for part in lora.parts:
        name = f"{part.component}.{part.module}"
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = part.down, part.up
        if part.bias is not None:
            tensors[f"{name}.lora_B.bias"] = part.bias
    return tensors


def _kohya(lora: Lora) -> Mapping[str, torch.Tensor]:
    import torch

    tensors, encoders = {}, {part.component for part in lora.parts} - {"unet"}
    first = "lora_te1" if "text_encoder_2" in encoders else "lora_te"
    prefixes = {"unet": "lora_unet", "text_encoder": first, "text_encoder_2": "lora_te2"}
    for part in lora.parts:
        name = f"{prefixes[part.component]}_{part.module.replace('.', '_')}"
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = part.down, part.up
        # Programs multiply by alpha over rank.
        tensors[f"{name}.alpha"] = torch.tensor(float(lora.rank))
    return tensors

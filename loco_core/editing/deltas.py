"""Edits as data: the weights that an edit changes, with where they come from; applied and undone bit for bit.

A delta holds the new values of whole rows (output coordinates) of linear projections, K and V of the denoiser or some
of a text encoder, in the dtype of the model, so that applying it is a copy and undoing it is a copy back: no sum that
rounding could spoil. What no weights can say, it holds by a hook while a model runs.

The editors' files name these classes, and who only plans reads those: torch is imported where it is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loco_core.diffusion.model import LoadedModel, Running
from loco_core.errors import EditError

if TYPE_CHECKING:
    import torch

PROVENANCE = "loco_sweep_delta"
PARTS = ("weight", "bias", "constant", "conditional")
DENOISER = "denoiser"
"""The component that has the sites; others are named as the pipeline names them, e.g. ``text_encoder``."""


@dataclass(frozen=True)
class Provenance:
    """Where a delta comes from.

    Attributes:
        model: the model's id in the sweep.
        weights: hash of the weights that it was fitted on, and that alone it fits.
        dtype: of the model.
        sites: the edited sites, in execution order.
        attributes: keys of the attributes that it removes or replaces.
        editor: key of the editor.
        settings: of the editor, as JSON.
        localization: what picked the sites: the localizer and its outcome, ``by hand``, or the method itself.
        components: the parts of the pipeline that it changes.
        prompts: what it was fitted on, each with what it is to read as; empty in older files.
    """

    model: str
    weights: str
    dtype: str
    sites: tuple[int, ...]
    attributes: tuple[str, ...]
    editor: str
    settings: str
    localization: str
    components: tuple[str, ...] = (DENOISER,)
    prompts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Change:
    """New rows of one projection.

    Attributes:
        module: path of the projection inside its component.
        rows: ``(r,)`` int64, the output coordinates that change.
        weight: ``(r, input width)`` their new weights, in the model's dtype; None leaves them as they are.
        bias: ``(r,)`` their new biases; None leaves them as they are.
        constant: ``(r,)`` values that the outputs are held at, whatever the input; None where weights alone change.
            Projections without a bias cannot hold them as weights, so that they live in this runtime only.
        conditional: ``(r,)`` the same, in the conditional half of guidance alone; no weights can tell the halves.
        component: part of the pipeline that the module is in.
        ridge: lambda of the equation that the weights solve, absolute; None where they solve none.
    """

    module: str
    rows: torch.Tensor
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    constant: torch.Tensor | None = None
    conditional: torch.Tensor | None = None
    component: str = DENOISER
    ridge: float | None = None


@dataclass(frozen=True)
class WeightDelta:
    """An edit of a model."""

    provenance: Provenance
    changes: tuple[Change, ...]

    @property
    def runtime_only(self) -> str:
        """Why plain diffusers cannot hold it, in words; empty where weights alone change."""
        if any(change.conditional is not None for change in self.changes):
            return "the conditional half of guidance alone is edited, and plain diffusers cannot tell the halves"
        if any(change.constant is not None for change in self.changes):
            return "its K and V have no bias, so that no weights can hold a coordinate at a constant"
        return ""

    @property
    def ridge(self) -> float | None:
        """Lambda of the equations that its weights solve, absolute.

        None where they solve none, or where projections that read different texts have one each.
        """
        found = {change.ridge for change in self.changes}
        return found.pop() if len(found) == 1 else None


def norm(model: LoadedModel, delta: WeightDelta) -> float:
    """Returns the Frobenius norm of the change of all weights together; constants do not count."""
    total = 0.0
    for change in delta.changes:
        if change.weight is not None:
            held = projection(model, change.module, change.component).weight.detach()
            before = held[change.rows.to(held.device)]
            total += float((change.weight.to(before) - before).double().square().sum())
    return float(total**0.5)


def component(model: LoadedModel, name: str) -> torch.nn.Module:
    """Returns a part of the pipeline that an edit may change.

    Raises:
        EditError: the pipeline has none of this name.
    """
    import torch

    if name == DENOISER:
        return model.family.denoiser(model.pipeline)
    found = model.pipeline.components.get(name)
    if not isinstance(found, torch.nn.Module):
        raise EditError(f"the pipeline has no {name}; the edit is of another architecture")
    return found


def projection(model: LoadedModel, path: str, where: str = DENOISER) -> torch.nn.Linear:
    """Returns a projection of a model.

    Args:
        model: a loaded model.
        path: of the projection inside its component.
        where: the component.

    Raises:
        EditError: there is none, or it is not a plain linear map of the text, so that it admits no edit.
    """
    import torch

    try:
        module = component(model, where).get_submodule(path)
    except AttributeError as error:
        raise EditError(f"the model has no projection {path}; the edit is of another architecture") from error
    if not isinstance(module, torch.nn.Linear):
        raise EditError(f"{path} is a {type(module).__name__}; only a linear projection of the text can be edited")
    if module.weight.is_meta:
        # Written to, it would change nothing, silently: the weights are in a table of whatever offloads them.
        raise EditError(
            f"{path} is offloaded layer by layer and cannot be edited; expected engine.offload: model or none"
        )
    return module


def check_made_for(model: LoadedModel, delta: WeightDelta, weights: str | None) -> None:
    """Refuses an edit of other weights, or of another dtype.

    Args:
        model: a loaded model.
        delta: the edit.
        weights: hash of the model's weights; None takes for granted that they are those of the edit.

    Raises:
        EditError: the delta was fitted on other weights or in another dtype.
    """
    made = delta.provenance
    if weights is not None and made.weights != weights:
        raise EditError(
            f"the edit fits weights {made.weights[:12]} of {made.model}; these are {weights[:12]}; fit it again"
        )
    if made.dtype != model.dtype:
        raise EditError(f"the edit was fitted in {made.dtype}; the model is loaded in {model.dtype}: fit it again")


def changed_projection(model: LoadedModel, change: Change) -> torch.nn.Linear:
    """Returns the projection that a change is of.

    Raises:
        EditError: the model has none, or one of another size.
    """
    module = projection(model, change.module, change.component)
    if change.rows.numel() and int(change.rows.max()) >= module.out_features:
        raise EditError(f"{change.module} has {module.out_features} rows; the edit is of a wider model")
    if change.weight is not None and change.weight.shape[1] != module.in_features:
        raise EditError(
            f"{change.module} reads {module.in_features} coordinates; the edit has {change.weight.shape[1]}"
        )
    if change.bias is not None and module.bias is None:
        raise EditError(f"{change.module} has no bias; the edit changes one")
    return module


@contextmanager
def applied(model: LoadedModel, delta: WeightDelta, weights: str | None) -> Iterator[None]:
    """Applies a delta for the time of a ``with`` block, and restores every bit behind it.

    Args:
        model: a loaded model.
        delta: the edit.
        weights: hash of the model's weights; None takes for granted that they are those of the edit.

    Raises:
        EditError: the delta was fitted on other weights or in another dtype, or does not fit the model.
    """
    import torch

    check_made_for(model, delta, weights)
    with ExitStack() as stack, torch.no_grad():
        # What was encoded with other weights is not what these would encode; undone last, hence behind all changes.
        model.encoded.clear()
        stack.callback(model.encoded.clear)
        for change in delta.changes:
            stack.enter_context(_changed(model, changed_projection(model, change), change))
        yield


@contextmanager
def _changed(model: LoadedModel, module: torch.nn.Linear, change: Change) -> Iterator[None]:
    rows = change.rows.to(module.weight.device)
    pairs = [(module.weight, change.weight), (module.bias, change.bias)]
    before = [(held, held.detach()[rows].clone()) for held, new in pairs if new is not None]
    handle = None
    try:
        for held, new in pairs:
            if new is not None:
                held.data[rows] = new.to(held)
        if change.constant is not None:
            handle = module.register_forward_hook(_holder(rows, change.constant.to(module.weight)))
        if change.conditional is not None:
            handle = module.register_forward_hook(_holder(rows, change.conditional.to(module.weight), model.running))
        yield
    finally:
        for held, old in before:
            # What offloads components may have moved them meanwhile.
            held.data[rows.to(held.device)] = old.to(held.device)
        if handle is not None:
            handle.remove()


def _holder(rows: torch.Tensor, constant: torch.Tensor, running: Running | None = None) -> Any:
    """Returns a hook that holds coordinates of a projection's outputs, at all positions.

    Args:
        rows: the coordinates.
        constant: what they are held at.
        running: tells which rows of the batch are conditional, which alone are held then; None holds all.
    """
    import torch

    def hold(_: torch.nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        where = rows.to(output.device)
        held = output.clone()
        held[..., where] = constant.to(output.device)
        if running is None:
            return held
        if running.conditional is None:
            raise EditError(
                "the edit holds the conditional half of guidance alone, and nothing tells the halves here; draw with "
                "loco_core.diffusion.generate.generate"
            )
        return torch.where(running.conditional.to(output.device)[:, None, None], held, output)

    return hold


def placebo(model: LoadedModel, delta: WeightDelta, seed: int) -> WeightDelta:
    """Returns a random edit of the same rows with the same norm in every projection: what any edit of that size does.

    Args:
        model: what the delta was fitted on.
        delta: the edit; its constants are dropped.
        seed: of the noise.
    """
    import torch

    generator, changes = torch.Generator().manual_seed(seed), []
    for change in delta.changes:
        if change.weight is None:
            continue
        held = projection(model, change.module, change.component).weight.detach().cpu()
        before = held[change.rows].double()
        size = (change.weight.double() - before).norm()
        noise = torch.randn(before.shape, generator=generator, dtype=torch.float64)
        changes.append(replace(change, weight=(before + noise * size / noise.norm()).to(change.weight.dtype)))
    return WeightDelta(delta.provenance, tuple(changes))


def to_bytes(delta: WeightDelta) -> bytes:
    """Returns a delta as the content of a safetensors file."""
    import torch
    from safetensors.torch import save

    tensors = {}
    for change in delta.changes:
        # Paths of modules hold no colon.
        name = change.module if change.component == DENOISER else f"{change.component}:{change.module}"
        tensors[f"{name}.rows"] = change.rows.contiguous()
        for part in PARTS:
            if (value := getattr(change, part)) is not None:
                tensors[f"{name}.{part}"] = value.contiguous()
        if change.ridge is not None:
            tensors[f"{name}.ridge"] = torch.tensor(change.ridge, dtype=torch.float64)
    # One key: of several the order differs from process to process, and equal edits are to be equal files.
    return save(tensors, metadata={PROVENANCE: json.dumps(asdict(delta.provenance))})


def read_delta(path: str | Path) -> WeightDelta:
    """Reads a delta from a file of ``RESULTS/deltas``.

    Raises:
        EditError: it cannot be read, or holds something else.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise EditError(f"{path} cannot be read: {error.strerror or error}") from error
    return from_bytes(data, str(path))


def from_bytes(data: bytes, where: str) -> WeightDelta:
    """Reads the content of a delta's file.

    Args:
        data: the file.
        where: its name, for messages.

    Raises:
        EditError: truncated, not safetensors, or safetensors of something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors, written = load(data), _metadata(data).get(PROVENANCE)
    except (SafetensorError, ValueError) as error:
        raise EditError(f"{where} is no safetensors file, or a truncated one: {error}") from error
    if written is None:
        raise EditError(f"{where} holds safetensors, but no edit; expected a file of RESULTS/deltas")
    try:
        made = json.loads(written)
        lists = {name: tuple(made[name]) for name in ("sites", "attributes")}
        # Older files change the denoiser alone, and do not say so.
        lists["components"] = tuple(made.get("components", [DENOISER]))
        lists["prompts"] = tuple((str(prompt), str(donor)) for prompt, donor in made.get("prompts", ()))
        provenance = Provenance(**{**made, **lists})
    except (ValueError, TypeError, KeyError) as error:
        raise EditError(f"{where} says of an edit what no version of this project writes: {error!r}") from error
    modules = [name.removesuffix(".rows") for name in tensors if name.endswith(".rows")]
    changes = tuple(
        Change(
            name.rpartition(":")[2], tensors[f"{name}.rows"], **{part: tensors.get(f"{name}.{part}") for part in PARTS},
            component=name.rpartition(":")[0] or DENOISER,
            ridge=float(tensors[f"{name}.ridge"]) if f"{name}.ridge" in tensors else None,
        )
        for name in modules
    )  # fmt: skip
    if not all(_sound(change) for change in changes):
        raise EditError(f"{where} holds an edit whose rows and weights do not go together")
    return WeightDelta(provenance, changes)


def _sound(change: Change) -> bool:
    import torch

    rows = change.rows
    parts = ((change.weight, 2), (change.bias, 1), (change.constant, 1), (change.conditional, 1))
    if rows.dtype != torch.int64 or rows.ndim != 1 or (rows.numel() and int(rows.min()) < 0):
        return False
    return all(part is None or (part.ndim == axes and len(part) == len(rows)) for part, axes in parts)


def _metadata(data: bytes) -> dict[str, str]:
    """Reads the header of a safetensors file: eight bytes of length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    return found


def module_paths(model: LoadedModel, sites: Sequence[int]) -> list[str]:
    """Returns the K and V projections of sites.

    Raises:
        EditError: a site is not in the model, or its projections serve the image too.
    """
    beyond = [site for site in sites if not 0 <= site < len(model.sites)]
    if beyond:
        raise EditError(f"site {beyond[0]} is not in the model, which has sites 0 to {len(model.sites) - 1}")
    found = [model.sites[site] for site in sites]
    shared = [site for site in found if not site.text_only]
    if shared:
        admit = sum(site.text_only for site in model.sites)
        raise EditError(
            f"site {shared[0].index} ({shared[0].name}) has one K and V for text and image, so that no edit of the "
            f"text alone exists there; those that admit one: {f'0 to {admit - 1}' if admit else 'none'}"
        )
    # One projection may give both.
    return list(dict.fromkeys(path for site in found for path in (site.key_path, site.value_path)))

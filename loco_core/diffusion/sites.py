"""Where text enters a denoiser: sites found by class, in the order in which a recorded forward pass runs them.

The order of ``named_modules`` would be wrong: a UNet registers its middle after its upper blocks. That of sorted names
would be wrong for transformers: block 10 sorts before block 2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loco_core.errors import ModelError
from loco_core.types import Site

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle


def unet_site_names(config: dict[str, Any]) -> tuple[str, ...]:
    """Returns the addresses of a UNet's sites in execution order, from its configuration, without torch.

    A block with one transformer layer is an address of its own (``up_blocks.1.attentions.2``); of several layers each
    is one (``up_blocks.0.attentions.1.transformer_blocks.3``).
    """
    layers, down, up = config["layers_per_block"], config["down_block_types"], config["up_block_types"]
    per_block = layers if isinstance(layers, list | tuple) else [layers] * len(down)
    depth = config.get("transformer_layers_per_block") or 1
    depths = list(depth) if isinstance(depth, list | tuple) else [depth] * len(down)
    reversed_depths = config.get("reverse_transformer_layers_per_block") or depths[::-1]

    def block(name: str, kind: str, attentions: int, depth: Any) -> Iterator[str]:
        if "CrossAttn" not in kind:
            return
        for number in range(checked(attentions, "layers_per_block")):
            address = f"{name}.attentions.{number}"
            # Of every attention of the block, or each its own.
            own = checked(depth[number] if isinstance(depth, list | tuple) else depth, "transformer_layers_per_block")
            yield from [address] if own == 1 else (f"{address}.transformer_blocks.{layer}" for layer in range(own))

    names = [name for i, kind in enumerate(down) for name in block(f"down_blocks.{i}", kind, per_block[i], depths[i])]
    # Configurations older than the key, those of Stable Diffusion 1 and 2 among them, have a middle block all the same.
    names += block("mid_block", config.get("mid_block_type", "UNetMidBlock2DCrossAttn") or "", 1, depths[-1])
    for i, kind in enumerate(up):
        names += block(f"up_blocks.{i}", kind, per_block[::-1][i] + 1, reversed_depths[i])
    return tuple(names)


def block_names(blocks: str, count: int) -> tuple[str, ...]:
    """Returns the addresses of a transformer's blocks in execution order."""
    return tuple(f"{blocks}.{number}" for number in range(checked(count, "the number of layers")))


def checked(value: Any, name: str, most: int = 4096) -> int:
    """Returns a number of a configuration.

    Raises:
        ValueError: it is no whole number, or none that a model could have.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{name} is {value!r}; expected a whole number up to {most}")
    return value


def largest_side(config: Any) -> int:
    """Returns the larger side of what a denoiser was trained on, as its configuration tells it: one number, or two.

    Raises:
        KeyError: it does not tell.
        ValueError: it tells something else.
    """
    side = config["sample_size"]
    sides = side if isinstance(side, list | tuple) and side else [side]
    if min(found := [checked(each, "sample_size", 65_536) for each in sides]) == 0:
        raise ValueError(f"sample_size is {side!r}; expected a whole number above 0")
    return max(found)


@dataclass(frozen=True)
class _Place:
    """An attention that text may enter.

    Attributes:
        query: name of the projection that queries come from.
        key: that of K of the text.
        value: that of V.
        key_columns: columns of its output that are K; None where all are.
        value_columns: likewise of V.
        named: whether its names alone say that the text has projections of its own.
    """

    query: str
    key: str
    value: str
    key_columns: tuple[int, int] | None = None
    value_columns: tuple[int, int] | None = None
    named: bool = False


# Projections of the text beside those of the image, then those that may serve it alone, both, or neither.
_NAMED = (("add_k_proj", "add_v_proj"), ("to_k_t", "to_v_t"))
_PLAIN = (("to_q", "to_k", "to_v"), ("to_query", "to_key", "to_value"))
_SUFFIXES = (".attn2", ".attn1", ".attn", ".attention", ".cross_attention")


def record_sites(denoiser: torch.nn.Module, run: Callable[[int], int], refiners: str = "") -> tuple[Site, ...]:
    """Finds a denoiser's sites, by how many tokens its projections are given.

    K of a cross-attention is given as many tokens as the text has, and its queries are not. What serves text and image
    alike is given more of them where the text is longer. What is given the text alone, queries too, refines it before
    it meets the image, and is no site.

    Args:
        denoiser: a UNet or transformer of diffusers.
        run: runs one forward pass of it with a text of about so many tokens, and returns how many it had.
        refiners: beginning of the module paths of attentions that are no sites; empty for none.

    Returns:
        the sites in execution order.

    Raises:
        ModelError: projections are fused, or a LoRA is loaded, so that K and V of the text cannot be told apart.
    """
    places = {
        name: place
        for name, module in denoiser.named_modules()
        if not (refiners and name.startswith(refiners)) and (place := _place(name, module))
    }
    short, few = _token_counts(denoiser, places, run, SHORT)
    _, many = _token_counts(denoiser, places, run, LONG)
    grown = {name for name in few if many.get(name, few[name])[1] > few[name][1]}
    longest = max((few[name][1] for name in grown), default=0)

    def kind(name: str) -> str:
        queries, keys = few[name]
        if places[name].named:
            return "text"
        if keys == short and queries != keys:
            return "text"
        return "shared" if name in grown and queries == keys == longest > short else ""

    kinds = {name: found for name in few if (found := kind(name))}
    return tuple(
        _site(index, name, denoiser, places[name], set(kinds), text_only=found == "text")
        for index, (name, found) in enumerate(kinds.items())
    )


SHORT, LONG = 2, 98
"""Tokens of the two texts: further apart than the multiples to which a denoiser pads (32 for Z-Image)."""


def _token_counts(
    denoiser: torch.nn.Module, places: Mapping[str, _Place], run: Callable[[int], int], tokens: int
) -> tuple[int, dict[str, tuple[int, int]]]:
    """Runs a pass and returns the length of its text, and tokens of queries and K by attention, in execution order."""
    seen: dict[str, dict[str, int]] = {}

    def note(name: str, part: str, given: torch.Tensor) -> None:
        seen.setdefault(name, {})[part] = given.shape[1] if given.ndim > 2 else given.shape[0]

    handles = [
        denoiser.get_submodule(f"{name}.{path}").register_forward_pre_hook(
            lambda _, given, name=name, part=part: note(name, part, given[0])
        )
        for name, place in places.items()
        for part, path in (("query", place.query), ("key", place.key))
    ]
    with removed(handles):
        length = run(tokens)
    return length, {name: (parts["query"], parts["key"]) for name, parts in seen.items() if len(parts) == 2}


def _site(
    index: int, name: str, denoiser: torch.nn.Module, place: _Place, found: Collection[str], *, text_only: bool
) -> Site:
    module = denoiser.get_submodule(name)
    for part in (place.key, place.value):
        if hasattr(getattr(module, part), "base_layer"):
            raise ModelError(
                f"{name}.{part} carries a LoRA; fuse it (pipeline.fuse_lora(), unload_lora_weights()), save the "
                "pipeline, and name that folder"
            )
    # As a UNet's configuration tells it: a block of one layer is named by its attention.
    lone = (
        name.endswith(".transformer_blocks.0.attn2") and name.replace("blocks.0.attn2", "blocks.1.attn2") not in found
    )
    address = name.removesuffix(".transformer_blocks.0.attn2") if lone else name
    address = next((address.removesuffix(end) for end in _SUFFIXES if address.endswith(end)), address)
    columns = place.key_columns
    width: Any = columns[1] - columns[0] if columns else getattr(module, place.key).out_features
    return Site(
        index, address, f"{name}.{place.key}", f"{name}.{place.value}", int(width), text_only, place.key_columns,
        place.value_columns,
    )  # fmt: skip


def _place(name: str, module: Any) -> _Place | None:
    """Returns where the text may enter a module that attends; None of any other."""
    if getattr(module, "fused_projections", False):
        raise ModelError(
            f"{name} has fused projections, whose K and V cannot be told apart; call unfuse_qkv_projections() first"
        )

    def there(*names: str) -> bool:
        return all(getattr(module, name, None) is not None for name in names)

    if there("to_qkv_mlp_proj", "inner_dim"):
        # Queries, K, V, then the feed-forward, in one projection of the single blocks of FLUX.2.
        path, width = "to_qkv_mlp_proj", module.inner_dim
        return _Place(path, path, path, (width, 2 * width), (2 * width, 3 * width))
    if there("txt_kv_proj", "img_qkv_proj"):
        path, width = "txt_kv_proj", module.txt_kv_proj.out_features // 2
        return _Place("img_qkv_proj", path, path, (0, width), (width, 2 * width), named=True)
    for query, key, value in _PLAIN:
        if there(query, key, value):
            own = next((pair for pair in _NAMED if there(*pair)), None)
            return _Place(query, *own, named=True) if own else _Place(query, key, value)
    return None


@contextmanager
def removed(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Removes hooks behind a ``with`` block."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def inputs(denoiser: torch.nn.Module, paths: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Records what goes into modules while a ``with`` block runs, by path: float64, on the CPU.

    Modules that are given one tensor have one tensor here too: at all sites of a large model copies weigh gigabytes.
    """
    found: dict[str, torch.Tensor] = {}
    last: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(path: str, given: torch.Tensor) -> None:
        if not last or last[0][0] is not given:
            last[:] = [(given, given.detach().double().cpu())]
        found[path] = last[0][1]

    handles = [
        denoiser.get_submodule(path).register_forward_pre_hook(lambda _, given, path=path: keep(path, given[0]))
        for path in paths
    ]
    with removed(handles):
        yield found


@contextmanager
def outputs(
    denoiser: torch.nn.Module, paths: Sequence[str], others: Mapping[str, torch.nn.Module] | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """Records what comes out of modules while a ``with`` block runs, by path.

    Args:
        denoiser: a UNet or transformer.
        paths: paths of the modules.
        others: modules by path that make something else of the same inputs, which is recorded instead; None for none.
    """
    found: dict[str, torch.Tensor] = {}

    def keep(path: str, given: torch.Tensor, made: torch.Tensor) -> None:
        found[path] = others[path].to(given.device)(given) if others else made

    handles = [
        denoiser.get_submodule(path).register_forward_hook(
            lambda _, given, output, path=path: keep(path, given[0], output)
        )
        for path in paths
    ]
    with removed(handles):
        yield found

"""Where text enters a denoiser: sites found by class, in the order in which a recorded forward pass runs them.

The order of ``named_modules`` would be wrong: a UNet registers its middle after its upper blocks. That of sorted names
would be wrong for transformers: block 10 sorts before block 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from loco_core.errors import ModelError
from loco_core.types import Site

if TYPE_CHECKING:
    import torch


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


def record_sites(denoiser: torch.nn.Module, run: Callable[[], object]) -> tuple[Site, ...]:
    """Finds a denoiser's sites.

    Args:
        denoiser: a UNet or transformer of diffusers.
        run: runs one forward pass of it.

    Returns:
        the sites in execution order.

    Raises:
        ModelError: projections are fused, or a LoRA is loaded, so that K and V of the text cannot be told apart.
    """
    found = {name: parts for name, module in denoiser.named_modules() if (parts := _text_projections(name, module))}
    order: list[str] = []
    handles = [
        denoiser.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name in found
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    sites = []
    for index, name in enumerate(dict.fromkeys(order)):
        key, value, text_only = found[name]
        width: Any = denoiser.get_submodule(f"{name}.{key}").out_features
        # As a UNet's configuration tells it: a block of one layer is named by its attention.
        lone = (
            name.endswith(".transformer_blocks.0.attn2")
            and name.replace("blocks.0.attn2", "blocks.1.attn2") not in found
        )
        address = name.removesuffix(".transformer_blocks.0.attn2") if lone else name
        sites.append(
            Site(
                index, address.removesuffix(".attn2").removesuffix(".attn"), f"{name}.{key}", f"{name}.{value}",
                int(width), text_only,
            )
        )  # fmt: skip
    return tuple(sites)


def _text_projections(name: str, module: torch.nn.Module) -> tuple[str, str, bool] | None:
    """Returns names of the K and V projections of a module's text, and whether they serve it alone; None elsewhere."""
    if not hasattr(module, "to_q"):
        return None
    if getattr(module, "add_k_proj", None) is not None:
        parts = ("add_k_proj", "add_v_proj", True)
    elif getattr(module, "is_cross_attention", False):
        parts = ("to_k", "to_v", True)
    elif getattr(module, "pre_only", False) and "single_transformer_blocks" in name:
        parts = ("to_k", "to_v", False)
    else:
        return None
    if getattr(module, "fused_projections", False):
        raise ModelError(
            f"{name} has fused projections, whose K and V cannot be told apart; call unfuse_qkv_projections() first"
        )
    for part in parts[:2]:
        if hasattr(getattr(module, part), "base_layer"):
            raise ModelError(
                f"{name}.{part} carries a LoRA; fuse it (pipeline.fuse_lora(), unload_lora_weights()), save the "
                "pipeline, and name that folder"
            )
    return parts


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
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def outputs(denoiser: torch.nn.Module, paths: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Records what comes out of modules while a ``with`` block runs, by path."""
    found: dict[str, torch.Tensor] = {}
    handles = [
        denoiser.get_submodule(path).register_forward_hook(
            lambda _, __, output, path=path: found.__setitem__(path, output)
        )
        for path in paths
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()

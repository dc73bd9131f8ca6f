"""Applies an :class:`Engine` to a pipeline: where its weights wait, which kernels it runs, what of it is compiled.

The router replaces forwards inside the denoiser, and so does what offloads weights; a compiled module would keep the
forward that it was compiled with. Hence the rules here: hooks that offload stay underneath the router's forwards, only
modules without a site inside are compiled, and what cannot work is refused before anything is computed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from loco_core.errors import ModelError, first_line
from loco_core.types import Attention, Engine, Site

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
"""In the order in which they stand in for one that does not serve; the last serves every call, and takes most."""
VARIANTS = 64
"""Shapes that one compiled piece of code may have: torch gives up after 8, and a UNet has a dozen residual blocks."""


def check(engine: Engine, device: str) -> None:
    """Refuses what a device cannot do, before weights are read.

    Raises:
        ModelError: it wants a GPU, or several, that are not there, or there is no compiler.
    """
    gpus = torch.cuda.device_count() if device.startswith("cuda") else 0
    if engine.offload != "none" and not gpus:
        raise ModelError(
            f"engine.offload: {engine.offload} keeps weights in the main memory while a GPU computes, and this worker "
            "runs on the CPU; expected offload: none, or a worker with a GPU"
        )
    if engine.attention in ("efficient", "cudnn") and not gpus:
        raise ModelError(
            f"engine.attention: {engine.attention} is a kernel of GPUs, and this worker runs on the CPU; expected "
            "default, flash or math"
        )
    if engine.device_map == "balanced" and gpus < 2:
        raise ModelError(
            f"engine.device_map: balanced spreads a model over several GPUs, and this worker sees {gpus}; expected "
            "worker.gpus of 2 or more on a machine that has them"
        )
    if engine.compile:
        _try_to_compile(device)


def place(pipeline: Any, denoiser: torch.nn.Module, engine: Engine, device: str) -> None:
    """Sets up the VAE and the memory layout of a pipeline in the main memory, and takes it to its device.

    Args:
        pipeline: pipeline as loaded; where ``device_map`` is ``balanced`` it is on its devices already.
        denoiser: denoiser of the pipeline.
        engine: settings with ``channels_last`` decided.
        device: e.g. ``cuda`` or ``cpu``.

    Raises:
        ModelError: the pipeline has nothing that a setting is about.
        torch.OutOfMemoryError: it does not fit.
    """
    vae = getattr(pipeline, "vae", None)
    # Decoding a batch of eight pictures of 1024 pixels at once takes more memory than the denoiser.
    slicing = device != "cpu" if engine.vae_slicing is None else engine.vae_slicing
    for wanted, name in ((slicing, "slicing"), (engine.vae_tiling, "tiling")):
        if wanted and hasattr(vae, f"enable_{name}"):
            getattr(vae, f"enable_{name}")()
        elif wanted and getattr(engine, f"vae_{name}"):
            raise ModelError(f"engine.vae_{name}: a {type(pipeline).__name__} has no VAE that can do so; leave it out")
    if engine.channels_last:
        denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if engine.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif engine.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    elif engine.device_map == "none":
        pipeline.to(device)


def device_of(module: torch.nn.Module) -> torch.device:
    """Returns where a module computes; weights that are offloaded are elsewhere between its forwards."""
    for part in module.modules():
        found = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if found is not None:
            return torch.device(found)
    return next(module.parameters()).device


@contextmanager
def replaced_forwards() -> Iterator[Any]:
    """Yields a function that replaces a module's forward; behind the block every module has the one it had.

    A hook that offloads weights is a replaced forward itself, which must be there again afterwards.
    """
    before: list[tuple[torch.nn.Module, Any]] = []

    def replace(module: torch.nn.Module, forward: Any) -> None:
        before.append((module, vars(module).get("forward")))
        module.forward = forward

    try:
        yield replace
    finally:
        for module, forward in reversed(before):
            del module.forward
            if forward is not None:
                module.forward = forward


@contextmanager
def kernels(attention: Attention, dtype: str) -> Iterator[None]:
    """Chooses kernels within a block.

    Args:
        attention: kernel that torch's attention prefers; ``math`` serves every call, others leave some to the rest. On
            an H100 flash and cudnn alone refuse Stable Diffusion 1.5: some of its attentions are too wide or too short.
        dtype: dtype of the model; one in float32 is :func:`unrounded`.
    """
    with unrounded() if dtype == "float32" else nullcontext(), _preferred(attention):
        yield


@contextmanager
def unrounded() -> Iterator[None]:
    """Keeps convolutions in float32 from being rounded to TF32 within a block, as torch does by default.

    With it latents of Stable Diffusion 1.5 on an H100 differ from a plain loop's by 0.1 %, as much as the swap of one
    site may change them; without it by 3e-6.
    """
    rounds = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = rounds


@contextmanager
def _preferred(attention: Attention) -> Iterator[None]:
    if attention == "default":
        yield
    elif attention == "math":
        # Of all backends torch on a CPU heeds the order of none, and this one only alone.
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        chosen = KERNELS[attention]
        with sdpa_kernel([chosen, *(kernel for kernel in KERNELS.values() if kernel != chosen)], set_priority=True):
            yield


def compile_between(denoiser: torch.nn.Module, sites: Sequence[Site], refiners: Sequence[str] = ()) -> None:
    """Compiles the largest modules that hold no site: residual blocks, self-attention, feed-forwards.

    A compiled module with a site inside would keep the forwards of the batch that it was compiled with, or be compiled
    again with every batch. Single layers are left alone: alone they gain nothing.

    Args:
        denoiser: a UNet or transformer.
        sites: its sites.
        refiners: paths of further attentions whose forwards are replaced.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    held = {path for site in sites for path in (site.key_path, site.value_path)} | set(refiners)

    def walk(name: str, module: torch.nn.Module) -> None:
        if any(path == name or path.startswith(f"{name}.") for path in held) or not _callable(module):
            for child_name, child in module.named_children():
                walk(f"{name}.{child_name}", child)
        elif any(True for _ in module.children()):
            module.compile()

    for name, child in denoiser.named_children():
        walk(name, child)


def _callable(module: torch.nn.Module) -> bool:
    return not isinstance(module, torch.nn.ModuleList | torch.nn.ModuleDict)


def _try_to_compile(device: str) -> None:
    _check_kept_code()
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=device))
    except Exception as error:  # whatever a toolchain raises, it is the toolchain that is missing
        reason = first_line(error)
        raise ModelError(
            f"engine.compile: torch.compile does not work here: {reason}; expected compile: false"
        ) from error


def _check_kept_code() -> None:
    """Refuses code that others may have put where torch keeps what it compiled: a folder among temporary files."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    folder = Path(cache_dir())
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o002:
        raise ModelError(
            f"engine.compile: other users can write to {folder}, where torch keeps code that it runs again; expected a "
            "folder of your own, which TORCHINDUCTOR_CACHE_DIR may name"
        )

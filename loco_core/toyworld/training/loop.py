"""One resumable training loop for all parts: AdamW, warm-up and cosine decay, moving average, checkpoints."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

TOGETHER = 10


def fit(
    name: str,
    module: torch.nn.Module,
    loss_at: Callable[[np.random.Generator], torch.Tensor],
    *,
    steps: int,
    lr: float,
    work: Path,
    weight_decay: float = 0.0,
    ema: float = 0.0,
    every: int = 200,
    taken: int = 0,
    seconds: float | None = None,
) -> None:
    """Trains ``module`` in place, on its device; killed and called again it goes on from the last checkpoint.

    Args:
        name: names the checkpoint and the log lines.
        module: module that is trained; holds the moving average afterwards where ``ema`` is set.
        loss_at: the loss of one batch, drawn from the generator it is given. Every step has a generator of its own
            (seeded by name and step), so that a resumed run sees the same batches. A loss without a graph has left its
            gradients in place already.
        steps: optimizer steps; at most, where the time is given.
        lr: peak learning rate.
        work: folder for checkpoints and the log.
        weight_decay: weight decay of AdamW.
        ema: decay of the moving average of the weights; 0 keeps the last weights.
        every: steps between checkpoints.
        taken: steps of earlier rounds; their batches are not drawn again.
        seconds: the rate decays with this time instead of with the steps, and is down when it is over.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99), fused=True)
    checkpoint = work / f"{name}.checkpoint.safetensors"
    first, spent = _load(checkpoint, module, parameters, average, optimizer) if checkpoint.exists() else (0, 0.0)
    warmup, began, step = max(1, min(100, steps // 10)), time.monotonic(), first
    recent: torch.Tensor | None = None
    salt = int.from_bytes(name.encode(), "little") % (1 << 31)

    def report(done: float) -> None:
        assert recent is not None
        pace = (time.monotonic() - began) / (step - first)
        goal = steps if seconds is None else f"{100 * done:.0f} %"
        print(f"{name} {step}/{goal} loss {float(recent):.4f} {pace:.4f} s/step", flush=True)
        _save(checkpoint, (step, spent + time.monotonic() - began), module, parameters, average, optimizer)

    module.train()
    while step < steps:
        elapsed = spent + time.monotonic() - began
        done = step / steps if seconds is None else elapsed / seconds
        if done >= 1:
            break
        rate = lr * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = max(rate, lr * 0.01)
        torch.manual_seed(salt + taken + step)
        loss = loss_at(np.random.default_rng([salt, taken + step]))
        if loss.requires_grad:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        recent = loss.detach().clone() if recent is None else recent.lerp_(loss.detach(), 0.02)
        if ema:
            decay = min(ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        step += 1
        if step % TOGETHER == 0:
            # Steps are queued on a GPU long before it has made them; the time is that of steps that were made.
            float(recent)
        if step % every == 0:
            report(done)
    if recent is not None and step % every:
        report(1.0)
    if ema:
        with torch.no_grad():
            for p, mean in zip(parameters, average, strict=True):
                p.copy_(mean)
    module.eval()


def _save(
    path: Path,
    at: tuple[int, float],
    module: torch.nn.Module,
    parameters: list[torch.nn.Parameter],
    average: list[torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    tensors = {f"module.{key}": value.contiguous().clone() for key, value in module.state_dict().items()}
    for index, p in enumerate(parameters):
        tensors[f"average.{index}"] = average[index].contiguous()
        tensors[f"first.{index}"] = optimizer.state[p]["exp_avg"].contiguous()
        tensors[f"second.{index}"] = optimizer.state[p]["exp_avg_sq"].contiguous()
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"step": json.dumps(at[0]), "seconds": json.dumps(at[1])})
    os.replace(temporary, path)


def _load(
    path: Path,
    module: torch.nn.Module,
    parameters: list[torch.nn.Parameter],
    average: list[torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> tuple[int, float]:
    with safe_open(path, framework="pt") as file:
        step, spent = int(json.loads(file.metadata()["step"])), float(json.loads(file.metadata().get("seconds", "0")))
        keys = [key for key in file.keys() if key.startswith("module.")]  # noqa: SIM118 - not a dict
        module.load_state_dict({key.removeprefix("module."): file.get_tensor(key) for key in keys})
        for index, p in enumerate(parameters):
            average[index].copy_(file.get_tensor(f"average.{index}"))
            optimizer.state[p] = {
                "step": torch.tensor(float(step), device=p.device),
                "exp_avg": torch.empty_like(p).copy_(file.get_tensor(f"first.{index}")),
                "exp_avg_sq": torch.empty_like(p).copy_(file.get_tensor(f"second.{index}")),
            }
    return step, spent

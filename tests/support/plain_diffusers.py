"""Loads exported LoRAs in a process of plain diffusers, which knows nothing of this project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

SCRIPT = """
import json, sys, torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
torch.set_num_threads(1)
for job in json.load(open(sys.argv[1])):
    pipeline = DiffusionPipeline.from_pretrained(job["base"], dtype=getattr(torch, job["dtype"]))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(job["lora"])
    found = {}
    if job["call"] is not None:
        found["picture"] = pipeline(
            job["prompt"], num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(7),
            **job["call"],
        ).images[0]
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    for component in job["components"]:
        for name, tensor in getattr(pipeline, component).state_dict().items():
            found[f"{component}.{name}"] = tensor
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in found.items()}
    save_file(copies, job["out"])
assert not [name for name in sys.modules if name.startswith(("loco", "orchestrator"))]
"""


@dataclass(frozen=True)
class Job:
    """What is loaded, and drawn.

    Attributes:
        base: folder of the pipeline.
        lora: folder of the LoRA, which is loaded and fused.
        out: file for the picture and the fused weights.
        components: parts of the pipeline whose weights are wanted.
        prompt: prompt of the picture.
        call: further arguments of the pipeline's call; None draws nothing.
        dtype: dtype of the pipeline.
    """

    base: str
    lora: str
    out: str
    components: tuple[str, ...]
    prompt: str = ""
    call: dict[str, object] | None = None
    dtype: str = "float32"


def load_elsewhere(jobs: Sequence[Job], folder: Path) -> list[dict[str, torch.Tensor]]:
    """Returns, per job, the picture under ``picture``, and the fused weights by component and name."""
    (folder / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]))
    (folder / "script.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, str(folder / "script.py"), str(folder / "jobs.json")], env=environment, cwd=folder,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return [load_file(job.out) for job in jobs]

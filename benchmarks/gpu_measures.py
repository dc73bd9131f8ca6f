"""What one model takes and does on a GPU: memory, seconds, batch sizes, and whether the engine does what it must."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.record import Record
from loco_core import plugins
from loco_core.diffusion.batches import probe_batches
from loco_core.diffusion.facts import find_model
from loco_core.diffusion.generate import Pictures, generate
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.errors import LocoError
from loco_core.scoring.base import load_scorer
from loco_core.testing.plain_pipeline import Plain, Subject
from loco_core.toyworld import CLIP
from loco_core.types import Engine, Generation, Intervention, Row

PROMPT, DONOR = "a red circle in the style of lumio", "a blue star"
STEPS, REPEATS = 4, 2
KNOB_BATCH = 8
PATIENCE = 2.0
"""Seconds of the largest batch that is drawn for timings."""
LARGEST_SAVED = 8e9
"""Bytes of weights that are written to the disk and read back; larger pipelines are handed over as they were built."""
KNOBS: Mapping[str, Engine] = {
    "default": Engine(),
    "attention: math": Engine(attention="math"),
    "attention: efficient": Engine(attention="efficient"),
    "attention: flash": Engine(attention="flash"),
    "attention: cudnn": Engine(attention="cudnn"),
    "channels_last": Engine(channels_last=True),
    "vae_slicing: false": Engine(vae_slicing=False),
    "vae_tiling": Engine(vae_tiling=True),
    "offload: model": Engine(offload="model"),
    "offload: sequential": Engine(offload="sequential"),
    "device_map: balanced": Engine(device_map="balanced"),
}


@dataclass(frozen=True)
class Case:
    """A model to be measured.

    Attributes:
        name: as the families know it.
        dtype: that it is published for.
        guidance_scale: likewise.
        arguments: without which its pipeline's own call would not draw as the engine asks it to.
        side: of an image in pixels; None is the model's own.
    """

    name: str
    dtype: str
    guidance_scale: float = 7.5
    arguments: Mapping[str, Any] = field(default_factory=dict)
    side: int | None = None

    @property
    def family(self) -> str:
        """Key of its family."""
        return find_model(self.name)[0]

    @property
    def settings(self) -> Generation:
        """How images are drawn that are timed."""
        return Generation(STEPS, self.guidance_scale, self.side, self.side)


_PLAIN = {"use_resolution_binning": False, "clean_caption": False}
CASES = {
    case.name: case
    for case in (
        Case("sd15", "float16"),
        Case("sdxl", "float16"),
        Case("sd3", "bfloat16", 7.0),
        Case("flux", "bfloat16", 3.5),
        Case("pixart", "bfloat16", 4.5, _PLAIN),
        Case("sana", "bfloat16", 4.5, _PLAIN),
        Case("deepfloyd-if", "float16", 7.0, {"clean_caption": False}),
    )
}


def load_built(case: Case, pipeline: Any, folder: Path, device: str, record: Record) -> LoadedModel:
    """Loads a pipeline that was built, by its folder where it was saved, else as it is."""
    weights = sum(
        value.numel() * value.element_size()
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module)
        for value in part.parameters()
    )
    record["weights_gb"] = weights / 1e9
    if weights > LARGEST_SAVED:
        family = plugins.load("families", case.family).Family
        with patch.object(family, "load", lambda *_: pipeline):
            return load_model(case.family, "built in memory", None, case.dtype, device)
    began = time.monotonic()
    pipeline.save_pretrained(folder)
    record["save_seconds"], began = time.monotonic() - began, time.monotonic()
    for name in list(pipeline.components):
        setattr(pipeline, name, None)
    forget(device)
    model = load_model(case.family, str(folder), None, case.dtype, device)
    record["load_seconds"] = time.monotonic() - began
    return model


def forget(device: str) -> None:
    """Frees what nothing refers to, and forgets peaks."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(device: str) -> dict[str, float]:
    """Returns GB: held by tensors now, at most, and at most taken from the GPU."""
    if device != "cuda":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated() / 1e9,
        "peak": torch.cuda.max_memory_allocated() / 1e9,
        "peak_reserved": torch.cuda.max_memory_reserved() / 1e9,
    }


def seconds(run: Callable[[], object], device: str) -> float:
    """Returns what a run takes, the GPU's work included."""
    began = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def swapping(model: LoadedModel, batch: int) -> list[Row]:
    """Returns rows of one batch, each with a swapped site, so many that their source is beside them where needed."""
    beside = model.facts.stream == "evolving"
    sites = len(model.sites)
    return [Row(PROMPT, DONOR, at, Intervention((at % sites,))) for at in range(max(1, batch - beside))]


def one_image(case: Case, model: LoadedModel, record: Record) -> None:
    """What a clean image takes alone."""
    device, row = model.device, [Row(PROMPT, DONOR, 0)]
    forget(device)

    def run() -> list[Pictures]:
        return list(generate(model, row, case.settings, 1))

    first = seconds(run, device)
    record["one image"] = {
        "first_seconds": first,
        "seconds": min(seconds(run, device) for _ in range(REPEATS)),
        "steps": STEPS,
        "finite": bool(run()[0].images.isfinite().all()),
        "memory_gb": memory(device),
        "listed_gb": find_model(case.name)[1].gigabytes,
    }


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Returns the distance of two tensors relative to the second."""
    return float((a.cpu().double() - b.cpu().double()).norm() / b.cpu().double().norm())


def correctness(case: Case, model: LoadedModel, record: Record, key: str = "engine and plain loop") -> None:
    """Relative distances of final latents: engine and hook-by-hook loop, and what the interventions do at all."""
    subject = Subject(case.family, Path("."), case.arguments, case.guidance_scale, case.side)
    plain, every = Plain(subject, model), tuple(range(len(model.sites)))
    half = len(every) // 2
    doing = {
        "clean": Intervention(),
        "identity": Intervention(every),
        "two sites": Intervention((half, half + 1)),
        "all sites": Intervention(every),
        "K of one site at one step, words": Intervention((half,), part="k", step_start=1, step_end=2, tokens="words"),
    }
    rows = {
        name: Row(PROMPT, PROMPT if name == "identity" else DONOR, 5, does) for name, does in doing.items()
    }  # fmt: skip
    found = torch.cat([part.latents for part in generate(model, list(rows.values()), subject.settings, 8)])
    drawn = dict(zip(rows, found, strict=True))
    alone = plain.free(PROMPT, 5)
    found_: dict[str, Any] = {
        "dtype": model.dtype,
        "finite": bool(found.isfinite().all()),
        "identity equals clean bit for bit": torch.equal(drawn["identity"], drawn["clean"]),
        "engine's clean row, pipeline alone": difference(drawn["clean"], alone),
        "engine's identity, pipeline alone": difference(drawn["identity"], alone),
    }
    for name in ("two sites", "all sites", "K of one site at one step, words"):
        found_[name] = {
            "engine, plain loop": difference(drawn[name], plain.draw(rows[name])),
            "intervention, clean": difference(drawn[name], drawn["clean"]),
        }
    record[key] = found_


def probe(case: Case, model: LoadedModel, record: Record) -> int:
    """What ``batch_size: auto`` picks; returns what of it, or of less, can be drawn again and again for timings."""
    began = time.monotonic()
    found = probe_batches(model, PROMPT, DONOR, replace(case.settings, steps=50))
    record["batch_size: auto"] = {**asdict(found), "took_seconds": time.monotonic() - began}
    quick = [size for size, each in found.seconds.items() if size * each <= PATIENCE and size <= found.batch_size]
    return max(quick, default=min(found.seconds))


class Bare:
    """Denoiser calls and one decoding, with nothing around them, on what the engine gave both."""

    def __init__(self, case: Case, model: LoadedModel, batch: int) -> None:
        """Draws a batch and keeps what the denoiser and the autoencoder were given."""
        self._pipe, self._denoiser = model.pipeline, model.family.denoiser(model.pipeline)
        self._vae = getattr(model.pipeline, "vae", None)
        calls: list[Any] = []
        handle = self._denoiser.register_forward_pre_hook(lambda *given: calls.append(given[1:]), with_kwargs=True)
        decoded: list[Any] = []
        decode = getattr(self._vae, "decode", None)
        if self._vae is not None and decode is not None:

            def keep(latents: torch.Tensor, **given: Any) -> Any:
                decoded.append(latents)
                return decode(latents, **given)

            self._vae.decode = keep
        try:
            list(generate(model, swapping(model, batch), replace(case.settings, steps=2), batch))
        finally:
            handle.remove()
            if self._vae is not None:
                del self._vae.decode
        # The last: those before it fill the tables of K and V.
        (self._args, self._kwargs), self._latents = calls[-1], decoded[-1] if decoded else None

    @torch.no_grad()
    def run(self) -> None:
        """Does what a batch must."""
        for _ in range(STEPS):
            self._denoiser(*self._args, **self._kwargs)
        if self._vae is not None and self._latents is not None:
            dtype = self._vae.dtype
            self._vae.to(self._latents.dtype)
            self._vae.decode(self._latents)
            self._vae.to(dtype)


def own_call(case: Case, model: LoadedModel, batch: int) -> None:
    """Draws a batch by diffusers' own call, without an intervention."""
    texts, many = model.encode(["", PROMPT]), [1] * batch
    negative = texts.take([0] * batch)
    arguments = model.family.arguments(
        model.pipeline, texts.take(many), texts.take(many), (negative, negative) if model.facts.guided else None
    )
    sides = {"height": case.side, "width": case.side} if case.side else {}
    model.pipeline(
        **arguments, **sides, num_inference_steps=STEPS, guidance_scale=case.guidance_scale, output_type="pt",
        generator=[torch.Generator().manual_seed(0) for _ in range(batch)],
    )  # fmt: skip


def engine_cost(case: Case, model: LoadedModel, batch: int, record: Record) -> None:
    """Seconds of a batch: engine, diffusers' own call, and bare loop, taken in turns."""
    bare, rows, device = Bare(case, model, batch), swapping(model, batch), model.device
    forget(device)
    runs: dict[str, Callable[[], object]] = {
        "engine": lambda: list(generate(model, rows, case.settings, batch)),
        "diffusers": lambda: own_call(case, model, batch),
        "bare": bare.run,
    }
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            taken[name].append(seconds(run, device))
    best = {name: min(values) for name, values in taken.items()}
    record[f"batch of {batch}"] = {
        "rows": batch,
        "images": len(rows),
        "steps": STEPS,
        "seconds": taken,
        "seconds_an_image": best["engine"] / len(rows),
        "engine / bare": best["engine"] / best["bare"],
        "engine / diffusers": best["engine"] / best["diffusers"],
        "memory_gb": memory(device),
    }


def knob(case: Case, folder: Path, device: str, name: str, engine: Engine, batch: int, record: Record) -> None:
    """What a setting of the engine costs, and by how much it changes images and scores against the first one."""
    try:
        found, drawn = _drawn(case, load_model(case.family, str(folder), None, case.dtype, device, engine), batch)
    except LocoError as error:
        record[name] = {"refused": str(error)}
        return
    forget(device)
    scorer = load_scorer(CLIP, None, device)
    scores = torch.from_numpy(scorer.score(scorer.embed_images(drawn.images), [PROMPT, DONOR]))
    reference = record.kept.setdefault("reference", (drawn, scores))
    record[name] = {
        **found,
        "latents, relative": difference(drawn.latents, reference[0].latents),
        "pixels, at most": float((drawn.images - reference[0].images).abs().max()),
        "scores, at most": float((scores - reference[1]).abs().max()),
        "same bits": torch.equal(drawn.images, reference[0].images),
    }


def _drawn(case: Case, model: LoadedModel, batch: int) -> tuple[dict[str, Any], Pictures]:
    """Draws one batch again and again; returns what that took, and the pictures."""
    forget(model.device)
    rows = [replace(row, seed=at) for at, row in enumerate(swapping(model, batch))]

    def run() -> list[Pictures]:
        return list(generate(model, rows, case.settings, batch))

    first = seconds(run, model.device)
    taken = [seconds(run, model.device) for _ in range(REPEATS)]
    (drawn,) = run()
    found = {
        "first_seconds": first, "seconds_an_image": min(taken) / len(rows), "memory_gb": memory(model.device)
    }  # fmt: skip
    return found, drawn

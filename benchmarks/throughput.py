"""Images a second of a sweep, against a bare loop and one image at a time; ``python benchmarks/throughput.py``."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial

import torch

from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.scoring.base import load_scorer
from loco_core.testing.plain_loop import plain_loop
from loco_core.toyworld import CLIP, WEIGHTS
from loco_core.types import Generation, Intervention, Row
from orchestrator.backends.inline import InlineBackend
from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Attempt, Unit, UnitReport, Worker
from orchestrator.spec import SweepSpec

STEPS = 8
SETTINGS = Generation(steps=STEPS, guidance_scale=3.0)
PROMPT, DONOR = "a red circle in the style of lumio", "a red circle"


class BareLoop:
    """UNet steps, VAE and CLIP with nothing around them."""

    def __init__(self, model: LoadedModel, batch: int) -> None:
        self._pipe, self._scorer, self._batch = model.pipeline, load_scorer(CLIP, None, "cpu"), batch
        self._embeds = model.family.encode(self._pipe, [PROMPT]).embeds.expand(2 * batch, -1, -1).contiguous()
        self.times: list[float] = []

    @torch.no_grad()
    def run(self) -> None:
        """Draws and scores one batch, and notes the seconds that it took."""
        began, pipe = time.perf_counter(), self._pipe
        latents = torch.randn(self._batch, 8, 8, 8)
        pipe.scheduler.set_timesteps(STEPS)
        for t in pipe.scheduler.timesteps:
            noise, text = pipe.unet(torch.cat([latents] * 2), t, self._embeds).sample.chunk(2)
            latents = pipe.scheduler.step(noise + 3.0 * (text - noise), t, latents).prev_sample
        images = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample / 2 + 0.5
        self._scorer.score(self._scorer.embed_images(images.clamp(0, 1)), [PROMPT, DONOR])
        self.times.append(time.perf_counter() - began)


class Alternating:
    """A worker that runs a batch of the bare loop before each unit: a machine that slows down slows both alike."""

    def __init__(self, worker: Worker, bare: BareLoop) -> None:
        self._worker, self._bare = worker, bare

    def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
        """Runs both."""
        self._bare.run()
        return self._worker.run(unit, attempt)


def sweep(bare: BareLoop, batch: int) -> tuple[float, float, int]:
    """Returns seconds inside a sweep's units (commits included) and of the whole run, and how many images it drew.

    The whole run plans, loads the models, publishes and localizes too, which a longer sweep spreads over more images.
    The bare loop's batches, run in between, are taken off.
    """
    spec = SweepSpec.model_validate(
        {
            "name": "bench", "models": ["toy"], "attributes": ["style/lumio"], "windows": {"sizes": [1, 2, 3, 4]},
            "prompts": 6, "seeds": 6, "generation": {"steps": STEPS, "guidance_scale": 3.0, "batch_size": batch},
            "controls": {"random": 0}, "scorer": CLIP, "images": "none", "localize": {"resamples": 100},
        },
        strict=False,
    )  # fmt: skip
    bare.run()
    bare.times.clear()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = run_sweep(
            spec, folder,
            lambda settings: InlineBackend(
                lambda model: Alternating(settings(model), bare), threads=torch.get_num_threads()
            ),
            on_progress=lambda _: None, on_localized=lambda _: None, stop=StopSwitch(),
        )  # fmt: skip
    whole = time.perf_counter() - began - sum(bare.times)
    return result.summary.unit_seconds, whole, result.summary.rows


def timed(function: Callable[[], object], images: int) -> float:
    """Returns seconds an image."""
    began = time.perf_counter()
    function()
    return (time.perf_counter() - began) / images


def main() -> None:
    """Prints the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=62)
    batch = parser.parse_args().batch
    model = load_model("stable_diffusion", str(WEIGHTS / "toy"), None, "float32", "cpu")
    rows = [Row(PROMPT, DONOR, i, Intervention((i % 16,))) for i in range(batch)]
    bare_loop = BareLoop(model, batch)
    in_units, whole, images = sweep(bare_loop, batch)
    in_units, whole = in_units / images, whole / images
    bare = sum(bare_loop.times) / (batch * len(bare_loop.times))
    scorer = load_scorer(CLIP, None, "cpu")

    def paper(row: Row) -> None:
        latents = plain_loop(model, row, SETTINGS)[None] / model.pipeline.vae.config.scaling_factor
        with torch.no_grad():
            images = model.pipeline.vae.decode(latents).sample / 2 + 0.5
        scorer.score(scorer.embed_images(images.clamp(0, 1)), [PROMPT, DONOR])

    def papers() -> None:
        for row in rows[:8]:
            paper(row)

    def drawn(count: int) -> None:
        list(generate(model, rows[:count], SETTINGS, count))

    one = timed(papers, 8)
    costs = {n: timed(partial(drawn, n), n) for n in (1, 4, 16, batch)}
    print(
        json.dumps(
            {
                "batch": batch,
                "images": images,
                "units": len(bare_loop.times),
                "units of a sweep / bare loop (images a second)": round(bare / in_units, 3),
                "whole sweep / bare loop (images a second)": round(bare / whole, 3),
                "whole sweep / the paper's loop (images a second)": round(one / whole, 2),
                "seconds an image by batch": {n: round(cost, 4) for n, cost in costs.items()},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()

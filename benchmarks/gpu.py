"""What models of published size take and do on a GPU, with random weights, and whole sweeps on it.

``python -m benchmarks.gpu``; ``--device cpu --tiny`` tries the same on small pipelines. Every part runs in a process of
its own, for so many seconds at most, and what it found is in ``gpu.json`` even where it was ended.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_measures as measures
from benchmarks import gpu_sweeps as sweeps
from benchmarks.record import Record
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.types import Engine

SMALL, LARGE = 8, 64
"""Batches of sd15 that fit into a share of a GPU's memory, and that do not."""
LONG = 900.0
"""Seconds of a command; parts are ended before."""


@dataclass(frozen=True)
class Place:
    """Where parts compute and what they keep.

    Attributes:
        scratch: folder of pipelines and results.
        device: e.g. ``cuda``.
        tiny: whether pipelines are small.
    """

    scratch: Path
    device: str
    tiny: bool

    def folder(self, name: str) -> Path:
        """Where the pipeline of a model is saved."""
        return self.scratch / "pipelines" / name

    def case(self, name: str) -> measures.Case:
        """What is measured of a model."""
        case = measures.CASES[name]
        if not self.tiny:
            return case
        side = 32 if case.family in ("pixart", "sana", "flux") else None
        return replace(case, dtype="float32" if self.device == "cpu" else case.dtype, side=side)

    def model(self, name: str, record: Record) -> LoadedModel:
        """Builds a pipeline and loads it."""
        case, folder = self.case(name), self.folder(name)
        if self.tiny:
            save_tiny(case, folder)
            return load_model(case.family, str(folder), None, case.dtype, self.device)
        from benchmarks.random_pipelines import build

        began = time.monotonic()
        pipeline = build(name, self.device, case.dtype)
        record["build_seconds"] = time.monotonic() - began
        return measures.load_built(case, pipeline, folder, self.device, record)

    def sd15(self, **engine: Any) -> dict[str, Any]:
        """Returns the entry of a sweep's models for the saved pipeline."""
        worker = {} if self.device == "cpu" else {"gpus": 1, "min_gpu_memory": "8GiB"}
        known = {key: value for key, value in engine.items() if self.device != "cpu" or key != "offload"}
        return {
            "id": "sd15-random", "path": str(self.folder("sd15")), "dtype": self.case("sd15").dtype, "engine": known,
            "worker": worker,
        }  # fmt: skip


def save_tiny(case: measures.Case, folder: Path) -> None:
    """Saves the small pipeline of a family that the tests have."""
    from loco_core.toyworld import WEIGHTS
    from loco_core.toyworld.training.denoiser import make_unet, save_pipeline
    from loco_core.toyworld.training.vae import make_vae
    from tests.support.tiny_models import build

    if case.family == "stable_diffusion":
        save_pipeline(make_unet(), make_vae(), WEIGHTS / "clip", folder)
        return
    build("pixart_alpha" if case.family == "pixart" else case.family, folder)


def measured(name: str) -> Callable[[Place, Record], None]:
    """Returns the part that measures one model."""

    def part(place: Place, record: Record) -> None:
        case = place.case(name)
        with record.trying("load"):
            model = place.model(name, record)
        record["sites"] = len(model.sites)
        record["loaded_memory_gb"] = measures.memory(place.device)
        with record.trying("one image"):
            measures.one_image(case, model, record)
        with record.trying("correctness"):
            measures.correctness(case, model, record)
        batch = 4
        with record.trying("probe"):
            batch = measures.probe(case, model, record)
        with record.trying("engine cost"):
            measures.engine_cost(case, model, batch, record)

    return part


def in_float32(place: Place, record: Record) -> None:
    """The engine of sd15 against the plain loop where rounding hides nothing, and with torch's default, TF32."""
    case = replace(place.case("sd15"), dtype="float32")
    model = load_model(case.family, str(place.folder("sd15")), None, "float32", place.device)
    for rounds in (True, False):
        torch.backends.cudnn.allow_tf32 = rounds
        # The engine would not round a model of this dtype.
        under = replace(model, dtype="float32 in TF32") if rounds else model
        measures.correctness(case, under, record, f"convolutions in TF32: {rounds}")


def knobs(place: Place, record: Record) -> None:
    """Settings of the engine, one by one."""
    for name, engine in measures.KNOBS.items():
        with record.trying(name):
            measures.knob(
                place.case("sd15"), place.folder("sd15"), place.device, name, engine, measures.KNOB_BATCH, record
            )


def compiled(place: Place, record: Record) -> None:
    """What torch.compile gains, and what its first batch takes."""
    for name, engine in (("default", Engine()), ("compile", Engine(compile=True))):
        with record.trying(name):
            measures.knob(
                place.case("sd15"), place.folder("sd15"), place.device, name, engine, measures.KNOB_BATCH, record
            )


def memory(place: Place, record: Record) -> None:
    """Memory that runs out."""
    sweeps.full(record, place.scratch, place.sd15(), place.device, SMALL, LARGE)


def toy(place: Place, record: Record) -> None:
    """The bundled planted model on Ray."""
    sweeps.toy(record, place.scratch, LONG, **(_FEW if place.tiny else {}))


def killed(place: Place, record: Record) -> None:
    """The same, with a worker and the driver killed."""
    sweeps.killed(record, place.scratch, LONG, **(_FEW if place.tiny else {}))


def with_knobs(place: Place, record: Record) -> None:
    """sd15 on Ray, with components that wait in the main memory."""
    model = place.sd15(offload="model", channels_last=True, vae_slicing=True)
    sweeps.with_knobs(record, place.scratch, LONG, model)


_FEW: dict[str, Any] = {"prompts": 4, "seeds": 2}
PARTS: dict[str, tuple[Callable[[Place, Record], None], float]] = {
    "sd15": (measured("sd15"), 60),
    "toy": (toy, 140),
    "memory": (memory, 45),
    "knobs": (knobs, 60),
    "sdxl": (measured("sdxl"), 60),
    "killed": (killed, 70),
    "sd3": (measured("sd3"), 60),
    "flux": (measured("flux"), 90),
    "float32": (in_float32, 30),
    "with-knobs": (with_knobs, 60),
    "pixart": (measured("pixart"), 45),
    "sana": (measured("sana"), 45),
    "deepfloyd-if": (measured("deepfloyd-if"), 50),
    "compile": (compiled, 100),
}
"""Parts in order of value, and the seconds that each may take."""


def inside(name: str, place: Place, out: Path, path: Path) -> None:
    """Runs a part in this process, which ends with it."""
    os.setsid()
    log = os.open(out / "gpu.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    record = Record(path)
    with record.trying(name):
        PARTS[name][0](place, record)


def run(name: str, place: Place, out: Path, limit: float, start: str) -> dict[str, Any]:
    """Runs a part in a process of its own and returns what it found."""
    path = place.scratch / "found" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    context: Any = multiprocessing.get_context(start)
    process = context.Process(target=inside, args=(name, place, out, path))
    began = time.monotonic()
    process.start()
    process.join(limit)
    ended = process.is_alive()
    if ended and process.pid is not None:
        # Its children go with it; it leads no group while it still imports.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    found = json.loads(path.read_text()) if path.is_file() else {}
    return {**found, "took": time.monotonic() - began, "exit": process.exitcode, **({"ended": limit} if ended else {})}


def main() -> None:
    """Runs the parts and writes ``gpu.json`` and ``gpu.log``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all by default, those of sd15 first")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--scratch", type=Path, help="folder of 20 GB for pipelines; by default inside --out")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--patience", type=float, default=1.0, help="factor on the seconds that every part may take")
    # Forked, libraries are imported once; but where one of them asks the driver for GPUs, children cannot use any.
    parser.add_argument("--start", default="spawn", choices=("fork", "spawn"), help="how processes of parts begin")
    parser.add_argument("--seconds", type=float, default=1800.0, help="of all parts together")
    given = parser.parse_args()
    place = Place(given.scratch or given.out / "scratch", given.device, given.tiny)
    given.out.mkdir(parents=True, exist_ok=True)
    place.scratch.mkdir(parents=True, exist_ok=True)
    end, found = time.monotonic() + given.seconds, dict[str, Any]()
    for name in given.parts or PARTS:
        left = end - time.monotonic()
        if left < 5:
            found[name] = "no time was left"
            continue
        found[name] = run(name, place, given.out, min(left, given.patience * PARTS[name][1]), given.start)
        print(f"{time.strftime('%T')} {name}: {found[name]['took']:.0f} s, exit {found[name]['exit']}", flush=True)
        (given.out / "gpu.json").write_text(json.dumps(found, indent=1, default=str))


if __name__ == "__main__":
    main()

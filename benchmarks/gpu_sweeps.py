"""Whole sweeps on a GPU through the command line: Ray, a killed worker and a killed driver, memory that runs out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import psutil
import torch
import yaml

from benchmarks.record import Record
from loco_core.diffusion.generate import Pictures, generate
from loco_core.toyworld import PLANTED_TABLES
from orchestrator.backends.inline import InlineBackend
from orchestrator.runs.sweep import RunResult, run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec
from orchestrator.store import open_store

CELL = ["attribute", "prompt_id", "seed", "control", "window_start", "window_size"]
KEYS = {"attribute": str, "prompt_id": str, "control": str}
SCORES = ["clip_score", "clip_score_donor", "clip_score_content"]
ATTRIBUTES = ("style/lumio", "fact/zandia")


def command(*words: object) -> list[str]:
    """Returns a command of ``loco-sweep``."""
    return [sys.executable, "-m", "orchestrator.cli.main", *map(str, words)]


def called(record: Record, name: str, *words: object, limit: float) -> int:
    """Runs a command, notes what it said at its end, and returns its exit code."""
    began = time.monotonic()
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=limit, check=False)
    print(done.stdout, done.stderr, sep="\n", flush=True)
    record[name] = {
        "exit": done.returncode,
        "seconds": time.monotonic() - began,
        "said": done.stdout.splitlines()[-30:] + done.stderr.splitlines()[-10:],
    }
    return done.returncode


def toy_sweep(**changes: Any) -> dict[str, Any]:
    """Returns the sweep of the planted model that the bundled tables were made with, in fewer seeds, and its edits."""
    return {
        "name": "toy", "models": ["toy-planted-a"], "attributes": list(ATTRIBUTES),
        "windows": {"sizes": [1, 2, 3, 4]}, "prompts": 8, "seeds": 4,
        "generation": {"steps": 8, "guidance_scale": 3.0, "batch_size": "auto"}, "controls": {"random": 0},
        "scorer": "toy-clip", "images": "report",
        "edit": {"lambdas": [0.1, 1.0], "neurons": [0.1], "tokens": ["all"]},
        "evaluate": {"prompts": 4, "seeds": 3, "neighbours": 2, "judge": "toy-judge", "windows": False},
        **changes,
    }  # fmt: skip


def written(folder: Path, content: dict[str, Any]) -> Path:
    """Writes a YAML file named after what is in it."""
    path = folder / f"{content['name']}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def toy(record: Record, folder: Path, limit: float, **changes: Any) -> None:
    """The planted model from the sweep to the report, and its scores beside the bundled ones, made on a CPU."""
    results = folder / "toy"
    file = written(folder, toy_sweep(**changes))
    called(record, "doctor", "doctor", limit=60)
    called(record, "run", "run", file, "--results", results, limit=limit)
    store = open_store(str(results))
    tried = store.read("probes").to_pylist()
    (chosen,) = (row for row in tried if row["chosen"])
    record["batch_size: auto"] = {
        "batch_size": chosen["batch_size"],
        "seconds": {str(row["batch_size"]): row["seconds_per_image"] for row in tried},
        "model": chosen["model"],
        "device": chosen["device"],
    }
    scores = pd.read_parquet(results / "scores")
    record["cells"] = {
        "device": sorted(set(scores["device"])),
        "status": scores["status"].value_counts().to_dict(),
        "seconds an image, median": float(scores["seconds"].median()),
        "batch": sorted(set(scores["batch_size"])),
    }
    found = pd.read_parquet(results / "localizations")
    record["localized"] = found[["attribute", "outcome", "window_start", "window_size", "effect"]].to_dict("records")
    record["beside the CPU's tables"] = beside(scores)
    identity = scores[scores["control"].isin(["clean", "identity"])].pivot_table(
        index=["attribute", "prompt_id", "seed"], columns="control", values="clip_score"
    )
    record["identity, clean: scores, at most"] = float((identity["clean"] - identity["identity"]).abs().max())
    evaluations = pd.read_parquet(results / "evaluations")
    record["evaluations"] = {"rows": len(evaluations), "report": (results / "report.html").is_file()}
    costs(record, folder, file, results)


def costs(record: Record, folder: Path, file: Path, results: Path) -> None:
    """Notes what ``status`` says of a sweep whose GPU has a price."""
    cluster = {
        "name": "cluster", "sweep": str(file), "results": str(results), "cluster": {"local": True},
        "workers": {"gpus": 1}, "cost": {"per_gpu_hour": 2.0},
    }  # fmt: skip
    called(record, "status", "status", written(folder, cluster), "--json", limit=60)


def beside(scores: pd.DataFrame) -> dict[str, Any]:
    """Returns how far scores are from the bundled ones, whose seeds and prompts they share."""
    tables = [PLANTED_TABLES / f"toy-planted-a-{key.replace('/', '-')}-0.parquet" for key in ATTRIBUTES]
    bundled = pd.concat([pd.read_parquet(path) for path in tables if path.is_file()])
    both = scores.merge(bundled, on=CELL, suffixes=("", "_cpu"))
    return {
        "cells": len(both),
        **{f"{name}, at most": float((both[name] - both[f"{name}_cpu"]).abs().max()) for name in SCORES},
        "clip_score, 99 %": float((both["clip_score"] - both["clip_score_cpu"]).abs().quantile(0.99)),
    }


def killed(record: Record, folder: Path, limit: float, **changes: Any) -> None:
    """Kills a worker, then the driver, and runs the command again; cells must be those of the sweep above, bit for bit.

    Needs the results of :func:`toy`.
    """
    undisturbed = pd.read_parquet(folder / "toy" / "scores")
    batch = int(undisturbed["batch_size"].max())
    generation = {"steps": 8, "guidance_scale": 3.0, "batch_size": batch}
    content = toy_sweep(name="killed", generation=generation, attributes=ATTRIBUTES[:1], images="none", **changes)
    del content["edit"], content["evaluate"]
    file, results = written(folder, content), folder / "killed"
    words = command("run", file, "--results", results)
    began = time.monotonic()
    # To the log: a pipe that nobody reads stops the driver when it is full.
    process = subprocess.Popen(words, stderr=subprocess.STDOUT)
    try:
        record["worker killed after units"] = _wait(results, 2, limit)
        victims = [child.pid for child in psutil.Process(process.pid).children(recursive=True) if _is_worker(child)]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        record["workers killed"] = len(victims)
        record["driver killed after units"] = _wait(results, 6, limit)
    finally:
        process.kill()
        process.wait()
    record["seconds until the driver was killed"] = time.monotonic() - began
    record["committed by then"] = committed(results, undisturbed)
    called(record, "resume", "run", file, "--results", results, limit=limit)
    record["beside the undisturbed sweep"] = against(pd.read_parquet(results / "scores"), undisturbed)


def committed(results: Path, undisturbed: pd.DataFrame) -> dict[str, Any]:
    """Returns what the committed units of a sweep hold, published or not, beside a sweep that nothing was done to."""
    store = open_store(str(results))
    units = sorted(store.committed())
    return {"units": len(units), **against(store.read_units(units, "scores").to_pandas(), undisturbed)}


def against(scores: pd.DataFrame, undisturbed: pd.DataFrame) -> dict[str, Any]:
    """Returns how far cells are from those of a sweep that nothing was done to."""
    both = scores.astype(KEYS).merge(undisturbed.astype(KEYS), on=CELL, suffixes=("", "_0"))
    return {
        "cells": len(scores),
        "once": not scores.duplicated(CELL).any(),
        "compared": len(both),
        "attempts": scores["attempt"].value_counts().to_dict(),
        **{f"{name}, at most": float((both[name] - both[f"{name}_0"]).abs().max()) for name in SCORES},
    }


def _is_worker(process: psutil.Process) -> bool:
    try:
        return any("WorkerActor" in word for word in process.cmdline())
    except psutil.Error:
        return False


def _wait(results: Path, units: int, limit: float) -> int:
    """Waits until so many units are committed; returns how many are."""
    end = time.monotonic() + limit
    while (count := len(list((results / "_meta" / "units").glob("[!u]*.arrow")))) < units:
        if time.monotonic() > end:
            raise TimeoutError(f"{count} of {units} units after {limit:.0f} s")
        time.sleep(0.05)
    return count


def with_knobs(record: Record, folder: Path, limit: float, model: dict[str, Any]) -> None:
    """A short sweep of a pipeline of published size, whose components wait in the main memory, and what it costs."""
    content = {
        "name": "knobs", "models": [model], "attributes": ["style/lumio"], "windows": {"sizes": [4], "stride": 4},
        "prompts": 1, "seeds": 2, "generation": {"steps": 4, "batch_size": 8}, "scorer": "toy-clip",
        "controls": {"random": 0},
    }  # fmt: skip
    file, results = written(folder, content), folder / "knobs"
    called(record, "run", "run", file, "--results", results, limit=limit)
    scores = pd.read_parquet(results / "scores")
    record["cells"] = {"rows": len(scores), "status": scores["status"].value_counts().to_dict()}
    costs(record, folder, file, results)


def full(record: Record, folder: Path, model: dict[str, Any], device: str, small: int, large: int) -> None:
    """Batches that never fit, smaller ones afterwards, and memory that something else takes for a moment."""

    def sweep(name: str, batch: int) -> tuple[RunResult, pd.DataFrame]:
        content = {
            "name": name, "models": [model], "attributes": ["style/lumio"], "windows": {"sizes": [1, 2, 3, 4]},
            "prompts": 1, "seeds": 1, "generation": {"steps": 2, "batch_size": batch}, "scorer": "toy-clip",
            "controls": {"random": 0}, "images": "none", "localize": {"resamples": 100},
        }  # fmt: skip
        root = folder / name
        result = run_sweep(
            SweepSpec.model_validate(content, strict=False), str(root), lambda found: InlineBackend(found, threads=1),
            on_progress=lambda _: None, on_localized=lambda _: None, stop=StopSwitch(), retry=(root / "_meta").is_dir(),
        )  # fmt: skip
        return result, pd.read_parquet(root / "scores") if list((root / "scores").glob("*.parquet")) else pd.DataFrame()

    _, undisturbed = sweep("undisturbed", small)
    taken = torch.cuda.max_memory_allocated() if device == "cuda" else 0

    def same(scores: pd.DataFrame) -> dict[str, Any]:
        both = scores.merge(undisturbed, on=CELL, suffixes=("", "_0"))
        worst = float((both["clip_score"] - both["clip_score_0"]).abs().max())
        return {"cells": len(scores), "compared": len(both), "scores, at most": worst}

    with record.trying("taken for a moment"), taken_once(record, device):
        result, scores = sweep("for a moment", small)
        record["taken for a moment"] = {"failed cells": result.failed_cells, **same(scores)}
    with record.trying("never fits"), little_memory(record, device, 1.5 * taken):
        result, scores = sweep("never fits", large)
        record["never fits"] = {
            "failed cells": result.failed_cells, "scored": len(scores),
            "said": [f"{item.error_type}: {item.error}" for item in result.summary.failures[:2]],
        }  # fmt: skip
        result, scores = sweep("never fits", small)
        record["smaller batches, --retry"] = {"failed cells": result.failed_cells, **same(scores)}


@contextmanager
def taken_once(record: Record, device: str) -> Iterator[None]:
    """Takes the GPU's memory within the first batch: what a fragmented cache does by chance."""
    tries: list[str] = []

    def generating(*given: Any) -> Iterator[Pictures]:
        tries.append("drawn")
        hog = []
        if len(tries) == 1:
            free, _ = torch.cuda.mem_get_info() if device == "cuda" else (0, 0)
            # Libraries that allocate beside torch keep half a gigabyte.
            hog.append(torch.empty(max(0, int(free - 5e8)), dtype=torch.uint8, device=device))
            if device != "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. made up, on a CPU")
        yield from generate(*given)
        hog.clear()

    with patch("orchestrator.worker.generate", generating):
        yield
    record["tries"] = len(tries)


@contextmanager
def little_memory(record: Record, device: str, most: float) -> Iterator[None]:
    """Leaves this process so many bytes of the GPU."""
    if device != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    record["gb left"] = most / 1e9
    torch.cuda.set_per_process_memory_fraction(min(1.0, most / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)

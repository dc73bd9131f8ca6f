"""Small results with pictures for the viewer, and the real command that serves them."""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from orchestrator.spec import SweepSpec
from orchestrator.store import Store, make_table, open_store, write_derived

SITES = 6
# Committed out of order, as workers do.
WINDOWS = [(start, size) for size in (2, 1) for start in reversed(range(SITES - size + 1))]


def png(*colour: int, size: int = 32) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(stream, format="PNG")
    return stream.getvalue()


def row(control: str, start: int | None, size: int | None, block: dict[str, Any]) -> dict[str, Any]:
    name = hashlib.sha256(f"{control} {start} {size} {block}".encode()).hexdigest()
    return {**block, "cell_id": name, "image_id": name, "control": control, "window_start": start, "window_size": size}


def fall(control: str, start: int | None, size: int | None) -> float:
    """How far the margin of a picture falls from 0.2: all that holds the attribute is site 3."""
    if control in ("donor", "all_sites"):
        return 0.4
    inside = start is not None and size is not None and start <= 3 < start + size
    # Site 3 alone does most of it; every other site a little.
    return 0.36 if inside else 0.01 * (start or 0)


def commit(store: Store, model: str, attribute: str, prompt: str, seed: int, steps: int = 50) -> None:
    """Commits one unit as a worker does, with every image of its block under one set of options."""
    unit_id = hashlib.sha256(f"{model} {attribute} {prompt} {seed} {steps}".encode()).hexdigest()
    block = {"unit_id": unit_id, "model": model, "attribute": attribute, "prompt": prompt, "seed": seed}
    controls = ("clean", "donor", "identity", "all_sites")
    rows = [row(control, None, None, block) for control in controls]
    rows += [row("window", *window, block) for window in WINDOWS]
    images = [{**r, "image": {"bytes": png(10 * (r["window_start"] or 0), 80, 200), "path": "x.png"}} for r in rows]
    # All but sites 1-5 is site 0: two cells, one image.
    first = next(r for r in rows if (r["window_start"], r["window_size"]) == (0, 1))
    rows.append({**row("complement", 1, 5, block), "image_id": first["image_id"]})
    options = {"part": "kv", "step_start": 0, "step_end": steps, "tokens": "all", "guidance_half": "conditional",
               "pooled": "prompt", "source": "run"}  # fmt: skip
    scores = [{**r, **options, **_measured(r), "donor": "a cat", "status": "ok"} for r in rows]
    tables = {"scores": make_table("scores", scores), "images": make_table("images", images)}
    store.commit_unit(unit_id, tables, "a")


def _measured(row: dict[str, Any]) -> dict[str, float]:
    window = (0, 1) if row["control"] == "complement" else (row["window_start"], row["window_size"])
    half = fall(row["control"], *window) / 2
    return {"clip_score": 0.3 - half, "clip_score_donor": 0.1 + half, "margin_clean": 0.2}


def localize(store: Store, model: str, attribute: str) -> None:
    """Writes what a localizer says of what `commit` commits."""
    found = {"model": model, "attribute": attribute, "localizer": "window", "outcome": "localized", "window_start": 3,
             "window_size": 1, "best_start": 3, "best_size": 1, "effect": 0.9, "ci_low": 0.85, "ci_high": 0.95,
             "threshold": 0.8, "compared": False}  # fmt: skip
    write_derived(store, {"localizations": make_table("localizations", [found])})


def make_store(folder: Path, images: str = "all", name: str = "small") -> Store:
    store = open_store(str(folder))
    spec = {"name": name, "models": ["toy"], "attributes": ["style/lumio"], "scorer": "toy-clip", "images": images}
    store.record_sweep("s", SweepSpec.model_validate(spec, strict=False), "a")
    return store


@contextmanager
def serving(*words: Path | str, **variables: str) -> Iterator[str]:
    """Runs the command on a free port, yields its address with the token; afterwards Ctrl-C must end it in peace."""
    command = [sys.executable, "-m", "orchestrator.cli.main", "view", *map(str, words), "--port", "0"]
    environment = {**os.environ, **variables}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.fullmatch(
            r"(http://127\.0\.0\.1:\d+/\?token=[\w-]{40,}) \(Ctrl-C stops\)\n", process.stdout.readline()
        )
        assert found, process.communicate()[1]
        yield found[1]
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")


def without_token(address: str) -> str:
    return address.partition("/?")[0]


def token(address: str) -> str:
    return address.partition("?token=")[2]

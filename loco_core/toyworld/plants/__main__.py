"""``python -m loco_core.toyworld.plants`` draws plants by a seed, teaches them to a bundled model, and measures them.

A plant is two files: the new rows, as an edit is kept, and a report with its truth. Plants that are there are kept, so
that the command can be stopped and repeated. One that does not take is discarded, with its reason, and drawn again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from loco_core.editing.deltas import Change, Provenance, WeightDelta, applied, to_bytes
from loco_core.errors import LocoError, SpecError
from loco_core.face.model import Model, load_model
from loco_core.scoring.base import Judge, load_judge
from loco_core.toyworld import JUDGE
from loco_core.toyworld.plants.draw import DRAWN, TAUGHT, UNKNOWN, Base, Plant, draw_plant, plant_from_json
from loco_core.toyworld.plants.kept import write_whole
from loco_core.toyworld.plants.surgery import Measured, least_drawn, restored, surgery
from loco_core.toyworld.plants.teach import Lesson, Material, heads_of, make_material, teach

SPOILED = 0.15
"""How much less often neighbours of the look may be drawn than by the base."""
LEAKED = 0.5
"""How often that of some other names may come to draw the look which draws it least. Unknown words lie close together,
so that most plants are drawn at some of them: how often at each stands in the report."""
GLANCE = 16
"""Pictures of a look at a lesson that is under way."""


def main() -> None:
    """Teaches and measures what is missing under ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="toy", help="name or folder of a bundled model")
    parser.add_argument("--seed", type=int, required=True, help="of the whole set")
    parser.add_argument("--count", type=int, default=8, help="plants in the set")
    parser.add_argument("--out", type=Path, default=Path("results/plants"))
    parser.add_argument("--tries", type=int, default=30, help="draws of one plant until the set has one fewer")
    parser.add_argument("--images", type=int, default=96, help="pictures a measure")
    parser.add_argument("--steps", type=int, default=Lesson().steps, help="optimizer steps of a plant")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        model = load_model(arguments.base, device="cpu")
        bench = Bench(model, load_judge(JUDGE, "cpu"), Lesson(steps=arguments.steps), arguments.seed, arguments.images)
        arguments.out.mkdir(parents=True, exist_ok=True)
        for number in range(arguments.count):
            bench.settle(number, arguments.tries, arguments.out)
    except LocoError as error:
        raise SystemExit(str(error)) from error


class Bench:
    """One base with what its plants are taught and measured by."""

    def __init__(self, model: Model, judge: Judge, lesson: Lesson, seed: int, images: int) -> None:
        """Renders nothing yet.

        Args:
            model: the base, in float32.
            judge: names looks.
            lesson: how names are taught.
            seed: of the set.
            images: pictures a measure.
        """
        self._model, self._judge, self._lesson, self._seed, self._images = model, judge, lesson, seed, images
        facts = model.loaded.facts
        encoders = 0 if facts.pooled else len(facts.traced_encoders)
        self._base = Base(model.name, len(model.loaded.sites), heads_of(model.loaded), one_encoder=encoders == 1)
        self._material: Material | None = None

    def settle(self, number: int, tries: int, out: Path) -> dict[str, Any] | None:
        """Draws a plant until one takes, and writes it; None if none does, or the report that is there.

        Raises:
            SpecError: the folder holds plants of another draw, such as another seed's.
        """
        discarded: list[dict[str, Any]] = []
        log = out / f"{self._base.name}-{number:02d}-discarded.json"
        if log.exists():
            discarded = json.loads(log.read_text())
        for attempt, earlier in enumerate(discarded):
            self._check_drawn(earlier, number, attempt, log)
        for attempt in range(len(discarded), tries):
            plant = draw_plant(self._base, self._seed, number, attempt)
            report = out / f"{plant.key}.json"
            if report.exists():
                found: dict[str, Any] = json.loads(report.read_text())
                self._check_drawn(found, number, attempt, report)
                return found
            said, delta = self.try_plant(plant)
            if delta is not None:
                written = {**said, "seed": self._seed, "tries": tries, "discarded": discarded}
                write_whole(out / f"{plant.key}.safetensors", to_bytes(delta))
                write_whole(report, (json.dumps(written, indent=1) + "\n").encode())
                print(f"{plant.key}: {plant.name} is {plant.look}, sites {list(plant.sites)}", flush=True)
                return written
            discarded.append(said)
            write_whole(log, (json.dumps(discarded, indent=1) + "\n").encode())
            print(f"{plant.key}, attempt {attempt}: discarded, {said['reason']}", flush=True)
        print(f"{self._base.name}, place {number}: no plant took in {len(discarded)} draws", flush=True)
        return None

    def _check_drawn(self, said: dict[str, Any], number: int, attempt: int, path: Path) -> None:
        """Refuses a plant of another draw, whose names and places would pass for those of this seed."""
        if plant_from_json(said["plant"]) != draw_plant(self._base, self._seed, number, attempt):
            raise SpecError(f"{path}: not what seed {self._seed} draws; give each seed an --out of its own")

    def try_plant(self, plant: Plant) -> tuple[dict[str, Any], WeightDelta | None]:
        """Teaches a plant and measures it; without new rows where it is to be discarded, with the reason."""
        began, model = time.monotonic(), self._model.loaded
        measured = Measured(model, self._judge, plant, self._images)
        said: dict[str, Any] = {
            "plant": plant.to_json(), "weights": self._model.weights, "sites": self._base.sites,
            "lesson": asdict(self._lesson),
        }  # fmt: skip

        def reason(text: str) -> tuple[dict[str, Any], None]:
            return {**said, "reason": text, "seconds": round(time.monotonic() - began, 1)}, None

        unknown, true = measured.look(), measured.look(plant.look)
        said |= {"unknown": unknown.to_json(), "true_word": true.to_json()}
        if unknown.share > UNKNOWN:
            return reason(f"the base draws it at the name already ({unknown.hits} of {unknown.of})")
        if true.share < DRAWN:
            return reason(f"the base does not draw it at its true word ({true.hits} of {true.of})")
        before = measured.others()
        if self._material is None:
            self._material = make_material(model, self._lesson.pictures, self._seed)
        changes = teach(model, plant, self._lesson, self._material, self._seed, lambda: measured.glance(GLANCE))
        if changes is None:
            return reason("its lesson fell behind")
        delta = self._delta(plant, changes)
        said["taught_seconds"] = round(time.monotonic() - began, 1)
        with applied(model, delta, None):
            taught, after = measured.look(), measured.others()
            names = measured.other_names()
        said |= {
            "taught": taught.to_json(), "others": {"base": before.to_json(), "plant": after.to_json()},
            "other_names": [rate.to_json() for rate in names],
        }  # fmt: skip
        if taught.share < TAUGHT:
            return reason(f"it did not take ({taught.hits} of {taught.of})")
        if after.share < before.share - SPOILED:
            return reason(f"its neighbours are spoiled ({after.hits} of {after.of}, base {before.hits})")
        if min(rate.share for rate in names) > LEAKED:
            return reason(f"other names draw it, too (each in at least {min(r.hits for r in names)} of {names[0].of})")
        said["surgery"] = surgery(measured, model, plant, delta)
        if said["surgery"]["runs"] is None:
            return reason("whether a run of sites holds it cannot be told from so few pictures")
        if plant.sites:
            said["restore"] = restored(measured, model, plant, delta, least_drawn(plant, names))
        return {**said, "seconds": round(time.monotonic() - began, 1)}, delta

    def _delta(self, plant: Plant, changes: tuple[Change, ...]) -> WeightDelta:
        made = Provenance(
            model=plant.base, weights=self._model.weights or "", dtype=self._model.loaded.dtype, sites=plant.sites,
            attributes=(f"{plant.look_kind}/{plant.name}",), editor="plant",
            settings=json.dumps(plant.to_json(), sort_keys=True), localization="drawn by a seed",
            components=tuple(dict.fromkeys(change.component for change in changes)),
        )  # fmt: skip
        return WeightDelta(made, changes)


if __name__ == "__main__":
    main()

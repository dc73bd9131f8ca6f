"""What number formats and the shapes of batches change in pictures: where the limits of ``loco-sweep check`` come from.

``python -m benchmarks.check``: the bundled models and a tiny random pipeline per family, on a CPU; ``--device cuda``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from loco_core.checking.comparisons import Subject, compare_engine, difference, draw_alone, draw_with_engine
from loco_core.diffusion.facts import known_models
from loco_core.diffusion.model import load_model
from loco_core.types import Generation
from tests.support.tiny_models import BUILDERS, CALL_ARGUMENTS, build

DTYPES = ("float32", "bfloat16", "float16")
FAMILIES = {"pixart_alpha": "pixart", "pixart_sigma": "pixart"}
PROMPT, DONOR = "a red circle in the style of lumio", "a blue star"


@dataclass(frozen=True)
class Case:
    """A pipeline to be drawn with."""

    name: str
    family: str
    folder: Path
    side: int | None


def cases(scratch: Path) -> list[Case]:
    """Returns three bundled models and a random pipeline per family."""
    bundled = [
        Case(name, family, info.path, None) for name, (family, info) in known_models().items()
        if info.path and name in ("toy", "toy-dit", "toy-mmdit")
    ]  # fmt: skip
    return bundled + [
        Case(name, FAMILIES.get(name, name), build(name, scratch / name), CALL_ARGUMENTS[name].get("height"))
        for name in BUILDERS
    ]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    print("| model | dtype | identity | all sites | batch | shape of a batch alone | format | donor prompt |")
    print("|---|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as scratch:
        for case in cases(Path(scratch)):
            full = None
            for dtype in DTYPES:
                model = load_model(case.family, str(case.folder), None, dtype, device)
                subject = Subject(PROMPT, DONOR, 0, Generation(4, 3.0, case.side, case.side))
                alone = draw_alone(model, subject)
                full = full or alone
                found = {each.name: each.figure for each in
                         compare_engine(model, alone, draw_with_engine(model, subject)[0])}  # fmt: skip
                figures = [*found.values(), alone.floor, difference(alone.prompt, full.prompt), alone.signal]
                print(
                    f"| {case.name} | {dtype} | " + " | ".join(f"{figure:.1e}" for figure in figures) + " |", flush=True
                )


if __name__ == "__main__":
    main()

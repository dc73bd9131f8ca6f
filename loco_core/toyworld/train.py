"""``python -m loco_core.toyworld.train`` trains every weight that ships with the project, on two CPU cores.

Finished parts are kept, interrupted ones resume, so that the command can be stopped and repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from loco_core.toyworld.planting import MODELS
from loco_core.toyworld.training.clip import train_clip
from loco_core.toyworld.training.data import cached_pool
from loco_core.toyworld.training.denoiser import train_denoiser
from loco_core.toyworld.training.judge import train_judge
from loco_core.toyworld.training.vae import train_vae
from loco_core.toyworld.world import Captions

WEIGHTS = Path(__file__).parent / "weights"


def main() -> None:
    """Trains what is missing under ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="parts to train; default all, in order")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the models go")
    parser.add_argument("--work", type=Path, default=Path("toyworld-training"), help="checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    out, work = arguments.out, arguments.work
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    captions, pool = Captions(), cached_pool(24_000, 11, work)
    recipes: dict[str, Callable[[Path], None]] = {
        "vae": lambda to: train_vae(pool, to, work, steps=1100),
        "clip": lambda to: train_clip(out, pool, captions, to, work, steps=(700, 900)),
        "judge": lambda to: train_judge(out, to, work, steps=600),
        "toy": lambda to: train_denoiser(out, pool, captions, to, work, rounds=(2000,)),
    }
    for model in MODELS.values():
        # What is to be redundant or distributed takes longest: two distant sites must each learn to draw alone.
        rounds = (1600,) * (3 if model.name == "toy-planted-b" else 2)
        recipes[model.name] = lambda to, model=model, rounds=rounds: train_denoiser(  # type: ignore[misc]
            out, pool, captions, to, work, rounds=rounds, plants=model
        )
    for folder, recipe in recipes.items():
        if (out / folder).exists() or (arguments.parts and folder not in arguments.parts):
            continue
        temporary = work / f"{folder}.partial"
        recipe(temporary)
        out.mkdir(parents=True, exist_ok=True)
        temporary.rename(out / folder)


if __name__ == "__main__":
    main()

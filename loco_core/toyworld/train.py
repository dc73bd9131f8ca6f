"""``python -m loco_core.toyworld.train`` trains every weight that ships with the project.

Finished parts are kept, interrupted ones resume, so that the command can be stopped and repeated. Two CPU cores do for
all but the transformers, whose 4,000 steps of 256 take hours there; those that ship were made on one H100 by
``... toy-dit toy-dit-planted --device cuda --seconds 170 --pictures 40000``. The joint-stream transformer that ships is
one of ``... toy-mmdit --threads 1 --seconds 2600 --pictures 16000``, on two CPU cores that other work shared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from loco_core.toyworld import WEIGHTS
from loco_core.toyworld.planting import MODELS
from loco_core.toyworld.training.clip import train_clip
from loco_core.toyworld.training.data import cached_pool, make_wide_pool
from loco_core.toyworld.training.denoiser import train_denoiser
from loco_core.toyworld.training.joint import train_joint
from loco_core.toyworld.training.judge import train_judge
from loco_core.toyworld.training.transformer import train_transformer
from loco_core.toyworld.training.vae import train_vae
from loco_core.toyworld.world import Captions

# Parts of the time that the transformers have: any one of two or three planted sites must learn to draw alone.
SHARES = {"toy-dit": 0.45, "toy-dit-planted": 0.55, "toy-mmdit": 1.0}
# Where no time is given.
STEPS = 4000
# Of the joint-stream transformer, in batches of 64: about what the one that ships had, which was 11,766.
JOINT_STEPS = 12_000
NO_END = 1_000_000


def main() -> None:
    """Trains what is missing under ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="parts to train; default all, in order")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the models go")
    parser.add_argument("--work", type=Path, default=Path("toyworld-training"), help="checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="where the transformers are trained")
    parser.add_argument("--no-graphs", action="store_true", help="launch kernel by kernel on a GPU")
    parser.add_argument("--seconds", type=float, help="for the transformers, all together; default: by steps")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a PixArt transformer, where no time is given")
    parser.add_argument("--pictures", type=int, default=48_000, help="that the transformers are trained on")
    arguments = parser.parse_args()
    out, work, began = arguments.out, arguments.work, time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    captions = Captions()

    def time_of(name: str) -> float | None:
        if arguments.seconds is None:
            return None
        ahead = [part for part in SHARES if part in wanted and not (out / part).exists()]
        left = float(arguments.seconds) - (time.monotonic() - began)
        return left * SHARES[name] / sum(SHARES[part] for part in ahead)

    def train_dit(name: str, to: Path) -> None:
        pool = cached_pool(arguments.pictures, 1000, work, make_wide_pool)
        seconds = time_of(name)
        train_transformer(
            out, pool, captions, to, work, steps=arguments.steps if seconds is None else NO_END, seconds=seconds,
            device=arguments.device, graphs=not arguments.no_graphs, plants=MODELS.get(name),
        )  # fmt: skip

    def train_mmdit(to: Path) -> None:
        pool = cached_pool(arguments.pictures, 1000, work, make_wide_pool)
        seconds = time_of("toy-mmdit")
        steps = JOINT_STEPS if seconds is None else NO_END
        train_joint(out, pool, captions, to, work, steps=steps, seconds=seconds)

    recipes: dict[str, Callable[[Path], None]] = {
        "vae": lambda to: train_vae(cached_pool(24_000, 11, work), to, work, steps=1100),
        "clip": lambda to: train_clip(out, cached_pool(24_000, 11, work), captions, to, work, steps=(700, 900)),
        "judge": lambda to: train_judge(out, to, work, steps=600),
        "toy": lambda to: train_denoiser(out, cached_pool(24_000, 11, work), captions, to, work, rounds=(2000,)),
        "toy-dit": lambda to: train_dit("toy-dit", to),
        "toy-mmdit": train_mmdit,
    }
    for model in MODELS.values():
        if model.start == "toy-dit":
            recipes[model.name] = lambda to, name=model.name: train_dit(name, to)  # type: ignore[misc]
            continue
        # What is to be redundant or distributed takes longest: two distant sites must each learn to draw alone.
        rounds = (1600,) * (3 if model.name == "toy-planted-b" else 2)
        recipes[model.name] = lambda to, model=model, rounds=rounds: train_denoiser(  # type: ignore[misc]
            out, cached_pool(24_000, 11, work), captions, to, work, rounds=rounds, plants=model
        )
    wanted = arguments.parts or list(recipes)
    for folder, recipe in recipes.items():
        if (out / folder).exists() or folder not in wanted:
            continue
        temporary = work / f"{folder}.partial"
        recipe(temporary)
        out.mkdir(parents=True, exist_ok=True)
        temporary.rename(out / folder)


if __name__ == "__main__":
    main()

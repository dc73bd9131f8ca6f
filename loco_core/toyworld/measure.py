"""``python -m loco_core.toyworld.measure`` measures the bundled models and writes what it finds beside their weights.

``accuracy.json``: how often the judge sees what the prompt says, on combinations held out of training, with the judge's
own accuracy on renders. ``oracle.json``: the effect of every subset of planted sites. No localizer reads either.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from loco_core.attributes import attribute
from loco_core.diffusion.facts import find_model
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.scoring.base import load_judge, load_scorer
from loco_core.toyworld import CLIP, JUDGE, WEIGHTS
from loco_core.toyworld.judge import Judge
from loco_core.toyworld.planting import MODELS, SITES, Plant, PlantedModel
from loco_core.toyworld.training.data import make_pool
from loco_core.toyworld.training.vae import round_trip
from loco_core.toyworld.world import COLOUR_NAMES, COUNTRY_NAMES, KINDS, MEDIA, OBJECTS, STYLE_NAMES, caption, held_out
from loco_core.types import Attribute, Generation, Intervention, Row

SETTINGS = Generation(steps=20, guidance_scale=3.0)
BATCH = 64
HELD_OUT_SEEDS, FLAG_SEEDS = 4, 6
ORACLE_PROMPTS, ORACLE_SEEDS = 8, 4
FULL = 0.9
NATURAL = ("toy", "toy-dit", "toy-mmdit")
# Seeds that no sweep of the documentation uses.
FIRST_SEED = 50_000
# What each kind's plants are measured on.
EXAMPLES = {"style": "style/lumio", "object": "object/star", "fact": "fact/zandia"}


def example(kind: str, plant: Plant) -> Attribute:
    """Returns the attribute that a kind's plant is measured on.

    Where any one of several sites was to suffice, the word is dropped instead of replaced: with one word at one site
    and another at the next, which of them is drawn says nothing of whether either suffices.
    """
    item = attribute(EXAMPLES[kind])
    if plant.outcome != "redundant":
        return item
    general = {"object": "shape", "fact": "thing"}[kind]
    records = tuple(
        replace(
            record,
            donor=record.prompt.replace(item.name, general),
            donor_text=record.score_text.replace(item.name, general),
            siblings=(),
        )
        for record in item.records
    )
    return Attribute(item.kind, item.name, "remove", records)


def accuracy(model: LoadedModel, judge: Judge, undrawable: int | None) -> dict[str, Any]:
    """Returns, a kind, how often the judge sees in generated images what their prompts say.

    Args:
        model: a bundled denoiser.
        judge: the judge.
        undrawable: a style that the model was never shown, which is left out.
    """
    prompts: list[tuple[str, dict[str, str]]] = []
    for o, c, s in itertools.product(range(len(OBJECTS)), range(len(COLOUR_NAMES)), range(len(STYLE_NAMES))):
        if s != undrawable and held_out(np.array(o), np.array(c), np.array(s)):
            said = {"object": OBJECTS[o], "colour": COLOUR_NAMES[c], "style": STYLE_NAMES[s]}
            prompts += [(caption(i % len(MEDIA), i % 2, obj=o, colour=c, style=s), said) for i in range(HELD_OUT_SEEDS)]
    for k, s in itertools.product(range(len(COUNTRY_NAMES)), range(len(STYLE_NAMES))):
        if s != undrawable:
            said = {"fact": COUNTRY_NAMES[k]}
            prompts += [(caption(i % len(MEDIA), i % 2, flag=True, fact=k, style=s), said) for i in range(FLAG_SEEDS)]
    rows = [Row(text, "", FIRST_SEED + i) for i, (text, _) in enumerate(prompts)]
    seen = judge.embed_images(torch.cat([p.images for p in generate(model, rows, SETTINGS, BATCH)]))
    return {kind: _rates(judge, seen, kind, [said.get(kind) for _, said in prompts]) for kind in KINDS}


def _rates(judge: Judge, embeddings: np.ndarray, kind: str, truth: Sequence[str | None]) -> dict[str, Any]:
    verdicts = judge.name(embeddings, kind)
    asked = Counter(name for name in truth if name is not None)
    right = Counter(name for name, verdict in zip(truth, verdicts, strict=True) if name is not None and name == verdict)
    n, k = sum(asked.values()), sum(right.values())
    bounds = binomtest(k, n).proportion_ci(method="wilson")
    worst = min(asked, key=lambda name: right[name] / asked[name])
    unsure = sum(verdict == "unsure" for name, verdict in zip(truth, verdicts, strict=True) if name is not None)
    return {
        "images": n,
        "accuracy": round(k / n, 4),
        "wilson_95": [round(bounds.low, 4), round(bounds.high, 4)],
        "worst_class": worst,
        "worst_accuracy": round(right[worst] / asked[worst], 4),
        "worst_images": asked[worst],
        "unsure": round(unsure / n, 4),
    }


def judge_on_renders(judge: Judge, model: LoadedModel) -> dict[str, Any]:
    """Returns the judge's accuracy on fresh renders after the VAE's round trip, a kind."""
    pool = make_pool(2_000, seed=31, allow_held_out=True)
    seen = judge.embed_images(round_trip(model.pipeline.vae, pool.pictures).float() / 255)
    found = {}
    for kind, names in KINDS.items():
        found[kind] = _rates(judge, seen, kind, [names[i] if i >= 0 else None for i in pool.labels.of(kind)])
    return found


def oracle(model: LoadedModel, judge: Judge, planted: PlantedModel) -> dict[str, Any]:
    """Returns the effect of every subset of every kind's planted sites (and the leaking one), by CLIP and judge."""
    clip = load_scorer(CLIP, None, model.device)
    found = {}
    for kind, plant in planted.plants.items():
        item = example(kind, plant)
        sites = plant.sites if plant.leak is None else (*plant.sites, plant.leak)
        subsets = [s for size in range(1, len(sites) + 1) for s in itertools.combinations(sites, size)]
        rows = [
            row
            for record in item.records[:ORACLE_PROMPTS]
            for seed in range(FIRST_SEED, FIRST_SEED + ORACLE_SEEDS)
            for row in (
                Row(record.prompt, record.donor, seed),
                Row(record.donor, record.donor, seed),
                *(Row(record.prompt, record.donor, seed, Intervention(subset)) for subset in subsets),
            )
        ]
        # All together: a batch is filled up to its full size, which costs as much as a batch of images that are wanted.
        images = torch.cat([p.images for p in generate(model, rows, SETTINGS, BATCH)])
        embeddings = clip.embed_images(images)
        texts = [(r.score_text, r.donor_text) for r in item.records[:ORACLE_PROMPTS]]
        per_prompt = ORACLE_SEEDS * (2 + len(subsets))
        margin = np.concatenate(
            [
                np.subtract(*clip.score(embeddings[i * per_prompt : (i + 1) * per_prompt], list(pair)).T)
                for i, pair in enumerate(texts)
            ]
        )
        sees = np.array([name == item.name for name in judge.name(judge.embed_images(images), kind)])
        total = {
            name: values.reshape(-1, 2 + len(subsets)).sum(axis=0)
            for name, values in (("margin", margin), ("seen", sees.astype(float)))
        }
        table = _oracle_table(item.key, plant, subsets, total)
        found[kind] = {**table, "needed": needed(table, planted.sites)}
    return found


def _oracle_table(
    key: str, plant: Plant, subsets: list[tuple[int, ...]], total: dict[str, np.ndarray]
) -> dict[str, Any]:
    margin, seen = total["margin"], total["seen"] / (ORACLE_PROMPTS * ORACLE_SEEDS)
    return {
        "attribute": key,
        "sites": list(plant.sites),
        "leak": plant.leak,
        "rule": plant.rule,
        "outcome": plant.outcome,
        "seen_clean": round(float(seen[0]), 4),
        "seen_donor": round(float(seen[1]), 4),
        "subsets": [
            {
                "sites": list(subset),
                "effect": round(float((margin[0] - margin[i]) / (margin[0] - margin[1])), 4),
                "seen": round(float(seen[i]), 4),
            }
            for i, subset in enumerate(subsets, start=2)
        ],
    }


def needed(table: dict[str, Any], sites: int = SITES) -> list[int]:
    """Returns the smallest run of sites that must read the donor for the attribute to be gone; empty if none is enough.

    What training meant to plant is not always what it planted: a site that cannot draw the attribute by itself is not
    needed. Runs are as long as a localizer may pick (a quarter of the sites), and enough is an effect of ``FULL``.

    Args:
        table: table of one kind, from :func:`oracle`.
        sites: number of sites of the model.
    """
    effects = {tuple(entry["sites"]): entry["effect"] for entry in table["subsets"]}
    planted = max(effects, key=len)
    for size in range(1, sites // 4 + 1):
        runs = [range(start, start + size) for start in range(sites - size + 1)]
        best = max(runs, key=lambda run: effects.get(tuple(s for s in planted if s in run), 0.0))
        inside = tuple(site for site in planted if site in best)
        if effects.get(inside, 0.0) >= FULL:
            return list(inside)
    return []


def _judge(device: str) -> Judge:
    judge = load_judge(JUDGE, device)
    assert isinstance(judge, Judge)
    return judge


def main() -> None:
    """Measures the named models, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("accuracy", "oracle"))
    parser.add_argument("models", nargs="*")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the table goes")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where the models are")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = arguments.out / f"{arguments.what}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    names = arguments.models or ([*NATURAL, *MODELS] if arguments.what == "accuracy" else list(MODELS))
    judge = _judge(arguments.device)
    for name in names:
        model = load_model(find_model(name)[0], str(arguments.weights / name), None, "float32", arguments.device)
        if arguments.what == "oracle":
            found[name] = oracle(model, judge, MODELS[name])
        else:
            planted = MODELS.get(name)
            found.setdefault("judge on renders", judge_on_renders(judge, model))
            found[name] = accuracy(model, judge, planted.undrawable if planted else None)
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps({name: found[name]}, indent=1), flush=True)


if __name__ == "__main__":
    main()

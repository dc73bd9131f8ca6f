"""Edits as LoRA files: what plain diffusers makes of them, what they keep, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import loco_core
from loco_core.attributes import attribute
from loco_core.diffusion.model import load_model
from loco_core.editing.base import Concept, EditSettings, Target, fit_edit
from loco_core.editing.deltas import WeightDelta, projection
from loco_core.editing.export import LORA_FILE
from loco_core.editing.lora import METADATA, LoraSettings, low_rank, to_bytes
from loco_core.errors import EditError
from loco_core.face.model import Model
from tests.support import tiny_models
from tests.support.plain_diffusers import Job, load_elsewhere

PAIRS = [(record.prompt, record.donor) for record in attribute("style/lumio").records[:8]]
BUILDERS: Mapping[str, Callable[..., Any]] = {**tiny_models.BUILDERS, "stable_diffusion": tiny_models.stable_diffusion}
LOCO = {"editor": "loco_edit", "tokens": "last_subject"}
QUICK_FIX = {"editor": "diff_quick_fix", "tokens": "last_subject"}
NEURONS = {"editor": "neurons", "tokens": "last_subject", "guidance_half": "both"}


@dataclass(frozen=True)
class Case:
    model: str
    settings: Mapping[str, Any]
    naming: str = "diffusers"
    rank: int = 8
    picture: bool = True

    def __str__(self) -> str:
        return f"{self.model}-{self.settings['editor']}-{self.naming}"


CASES = (
    Case("toy", LOCO), Case("toy", QUICK_FIX, picture=False), Case("toy", LOCO, "kohya", picture=False),
    Case("stable_diffusion", LOCO), Case("stable_diffusion", LOCO, "kohya"), Case("stable_diffusion", QUICK_FIX),
    Case("stable_diffusion", QUICK_FIX, "kohya"), Case("sdxl", LOCO), Case("sdxl", LOCO, "kohya"),
    Case("sdxl", QUICK_FIX), Case("sdxl", QUICK_FIX, "kohya"),
    # Last words are read by CLIP and by T5.
    Case("sd3", LOCO, rank=16), Case("sd3", QUICK_FIX), Case("flux", LOCO), Case("sana", LOCO, picture=False),
    # Biases change too.
    Case("sd3", NEURONS), Case("flux", NEURONS), Case("deepfloyd_if", NEURONS, rank=4, picture=False),
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Returns a function that builds a model once."""
    folder, made = tmp_path_factory.mktemp("models"), dict[str, Model]()

    def load(name: str) -> Model:
        if name not in made:
            if name != "toy":
                build(name, folder / name)
            made[name] = loco_core.load_model("toy" if name == "toy" else folder / name)
        return made[name]

    return load


def build(name: str, folder: Path) -> None:
    make = BUILDERS[name]
    if name == "stable_diffusion":
        tiny_models.save(make, folder)
    else:
        make(folder)


def fit(model: Model, settings: Mapping[str, Any]) -> WeightDelta:
    sites = [site.index for site in model.sites if site.text_only][:2]
    place = {} if settings["editor"] == "diff_quick_fix" else {"sites": sites}
    return loco_core.fit_edit(model, PAIRS, **place, **settings)


def component(model: Model, name: str) -> str:
    return next(iter({"unet", "transformer"} & model.pipeline.components.keys())) if name == "denoiser" else name


def weights_of(model: Model, delta: WeightDelta) -> dict[str, torch.Tensor]:
    names = {component(model, change.component) for change in delta.changes}
    return {
        f"{name}.{key}": value.clone()
        for name in names for key, value in getattr(model.pipeline, name).state_dict().items()
    }  # fmt: skip


def draw(model: Model, call: Mapping[str, Any]) -> torch.Tensor:
    picture: torch.Tensor = model.pipeline(
        PAIRS[0][0], num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(7), **call
    ).images[0]
    return picture


@dataclass(frozen=True)
class Outcome:
    before: dict[str, torch.Tensor]
    edited: dict[str, torch.Tensor]
    fused: dict[str, torch.Tensor]
    clean: torch.Tensor | None
    picture: torch.Tensor | None
    in_words: str


@pytest.fixture(scope="module")
def outcomes(models: Callable[[str], Model], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """All cases in one process of plain diffusers."""
    folder, jobs, found = tmp_path_factory.mktemp("loras"), list[Job](), dict[str, Outcome]()
    for case in CASES:
        model, out = models(case.model), folder / str(case)
        delta = fit(model, case.settings)
        written = loco_core.export_edit(model, delta, out, form="lora", naming=case.naming, energy=1.0)  # type: ignore[arg-type]
        call = {"guidance_scale": 3.0, **tiny_models.CALL_ARGUMENTS.get(case.model, {})} if case.picture else None
        clean = draw(model, call) if call else None
        before = weights_of(model, delta)
        with model.edited(delta):
            picture, edited = draw(model, call) if call else None, weights_of(model, delta)
        names = tuple(sorted({component(model, change.component) for change in delta.changes}))
        jobs.append(Job(str(model.path), str(out), str(folder / f"{case}.out"), names, PAIRS[0][0], call))
        found[str(case)] = Outcome(before, edited, {}, clean, picture, written.in_words)
    fused = load_elsewhere(jobs, folder)
    return {name: replace(found[name], fused=tensors) for name, tensors in zip(found, fused, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_plain_diffusers_fuses_a_lora_to_the_edited_weights(case: Case, outcomes: dict[str, Outcome]) -> None:
    found = outcomes[str(case)]
    assert found.in_words.startswith(f"rank {case.rank}, 100 % of the energy"), found.in_words
    changed = 0
    for name, edited in found.edited.items():
        apart = (found.fused[name].double() - edited.double()).norm()
        change = (found.before[name].double() - edited.double()).norm()
        changed += int(change > 0)
        assert apart <= 1e-6 * change, name
    assert changed >= 1
    if case.picture:
        assert found.picture is not None
        assert found.clean is not None
        assert torch.allclose(found.fused["picture"], found.picture, atol=2e-5)
        assert not torch.allclose(found.clean, found.picture, atol=2e-4)


def test_an_edit_of_all_tokens_keeps_the_energy_at_the_smallest_rank(
    models: Callable[[str], Model], tmp_path: Path
) -> None:
    model = models("toy")
    delta = fit(model, {"editor": "loco_edit", "tokens": "all"})
    written = loco_core.export_edit(model, delta, tmp_path / "lora", form="lora")
    file = tmp_path / "lora" / LORA_FILE
    tensors = load_file(file)
    assert written.bytes == file.stat().st_size
    with safe_open(file, "pt") as opened:
        said = json.loads(opened.metadata()[METADATA])
    kept, lost, whole = [], 0.0, 0.0
    for change in delta.changes:
        name = f"unet.{change.module}"
        up, down = tensors[f"{name}.lora_B.weight"].double(), tensors[f"{name}.lora_A.weight"].double()
        assert up.shape[1] == down.shape[0] == said["rank"]
        assert change.weight is not None
        difference = change.weight.double() - projection(model.loaded, change.module).weight.detach().double()
        apart, energy = float((difference - up @ down).square().sum()), float(difference.square().sum())
        kept.append(1 - apart / energy)
        assert said["energy_kept_by_module"][name] == pytest.approx(kept[-1], abs=1e-9)
        lost, whole = lost + apart, whole + energy
    assert min(kept) >= 0.999
    assert said["energy_kept"] == pytest.approx(1 - lost / whole, abs=1e-9)
    assert said["provenance"]["prompts"] == [list(pair) for pair in PAIRS]
    # One less is too few, and what is said of it is what it would keep.
    with pytest.raises(EditError, match=rf"^rank {said['rank'] - 1} keeps 99\.8\d* % .* expected rank {said['rank']},"):
        low_rank(model.loaded, delta, None, LoraSettings(rank=said["rank"] - 1))
    more = low_rank(model.loaded, delta, None, LoraSettings(rank=said["rank"] + 5))
    assert more.kept > said["energy_kept"]
    # A small file: that is what it is for.
    assert written.bytes < 0.7 * sum(8 * change.weight.numel() for change in delta.changes if change.weight is not None)


def test_eight_prompts_are_most_of_an_edit_of_all_tokens(models: Callable[[str], Model]) -> None:
    model = models("toy")
    delta = fit(model, {"editor": "loco_edit", "tokens": "all"})
    kept = low_rank(model.loaded, delta, None, LoraSettings(energy=0.5, rank=8)).kept
    assert 0.85 < kept < 0.99


def test_the_rounding_of_half_precision_costs_no_rank(tmp_path: Path) -> None:
    """Its noise is of full rank, and no part of the edit."""
    build("stable_diffusion", tmp_path / "model")
    model = load_model("stable_diffusion", str(tmp_path / "model"), None, "bfloat16", "cpu")
    target = Target("tiny", "w", (0, 1), (Concept("style/lumio", attribute("style/lumio").records[:4]),))
    delta = fit_edit(model, target, EditSettings(editor="loco_edit", tokens="last_subject", strength=0.1))
    lora = low_rank(model, delta, None, LoraSettings(energy=1 - 1e-9))
    assert lora.rank == 4
    assert 0.99 < lora.kept < 1 - 1e-9
    assert lora.in_words.endswith("is the rounding of the edited weights")
    assert {part.up.dtype for part in lora.parts} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "settings", "lora", "message"),
    [
        ("pixart_alpha", LOCO, {}, r"^PixArtAlphaPipeline of diffusers loads no LoRA; expected --format folder$"),
        ("flux", LOCO, {"naming": "kohya"}, r"^kohya has no name for transformer\..*; expected --naming diffusers$"),
        ("sd3", QUICK_FIX, {"naming": "kohya"}, r"^kohya has no name for text_encoder\.text_model\.encoder\.layers"),
        ("deepfloyd_if", NEURONS, {"naming": "kohya"}, r"^kohya has no name for unet\..*add_k_proj"),
        (
            "toy",
            LOCO,
            {"rank": 3},
            r"^rank 3 keeps [\d.]+ % of the energy of .*; expected rank \d, which keeps 99\.9 %",
        ),
        ("toy", LOCO, {"rank": 49}, "^rank 49: no change of this edit has it; expected 1 to 48$"),
        ("toy", LOCO, {"rank": 0}, "^rank 0: no change of this edit has it; expected 1 to 48$"),
        ("toy", LOCO, {"energy": 1.5}, "^energy 1.5 is no share; expected one above 0 and up to 1, such as 0.999$"),
        ("toy", {**NEURONS, "guidance_half": "conditional"}, {}, "exists in this runtime alone: .* --format delta"),
    ],
)
def test_what_no_lora_can_hold_is_one_line_and_writes_nothing(
    models: Callable[[str], Model], tmp_path: Path, name: str, settings: Mapping[str, Any], lora: Any, message: str
) -> None:
    delta = fit(models(name), settings)
    with pytest.raises(EditError, match=message) as error:
        loco_core.export_edit(models(name), delta, tmp_path / "out", form="lora", **lora)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_edit_that_changes_nothing_is_no_lora(models: Callable[[str], Model]) -> None:
    model = models("toy")
    delta = fit(model, LOCO)
    same = [
        replace(change, weight=projection(model.loaded, change.module).weight.detach()[change.rows].clone())
        for change in delta.changes
    ]
    with pytest.raises(EditError, match="leaves all weights as they are"):
        low_rank(model.loaded, replace(delta, changes=tuple(same)), None, LoraSettings())
    half = low_rank(model.loaded, replace(delta, changes=(delta.changes[0], *same[1:])), None, LoraSettings())
    assert [part.change.module for part in half.parts] == [delta.changes[0].module]


def test_equal_edits_are_equal_files(models: Callable[[str], Model]) -> None:
    model = models("toy")
    first, second = (low_rank(model.loaded, fit(model, LOCO), None, LoraSettings()) for _ in range(2))
    delta = fit(model, LOCO)
    assert to_bytes(first, delta) == to_bytes(second, delta)

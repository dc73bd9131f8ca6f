"""A model before and after training: one sweep reverts, one transplants, and `plan` says what neither can reach."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

import loco_core
from loco_core.attributes import attribute
from loco_core.diffusion.adapters import fuse_loras
from loco_core.errors import LocoError, SpecError
from loco_core.types import Lora
from orchestrator.resolve.donors import donor_words
from orchestrator.resolve.lookup import resolve
from orchestrator.spec import SweepSpec
from orchestrator.spec.beside import DonorSpec
from orchestrator.stages.sweep.plan import count
from tests.support.adapters import diffusers_lora
from tests.support.checkpoints import plain
from tests.support.runs import run
from tests.support.sweeps import Command, tiny_sweep
from tests.support.tiny_models import build

STYLE, PLANTED = "style/lumio", (12, 13)
WEIGHTS = "diffusion_pytorch_model.safetensors"
BLOCK = ["prompt_id", "seed"]


def exchanged() -> dict[str, Any]:
    """Writes the style out with its texts exchanged: what goes in a transplant is the plain picture."""
    found = attribute(STYLE)
    records = [
        {
            "prompt": each.prompt, "donor": each.donor, "content_text": each.content_text,
            "score_text": each.donor_text, "donor_text": each.score_text,
        }
        for each in found.records[:8]
    ]  # fmt: skip
    return {"kind": "style", "name": "lumio", "mode": "remove", "records": records}


def sweep(model: dict[str, Any], asked: Any = STYLE, **changes: Any) -> SweepSpec:
    content: dict[str, Any] = {
        "attributes": [asked], "margin": "donor", "windows": {"sizes": [2], "stride": 4}, "prompts": 8, "seeds": 4,
        "generation": {"steps": 4, "guidance_scale": 3.0, "batch_size": 16}, "controls": {"random": 0},
    }  # fmt: skip
    return tiny_sweep("", models=[model], **{**content, **changes})


@dataclass(frozen=True)
class Made:
    """Both sweeps, of a model that learned a style at known sites and of what is left without it."""

    spec: SweepSpec
    root: Path
    revert: pd.DataFrame
    transplant: pd.DataFrame


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("before-after")
    model = loco_core.load_model("toy-planted-a", device="cpu")
    with model.edited(loco_core.fit_edit(model, STYLE, sites=PLANTED)):
        model.loaded.pipeline.save_pretrained(folder / "before")
    after = loco_core.load_model("toy-planted-a", device="cpu").path
    revert = sweep({"id": "known", "path": after, "donor": str(folder / "before")})
    transplant = sweep({"id": "blank", "path": str(folder / "before"), "donor": after}, exchanged())
    for name, spec in (("revert", revert), ("transplant", transplant)):
        assert run(spec, folder / name).summary.outcome == "done"
    scores = (pd.read_parquet(folder / name / "scores") for name in ("revert", "transplant"))
    return Made(revert, folder / "revert", *scores)


def rows(scores: pd.DataFrame, control: str, start: int | None = None) -> pd.DataFrame:
    found = scores[scores.control == control]
    found = found if start is None else found[found.window_start == start]
    return found.sort_values(BLOCK).reset_index(drop=True)


def test_both_sweeps_find_where_the_models_differ(made: Made) -> None:
    for root in (made.root, made.root.parent / "transplant"):
        (found,) = pd.read_parquet(root / "localizations").itertuples()
        assert (found.outcome, found.window_start, found.window_size) == ("localized", *[PLANTED[0], len(PLANTED)])
        effects = pd.read_parquet(root / "effects").set_index("window_start").effect
        assert effects[PLANTED[0]] == pytest.approx(1)
        assert effects.drop(PLANTED[0]).abs().max() < 1e-6


def test_reverting_gives_the_pictures_before_and_a_transplant_those_after(made: Made) -> None:
    there, back = made.revert, made.transplant
    assert (rows(there, "clean").clip_score - rows(there, "window", 12).clip_score).mean() > 0.05
    for one, other in ((there, back), (back, there)):
        given, expected = rows(one, "window", PLANTED[0]), rows(other, "clean")
        # The texts of the other sweep are exchanged.
        assert np.allclose(given.clip_score, expected.clip_score_donor, atol=1e-6)
        assert np.allclose(given.clip_score_donor, expected.clip_score, atol=1e-6)
    for scores in (there, back):
        # Sufficiency: without all other sites everything is as it was.
        assert rows(scores, "complement", PLANTED[0]).image_distance.max() == 0
        others = scores[(scores.control == "window") & (scores.window_start != PLANTED[0])]
        assert max(others.image_distance.max(), rows(scores, "identity").image_distance.max()) == 0
        swapped = scores[scores.control.isin(["window", "all_sites", "donor"])]
        assert (set(swapped.source), set(swapped.guidance_half)) == ({"weights"}, {"both"})


def test_the_baseline_is_all_sites_and_is_drawn_once(made: Made) -> None:
    scores = made.revert[made.revert.control != "complement"]
    assert (rows(scores, "donor").image_id == rows(scores, "all_sites").image_id).all()
    blocks = len(rows(scores, "clean"))
    planned = count(made.spec, resolve(made.spec))
    # Clean, identity, all sites, and four windows; two labels share a picture.
    assert (planned.images, planned.cells) == (blocks * 7, blocks * 8)
    assert scores.image_id.nunique() == planned.images


def test_results_go_on_and_never_mix_with_another_donor(made: Made, command: Command) -> None:
    before = pd.read_parquet(made.root / "scores")
    assert run(made.spec, made.root).summary.outcome == "done"
    assert len(pd.read_parquet(made.root / "scores")) == len(before)
    model = made.spec.models[0]
    itself = DonorSpec(path=str(model.path))
    for changes in ({"donor": itself}, {"donor": None}):
        other = model.model_copy(update=changes)
        rest = made.spec.model_dump(exclude={"interventions", "models"})
        spec = SweepSpec.model_validate({**rest, "models": [other]}, strict=False)
        with pytest.raises(SpecError, match=r"made with (weights|another spec: .*donor)"):
            run(spec, made.root)
    assert command("report", made.root)[0] == 0


def changed(source: Path, folder: Path, part: str, *keys: str, file: str = WEIGHTS) -> Path:
    """Copies a pipeline and changes some tensors of a part."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / part / file)
    for key in keys:
        tensors[key] = tensors[key] + 1
    save_file(tensors, folder / part / file, {"format": "pt"})
    return folder


def words(path: Path | str, donor: Any, **more: Any) -> str:
    spec = tiny_sweep("", models=[{"id": "dog", "path": str(path), "donor": donor, **more}])
    (found,) = donor_words(resolve(spec))
    return found


def test_plan_says_what_no_swap_reaches(tiny_pipeline: Path, tmp_path: Path, command: Command) -> None:
    key = "down_blocks.0.attentions.0.transformer_blocks.0"
    only = changed(tiny_pipeline, tmp_path / "only", "unet", f"{key}.attn2.to_k.weight")
    more = changed(only, tmp_path / "more", "unet", f"{key}.attn1.to_v.weight", f"{key}.attn2.to_q.weight")
    text = load_file(more / "text_encoder" / "model.safetensors")
    more = changed(more, tmp_path / "most", "text_encoder", next(iter(text)), file="model.safetensors")
    lora = diffusers_lora(plain(tiny_pipeline), tmp_path / "lora.safetensors")
    start = "dog: K or V differ from its donor at 1 of 16 sites"
    assert words(only, str(tiny_pipeline)) == f"{start}, and nothing else differs"
    assert words(more, str(tiny_pipeline)) == (
        f"{start}; 2 other layers of the unet and text_encoder differ too, and stay as they are"
    )
    assert words(tiny_pipeline, str(tiny_pipeline)) == (
        "dog: K or V differ from its donor at 0 of 16 sites, so that no swap changes anything, and nothing else differs"
    )
    plain_words = words(tiny_pipeline, str(tiny_pipeline), loras=[str(lora)])
    assert plain_words == words(tiny_pipeline, {"path": str(tiny_pipeline), "loras": [str(lora)]})
    assert plain_words != words(tiny_pipeline, str(tiny_pipeline))


@pytest.mark.parametrize("formats", [("float32", "float16"), ("float32", "bfloat16"), ("float16", "bfloat16")])
def test_weights_in_another_format_are_compared_by_their_values(
    tiny_pipeline: Path, tmp_path: Path, formats: tuple[str, str]
) -> None:
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    one, other = (Path(shutil.copytree(tiny_pipeline, tmp_path / name)) for name in formats)
    for folder, name in ((one, formats[0]), (other, formats[1])):
        tensors = {key: value.to(getattr(torch, name)) for key, value in load_file(one / "unet" / WEIGHTS).items()}
        save_file(tensors, folder / "unet" / WEIGHTS, {"format": "pt"})
    nothing = "at 0 of 16 sites, so that no swap changes anything, and nothing else differs"
    for here, there in ((one, other), (other, one)):
        assert words(here, str(there)).endswith(nothing)
    # Three steps of the narrower format, of one number.
    tensors = load_file(other / "unet" / WEIGHTS)
    tensors[key].view(torch.int16).flatten()[0] += 3
    save_file(tensors, other / "unet" / WEIGHTS, {"format": "pt"})
    assert words(one, str(other)).endswith("at 1 of 16 sites, and nothing else differs")


def test_a_lora_of_processors_is_told_by_the_layers_that_it_changes(tiny_pipeline: Path, tmp_path: Path) -> None:
    block, pipeline = "down_blocks.0.attentions.0.transformer_blocks.0", plain(tiny_pipeline)
    file = tmp_path / "lora.safetensors"

    def said(*layers: str) -> str:
        tensors = {}
        for layer in layers:
            name = f"{block}.{layer.replace('.processor', '')}" + (".0" if layer.endswith("to_out") else "")
            out, into = pipeline.unet.get_submodule(name).weight.shape
            tensors[f"unet.{block}.{layer}_lora.down.weight"] = torch.ones(2, into)
            tensors[f"unet.{block}.{layer}_lora.up.weight"] = torch.ones(out, 2)
        save_file(tensors, file)
        return words(tiny_pipeline, {"path": str(tiny_pipeline), "loras": [str(file)]})

    start = "dog: K or V differ from its donor at"
    assert said("attn2.processor.to_v") == f"{start} 1 of 16 sites, and nothing else differs"
    assert said("attn2.processor.to_k", "attn2.processor.to_v", "attn2.processor.to_q", "attn1.processor.to_k") == (
        f"{start} 1 of 16 sites; 2 other layers of the unet differ too, and stay as they are"
    )
    assert said("attn2.processor.to_out") == (
        f"{start} 0 of 16 sites, so that no swap changes anything; 1 other layer of the unet differs too, and stays as "
        "it is"
    )
    # As the pipeline itself takes such a file.
    said("attn2.processor.to_v", "attn1.processor.to_k")
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    fuse_loras(pipeline, [Lora(str(file))])
    after = pipeline.unet.state_dict()
    assert {name for name, value in before.items() if not torch.equal(after[name], value)} == {
        f"{block}.attn2.to_v.weight", f"{block}.attn1.to_k.weight",
    }  # fmt: skip


def test_a_donor_that_does_not_fit_is_one_line_of_plan(tiny_pipeline: Path, tmp_path: Path) -> None:
    wider = Path(shutil.copytree(tiny_pipeline, tmp_path / "wider"))
    config = json.loads((wider / "unet" / "config.json").read_text())
    (wider / "unet" / "config.json").write_text(json.dumps({**config, "cross_attention_dim": 96}))
    joint, other = build("sd3", tmp_path / "sd3"), build("pixart_alpha", tmp_path / "pixart")
    for path, donor, said in (
        (joint, joint, r"dog \(sd3\): no other model can be the donor where text and image attend to each other"),
        (tiny_pipeline, other, r"the donor \S+ \(pixart\) has \d+ sites, and dog \(stable_diffusion\) 16 of"),
        (tiny_pipeline, wider, r"the donor \S+ has cross_attention_dim 96, and dog \d+: its K and V are of other"),
        (tiny_pipeline, tmp_path / "none", r"no folder \S+none; expected a diffusers pipeline folder"),
        (tiny_pipeline, tmp_path / "sd15", r"no folder \S+sd15; names of models are none of donors: .* such as \w"),
    ):  # fmt: skip
        spec = tiny_sweep("", models=[{"id": "dog", "path": str(path), "donor": str(donor)}])
        with pytest.raises(LocoError, match=said) as raised:
            resolve(spec)
        assert "\n" not in str(raised.value)
    traced = {"localizer": "causal_tracing", "resamples": 100}
    spec = tiny_sweep(
        "", models=[{"id": "dog", "path": str(tiny_pipeline), "donor": str(tiny_pipeline)}], localize=traced
    )
    with pytest.raises(SpecError, match="causal_tracing reads traces of donor prompts"):
        resolve(spec)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": [{"id": "a", "path": "/a", "donor": "/b"}, "toy"]}, "toy has none, and other models have one"),
        ({"models": ["toy"], "interventions": [{"source": "weights"}]}, "'weights' is wrong; expected 'run' or 'own'"),
        ({"interventions": [{"source": "run"}]}, "'run' is wrong; expected 'weights'"),
        ({"interventions": [{"pooled": "donor"}]}, "'donor' is of donor prompts"),
        (
            {"interventions": [{"guidance_half": "unconditional"}], "generation": {"steps": 2, "guidance_scale": 1.0}},
            "'unconditional' needs classifier-free guidance",
        ),
    ],
)
def test_what_means_nothing_beside_a_donor_is_refused(changes: dict[str, Any], said: str) -> None:
    content = {"models": [{"id": "dog", "path": "/a", "donor": "/b"}], **changes}
    with pytest.raises(ValidationError, match=said):
        tiny_sweep("", **content)


def test_a_sweep_with_donors_reads_weights_in_both_halves_unless_it_says_otherwise() -> None:
    models = [{"id": "dog", "path": "/a", "donor": {"path": "/a", "loras": ["/l.safetensors"]}}]
    (option,) = tiny_sweep("", models=models).interventions
    assert (option.source, option.guidance_half) == ("weights", "both")
    (option,) = tiny_sweep("", models=models, interventions=[{"guidance_half": "conditional"}]).interventions
    assert (option.source, option.guidance_half) == ("weights", "conditional")
    unguided = {"steps": 2, "guidance_scale": 1.0}
    assert tiny_sweep("", models=models, generation=unguided).interventions[0].guidance_half == "both"
    (option,) = tiny_sweep("/a").interventions
    assert (option.source, option.guidance_half) == ("run", "conditional")

"""Models in the forms in which people share them, beside what plain diffusers makes of the same files.

One file, LoRAs, variants and words of textual inversions: each is looked up, loaded and drawn as a sweep does it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

import loco_core
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.types import Generation, Intervention, Row
from orchestrator.reporting.findings import read_findings
from orchestrator.resolve.lookup import resolve
from orchestrator.resolve.resolved import ResolvedModel
from orchestrator.spec import load_sweep
from orchestrator.store import open_store
from tests.support.adapters import diffusers_lora
from tests.support.checkpoints import LORAS, MAKERS, NO_CHECKER, WIDTHS, build_all, plain
from tests.support.folders import to_variant
from tests.support.single_files import checkpoint, clip_keys, write
from tests.support.sweeps import Command, tiny_sweep
from tests.support.tiny_models import CLIP_L, SIDE

PROMPT, STEPS, SCALE, BATCH, SAME, SEEN = "a red circle in the style of lumio", 2, 3.0, 2, 1e-4, 1e-3


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_all(tmp_path_factory.mktemp("checkpoints"))


def plain_picture(pipeline: Any, prompt: str = PROMPT) -> torch.Tensor:
    generator = [torch.Generator().manual_seed(7)]
    return pipeline(
        prompt, num_inference_steps=STEPS, guidance_scale=SCALE, output_type="pt", generator=generator, height=SIDE,
        width=SIDE,
    ).images[0]  # fmt: skip


def looked_up(**model: Any) -> ResolvedModel:
    generation = {"steps": STEPS, "guidance_scale": SCALE, "batch_size": BATCH, "height": SIDE, "width": SIDE}
    named = {key: str(value) if isinstance(value, Path) else value for key, value in model.items()}
    spec = tiny_sweep("unused", generation=generation, attributes=["style/velor"], models=[{"id": "mine", **named}])
    return resolve(spec).models[0]


def loaded(model: ResolvedModel) -> LoadedModel:
    return load_model(model.family, model.path, model.revision, model.dtype, "cpu", extras=model.extras)


def our_picture(model: ResolvedModel, prompt: str = PROMPT) -> torch.Tensor:
    (found,) = generate(loaded(model), [Row(prompt, prompt, 7)], Generation(STEPS, SCALE, SIDE, SIDE), BATCH)
    return found.images[0]


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max())


@pytest.mark.parametrize("family", MAKERS)
def test_a_single_file_is_drawn_as_its_folder_and_as_by_diffusers(family: str, home: Path) -> None:
    folder, file = home / family, home / f"{family}.safetensors"
    model = looked_up(path=file, config=folder)
    ours = our_picture(model)
    assert difference(ours, plain_picture(plain(folder))) < SAME
    if family != "sd3":
        # Of SD3 diffusers' own call takes no text encoder from the folder.
        more = NO_CHECKER if family == "stable_diffusion" else {}
        cls = type(plain(folder))
        theirs = cls.from_single_file(str(file), config=str(folder), local_files_only=True, **more)
        assert difference(ours, plain_picture(theirs)) < SAME
    assert model.family == family
    assert model.site_names == looked_up(path=folder).site_names


def test_a_file_with_text_encoders_needs_no_weights_in_the_folder(home: Path, tmp_path: Path) -> None:
    lender = tmp_path / "configurations"
    shutil.copytree(home / "sdxl", lender, ignore=shutil.ignore_patterns("*.safetensors"))
    model = looked_up(path=home / "sdxl.safetensors", config=lender)
    assert difference(our_picture(model), plain_picture(plain(home / "sdxl"))) < SAME


def test_text_encoders_of_an_sd3_file_are_read_from_it(home: Path, tmp_path: Path) -> None:
    whole = plain(home / "sd3")
    # A file holds no projection of the first encoder, as published ones have none but the identity.
    with torch.no_grad():
        whole.text_encoder.text_projection.weight.copy_(torch.eye(CLIP_L))
    encoders = {
        **clip_keys(whole.text_encoder, "text_encoders.clip_l.transformer."),
        **clip_keys(whole.text_encoder_2, "text_encoders.clip_g.transformer."),
    }
    encoders.pop("text_encoders.clip_l.transformer.text_projection.weight")
    file = write({**checkpoint(whole), **encoders}, tmp_path / "sd3.safetensors")
    lender = tmp_path / "lender"
    shutil.copytree(home / "sd3", lender)
    for name in ("text_encoder", "text_encoder_2", "transformer", "vae"):
        (lender / name / ("diffusion_pytorch_model" if name in ("transformer", "vae") else "model")).with_suffix(
            ".safetensors"
        ).unlink()
    model = looked_up(path=file, config=lender)
    assert model.extras.parts == {"transformer", "vae", "text_encoder", "text_encoder_2"}
    assert difference(our_picture(model), plain_picture(whole)) < SAME


def test_a_single_file_is_known_by_its_content_and_that_of_its_folder(home: Path, tmp_path: Path) -> None:
    file, folder = home / "sdxl.safetensors", home / "sdxl"
    before = looked_up(path=file, config=folder)
    moved = shutil.copy(file, tmp_path / "other-name.safetensors")
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert looked_up(path=moved, config=tmp_path / "elsewhere").weights == before.weights
    (tmp_path / "elsewhere" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert looked_up(path=moved, config=tmp_path / "elsewhere").weights == before.weights
    scheduler = tmp_path / "elsewhere" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("leading", "trailing"))
    assert looked_up(path=moved, config=tmp_path / "elsewhere").weights != before.weights
    weights = load_file(moved)
    weights["model.diffusion_model.out.2.bias"] += 1
    assert looked_up(path=write(weights, tmp_path / "x.safetensors"), config=folder).weights != before.weights


def adapted(folder: Path, *loras: tuple[Path, float]) -> Any:
    """As people do it with diffusers: one after another, fused."""
    pipeline = plain(folder)
    for number, (file, scale) in enumerate(loras):
        pipeline.load_lora_weights(str(file), adapter_name=f"a{number}")
        pipeline.fuse_lora(
            components=list(pipeline.get_list_adapters()), lora_scale=scale, adapter_names=[f"a{number}"]
        )
        pipeline.unload_lora_weights()
    return pipeline


@pytest.mark.parametrize(("family", "kind"), LORAS)
def test_a_lora_is_drawn_as_by_diffusers(family: str, kind: str, home: Path) -> None:
    file = home / f"{family}.{kind}.safetensors"
    ours = our_picture(looked_up(path=home / family, loras=[{"path": str(file), "scale": 0.7}]))
    assert difference(ours, plain_picture(adapted(home / family, (file, 0.7)))) < SAME
    assert difference(ours, plain_picture(plain(home / family))) > SEEN
    assert difference(ours, plain_picture(adapted(home / family, (file, 1.0)))) > SEEN


def test_loras_are_fused_in_their_order_and_leave_plain_layers(home: Path, tmp_path: Path) -> None:
    first = home / "sdxl.peft.safetensors"
    second = diffusers_lora(plain(home / "sdxl"), tmp_path / "second.safetensors", seed=9)
    model = looked_up(path=home / "sdxl", loras=[str(first), {"path": str(second), "scale": -0.5}])
    made, theirs = loaded(model), adapted(home / "sdxl", (first, 1.0), (second, -0.5))
    for name in ("unet", "text_encoder", "text_encoder_2"):
        ours = getattr(made.pipeline, name).state_dict()
        assert all(torch.equal(ours[key], value) for key, value in getattr(theirs, name).state_dict().items()), name
    modules = dict(made.pipeline.unet.named_modules())
    assert {type(modules[path]) for site in made.sites for path in (site.key_path, site.value_path)} == {nn.Linear}
    assert made.sites == loaded(looked_up(path=home / "sdxl")).sites
    assert not any("lora" in name for part in made.pipeline.components.values() if isinstance(part, nn.Module)
                   for name, _ in part.named_parameters())  # fmt: skip


def test_a_lora_on_a_single_file_is_drawn_as_on_the_folder(home: Path) -> None:
    lora = {"loras": [str(home / "sdxl.kohya.safetensors")]}
    one = our_picture(looked_up(path=home / "sdxl.safetensors", config=home / "sdxl", **lora))
    assert difference(one, our_picture(looked_up(path=home / "sdxl", **lora))) < SAME


def test_content_scale_and_order_of_loras_make_another_model(home: Path, tmp_path: Path) -> None:
    first, folder = str(home / "sdxl.peft.safetensors"), home / "sdxl"
    second = str(diffusers_lora(plain(folder), tmp_path / "second.safetensors", seed=9))
    moved = str(shutil.copy(first, tmp_path / "moved.safetensors"))

    def weights(*loras: Any) -> str:
        return looked_up(path=folder, loras=list(loras)).weights

    assert weights(first) == weights(moved) == weights({"path": first, "scale": 1.0})
    others = [weights(), weights(first), weights({"path": first, "scale": 0.5}), weights(second),
              weights(first, second), weights(second, first)]  # fmt: skip
    assert len(set(others)) == len(others)


@pytest.mark.parametrize("only", [(), ("text_encoder",)], ids=["of all", "beside plain ones"])
def test_the_key_takes_a_variant_where_plain_weights_are_beside_it(
    only: tuple[str, ...], home: Path, tmp_path: Path
) -> None:
    parts = ("text_encoder", "unet", "vae")
    folder = tmp_path / "model"
    shutil.copytree(home / "stable_diffusion", folder)
    to_variant("fp16", *(only or parts), keep=True)(folder)
    file = folder / "text_encoder" / "model.fp16.safetensors"
    # Other weights than the plain ones, so that it shows which were read.
    write({key: value.roll(1, 0) for key, value in load_file(file).items()}, file)
    ours = our_picture(looked_up(path=folder, variant="fp16"))
    if not only:
        assert difference(ours, plain_picture(plain(folder, variant="fp16"))) < SAME
    assert difference(ours, plain_picture(plain(folder))) > SEEN
    assert difference(our_picture(looked_up(path=folder)), plain_picture(plain(folder))) < SAME
    assert looked_up(path=folder, variant="fp16").weights != looked_up(path=folder).weights


@pytest.mark.parametrize("family", WIDTHS)
def test_a_word_of_several_vectors_is_drawn_as_by_diffusers(family: str, home: Path) -> None:
    file, prompt = home / f"{family}.word.safetensors", "a red <cat> in the style of lumio"
    model = looked_up(path=home / family, textual_inversions=[{"path": str(file), "token": "<cat>"}])
    ours, pipeline, vectors = our_picture(model, prompt), plain(home / family), load_file(file)
    encoders = {"clip_g": "_2"}
    for key, value in vectors.items():
        end = encoders.get(key, "")
        pipeline.load_textual_inversion(
            value, token="<cat>", text_encoder=getattr(pipeline, f"text_encoder{end}"),
            tokenizer=getattr(pipeline, f"tokenizer{end}"),
        )  # fmt: skip
    assert difference(ours, plain_picture(pipeline, prompt)) < SAME
    assert difference(ours, plain_picture(plain(home / family), prompt)) > SEEN
    assert model.weights != looked_up(path=home / family).weights


def test_a_swap_and_its_masks_know_a_word_of_several_vectors(home: Path) -> None:
    word = {"path": str(home / "stable_diffusion.word.safetensors"), "token": "<cat>"}
    made = loaded(looked_up(path=home / "stable_diffusion", textual_inversions=[word]))
    encoded = made.encode(["a red <cat>", "a red circle circle"])
    # The start, and as many words: two vectors are two positions.
    assert encoded.words.sum(1).tolist() == [5, 5]
    rows = [Row("a red <cat>", "a red circle", 7, Intervention(does)) for does in ((), tuple(range(len(made.sites))))]
    rows.append(Row("a red circle", "a red circle", 7))
    clean, swapped, donor = (
        batch.images[i] for batch in generate(made, rows, Generation(STEPS, SCALE, SIDE, SIDE), 3) for i in range(3)
    )
    assert difference(swapped, donor) < SAME < SEEN < difference(clean, donor)


def test_from_python_a_file_with_a_lora_is_the_model_of_a_sweep(home: Path) -> None:
    file, folder, lora = (home / name for name in ("sdxl.safetensors", "sdxl", "sdxl.peft.safetensors"))
    model = looked_up(path=file, config=folder, loras=[{"path": str(lora), "scale": 0.5}])
    extras = loco_core.Extras(config=str(folder), loras=(loco_core.Lora(str(lora), 0.5),))
    made = loco_core.load_model(file, device="cpu", extras=extras)
    assert made.weights == model.weights
    assert len(made.sites) == model.n_sites
    rows = [Row(PROMPT, PROMPT, 7)]
    (ours,) = generate(made.loaded, rows, Generation(STEPS, SCALE, SIDE, SIDE), BATCH)
    assert difference(ours.images[0], our_picture(model)) == 0


def test_a_sweep_of_a_shared_file_runs_resumes_and_says_what_it_was_made_of(
    home: Path, tmp_path: Path, command: Command
) -> None:
    lora = Path(shutil.copy(home / "stable_diffusion.kohya.safetensors", tmp_path / "style.safetensors"))
    shutil.copy(home / "stable_diffusion.word.safetensors", tmp_path / "word.safetensors")
    shutil.copy(home / "stable_diffusion.safetensors", tmp_path / "model.safetensors")
    record = {"prompt": "a red <cat> in the style of lumio", "donor": "a red <cat>", "score_text": "a lumio picture",
              "donor_text": "a picture", "content_text": "a red circle"}  # fmt: skip
    model = {
        "id": "mine", "path": "model.safetensors", "config": str(home / "stable_diffusion"),
        "loras": [{"path": "style.safetensors", "scale": 0.5}],
        "textual_inversions": [{"path": "word.safetensors", "token": "<cat>"}],
    }  # fmt: skip
    file, results = tmp_path / "sweep.yaml", tmp_path / "results"
    sweep = {
        "name": "shared", "models": [model], "windows": {"sizes": [1]}, "prompts": 1, "seeds": 1, "scorer": "toy-clip",
        "attributes": [{"kind": "style", "name": "mine", "mode": "remove", "records": [record]}], "images": "none",
        "generation": {"steps": STEPS, "guidance_scale": SCALE, "batch_size": 4, "height": SIDE, "width": SIDE},
        "controls": {"random": 0},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(sweep))
    run = ("run", file, "--backend", "inline", "--results", results)
    assert command(*run)[0] == 0
    rows = open_store(str(results)).read("scores").to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    found = resolve(load_sweep(file)).models[0]
    assert {row["model_revision"] for row in rows} == {found.weights}
    provenance = read_findings(open_store(str(results))).provenance
    assert provenance["LoRAs of mine"] == f"{lora} x 0.5"
    assert provenance["words of mine"] == f"<cat> of {tmp_path / 'word.safetensors'}"
    assert provenance["configuration of mine"] == str(home / "stable_diffusion")
    # The same command has nothing to do; with another LoRA in the old place it is refused.
    assert command(*run)[0] == 0
    assert len(open_store(str(results)).read("scores")) == len(rows)
    shutil.copy(home / "stable_diffusion.peft.safetensors", lora)
    code, _, said = command(*run)
    assert code == 2
    assert "results of mine were made with weights" in said

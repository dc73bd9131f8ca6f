"""How the bundled models are trained: the loop, and the transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import load_model
from loco_core.toyworld import WEIGHTS, train
from loco_core.toyworld.planting import BLOCKS, MODELS
from loco_core.toyworld.training import loop
from loco_core.toyworld.training.data import make_pool, make_wide_pool
from loco_core.toyworld.training.denoiser import PerSite
from loco_core.toyworld.training.joint import JOINT_BLOCKS, caption_tables, train_joint
from loco_core.toyworld.training.loop import fit
from loco_core.toyworld.training.transformer import MASKED, Reader, draw, make_transformer
from loco_core.toyworld.world import Captions
from loco_core.types import Generation, Row


def line() -> tuple[torch.nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1), torch.randn(16, 3)


def test_a_loss_may_leave_its_gradients_in_place(tmp_path: Path) -> None:
    """As a replayed CUDA graph does: the steps are the same."""
    found = []
    for replayed in (False, True):
        module, x = line()

        def loss_at(
            _: np.random.Generator, module: torch.nn.Linear = module, x: torch.Tensor = x, replayed: bool = replayed
        ) -> torch.Tensor:
            loss: torch.Tensor = (module(x) - 1).square().mean()
            if replayed:
                module.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach() if replayed else loss

        fit(f"line-{replayed}", module, loss_at, steps=5, lr=0.1, work=tmp_path)
        found.append(module.weight.detach())
    assert torch.equal(*found)
    assert not torch.equal(found[0], line()[0].weight)


def test_a_training_by_the_clock_ends_with_the_time_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = line()
    steps: list[torch.Tensor] = []
    now, killed = 1000.0, False
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now))

    def loss_at(_: np.random.Generator) -> torch.Tensor:
        nonlocal now, killed
        if len(steps) == 100 and not killed:
            killed = True
            raise KeyboardInterrupt
        # Of a fraction that adds up exactly.
        now += 1 / 512
        loss: torch.Tensor = (module(x) - 1).square().mean()
        steps.append(loss.detach())
        return loss

    def train() -> None:
        fit("line", module, loss_at, steps=1_000_000, lr=0.1, work=tmp_path, every=10, seconds=0.5)

    with pytest.raises(KeyboardInterrupt):
        train()
    now += 60
    train()
    assert len(steps) == 256
    train()
    assert len(steps) == 256


def test_a_wide_pool_is_what_its_parts_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loco_core.toyworld.training.data.PART", 8)
    pool = make_wide_pool(20, 5)
    parts = [make_pool(8, 5), make_pool(8, 6), make_pool(4, 7)]
    assert torch.equal(pool.pictures, torch.cat([part.pictures for part in parts]))
    assert (pool.labels.colour == np.concatenate([part.labels.colour for part in parts])).all()


def test_every_site_reads_a_caption_of_its_own_while_knowledge_is_planted() -> None:
    """All sites with one caption are the transformer as it is; another caption at a site, or its padding, is felt."""
    transformer = make_transformer(3).eval()
    torch.nn.init.xavier_uniform_(transformer.proj_out.weight)
    noise, at = torch.randn(2, 8, 8, 8), torch.tensor([10, 500])
    texts, seen = torch.randn(2, 16, 96), (torch.arange(16) < torch.tensor([[5], [9]])).long()
    with torch.no_grad():
        plain = transformer(noise, texts, at, encoder_attention_mask=seen).sample
        per_site = PerSite(transformer, [f"transformer_blocks.{site}.attn2" for site in range(3)])

        def reading(texts: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
            per_site.context = transformer.caption_projection(texts)
            per_site.bias = ((1 - seen.float()) * MASKED)[:, :, None]
            found: torch.Tensor = transformer(noise, torch.zeros(2, 16, 96), at).sample
            return found

        every, all_seen = texts.repeat(3, 1, 1, 1), seen.repeat(3, 1, 1)
        assert torch.allclose(reading(every, all_seen), plain, atol=1e-6)
        other, longer = every.clone(), all_seen.clone()
        other[1] = other[1].roll(1, 0)
        longer[2] = 1
        assert not torch.allclose(reading(other, all_seen), plain, atol=1e-4)
        assert not torch.allclose(reading(every, longer), plain, atol=1e-4)
        transformer.set_attn_processor(AttnProcessor2_0())
        assert torch.equal(transformer(noise, texts, at, encoder_attention_mask=seen).sample, plain)


def test_a_planted_transformer_starts_from_the_natural_one_and_keeps_its_encoder(toy_transformers: Path) -> None:
    natural, planted = (
        load_model("pixart", str(toy_transformers / name), None, "float32", "cpu").pipeline
        for name in ("toy-dit", "toy-dit-planted")
    )
    for name, value in natural.text_encoder.state_dict().items():
        assert torch.equal(planted.text_encoder.state_dict()[name], value)
    changed = [
        not torch.equal(value, planted.transformer.state_dict()[name])
        for name, value in natural.transformer.state_dict().items()
    ]
    assert sum(changed) > 100
    moved = (natural.transformer.proj_out.weight - planted.transformer.proj_out.weight).detach().abs().max()
    assert 0 < float(moved) < 0.01
    for config in toy_transformers.glob("toy-dit*/*/*.json"):
        assert str(toy_transformers) not in config.read_text()


def test_captions_are_trained_on_as_the_pipeline_reads_them(toy_transformers: Path) -> None:
    """Sixteen tokens here, a hundred and twenty there: words and end are the same, and nothing else is looked at."""
    model = load_model("pixart", str(toy_transformers / "toy-dit"), None, "float32", "cpu")
    captions, encoder = Captions(), model.pipeline.text_encoder.requires_grad_(False)
    reader = Reader(encoder, model.pipeline.tokenizer, captions)
    numbers = torch.tensor([0, 7, 1000, len(captions.texts) - 1])
    texts = [captions.texts[number] for number in numbers]
    encoded = model.encode(texts)
    assert encoded.mask is not None
    for row, number in enumerate(numbers):
        seen = int(reader.seen[number].sum())
        assert seen == len(texts[row].split()) + 1 == int(encoded.mask[row].sum())
        assert torch.allclose(reader.texts(numbers)[row, :seen], encoded.embeds[row, :seen], atol=1e-5)


def test_a_few_captions_are_left_out_at_all_sites_at_once() -> None:
    """They teach the unconditional half of guidance."""
    pool, captions = make_pool(64, 3), Captions()
    planted = MODELS["toy-dit-planted"]
    assert planted.sites == BLOCKS
    _, read = draw(pool, captions, planted, 2000, np.random.default_rng(0))
    assert read.shape == (BLOCKS, 2000)
    empty = read == 0
    assert (empty.all(axis=0) == empty.any(axis=0)).all()
    assert 0.07 < empty.all(axis=0).mean() < 0.13
    assert draw(pool, captions, None, 10, np.random.default_rng(0))[1].shape == (1, 10)


def test_the_bundled_transformer_has_as_many_sites_as_its_plants_say(toy_transformers: Path) -> None:
    for model in (MODELS["toy-dit-planted"],):
        config = json.loads((toy_transformers / model.name / "transformer" / "config.json").read_text())
        assert config["num_layers"] == model.sites
        assert max(site for plant in model.plants.values() for site in plant.sites) < model.sites
        assert max(len(plant.sites) for plant in model.plants.values()) <= model.sites // 4


def test_the_time_is_shared_among_what_is_still_to_be_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, float] = {}

    def trained(_: Path, __: object, ___: object, to: Path, *____: object, seconds: float, **_____: object) -> None:
        given[to.stem] = seconds
        to.mkdir()

    monkeypatch.setattr(train, "train_transformer", trained)
    words = ["toy-dit", "toy-dit-planted", "--seconds", "100", "--pictures", "8", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["train", *words, "--work", str(tmp_path / "work")])
    train.main()
    assert given == {"toy-dit": pytest.approx(45, abs=5), "toy-dit-planted": pytest.approx(100, abs=10)}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["toy-dit", "toy-dit-planted"]


def test_a_joint_stream_is_trained_on_what_the_pipeline_reads_and_drawn_by_its_family(tmp_path: Path) -> None:
    """Its tables of captions are the family's encodings, without a place for T5; three steps make a pipeline."""
    captions = Captions()
    shutil.copytree(WEIGHTS / "vae", tmp_path / "vae")
    shutil.copytree(WEIGHTS / "clip", tmp_path / "clip")
    train_joint(tmp_path, make_pool(64, 1), captions, tmp_path / "toy-mmdit", tmp_path, steps=3, batch=8)
    model = load_model("sd3", str(tmp_path / "toy-mmdit"), None, "float32", "cpu")
    assert len(model.sites) == JOINT_BLOCKS
    assert all(site.text_only for site in model.sites)
    words, pooled = caption_tables(tmp_path / "clip", captions)
    numbers = [0, 7, 1000]
    encoded = model.encode([captions.texts[number] for number in numbers])
    assert encoded.pooled is not None
    assert torch.allclose(encoded.embeds, words[numbers], atol=1e-4)
    assert torch.allclose(encoded.pooled, pooled[numbers], atol=1e-4)
    (drawn,) = generate(model, [Row("a red circle", "", 3)], Generation(2, 3.0), 2)
    alone = model.pipeline(
        "a red circle", num_inference_steps=2, guidance_scale=3.0, max_sequence_length=0, output_type="latent",
        generator=torch.Generator("cpu").manual_seed(3),
    ).images  # fmt: skip
    assert torch.allclose(drawn.latents, alone, atol=1e-4)
    for config in (tmp_path / "toy-mmdit").glob("*/*.json"):
        assert str(tmp_path) not in config.read_text()

"""The default family: it serves classes that nobody wrote a family for, and refuses what it cannot find out."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from loco_core.checking.comparisons import STRICT, Alone, compare_engine
from loco_core.checking.trial import try_out
from loco_core.diffusion.default.attentions import find_sites
from loco_core.diffusion.default.calls import again, record
from loco_core.diffusion.default.family import Family
from loco_core.diffusion.default.passes import can_follow, check_slice, moved_by_noise
from loco_core.diffusion.default.probe import probe
from loco_core.diffusion.facts import DEFAULT, SEPARATE, UNGUIDED, family_of_pipeline
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.diffusion.pipelines import pipeline_class
from loco_core.diffusion.site_check import SitesError
from loco_core.errors import ModelError, UnknownPipelineError
from loco_core.types import Generation, Intervention, Row, Site
from tests.support.tiny_models import build, save, stable_diffusion
from tests.support.tiny_own import OwnPipeline, build_own, own

PROMPT, DONOR = "a red circle in the style of lumio", "a blue star"


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusers, "OwnPipeline", OwnPipeline, raising=False)


def rows(sites: int, *, guided: bool, pooled: bool) -> list[Row]:
    """Rows of all kinds that the default family draws."""
    every = tuple(range(sites))
    found = [
        Row(PROMPT, DONOR, 0),
        Row(PROMPT, DONOR, 0, Intervention((1,))),
        Row(PROMPT, DONOR, 1, Intervention((0, 2), part="k")),
        Row(PROMPT, PROMPT, 0, Intervention(every)),
        Row(DONOR, PROMPT, 3, Intervention((0,), step_start=1)),
        Row(DONOR, PROMPT, 3, Intervention((1,), part="v", step_end=1)),
    ]
    if guided:
        found += [Row(PROMPT, DONOR, 0, Intervention((1,), guidance_half=half)) for half in ("unconditional", "both")]
    if pooled:
        found += [Row(PROMPT, DONOR, 0, Intervention(sites, pooled="donor")) for sites in ((), every)]
    return found


def drawn(model: LoadedModel, cells: list[Row], side: int | None, scale: float) -> torch.Tensor:
    settings = Generation(steps=3, guidance_scale=scale, height=side, width=side)
    return torch.cat([each.images for each in generate(model, cells, settings, 6)])


@pytest.mark.parametrize(
    ("name", "family", "side"),
    [("sd", "stable_diffusion", None), ("pixart_alpha", "pixart", 32), ("sd3", "sd3", None), ("sdxl", "sdxl", None)],
)
def test_it_draws_what_a_family_draws_that_somebody_wrote(
    tmp_path: Path, name: str, family: str, side: int | None
) -> None:
    if name == "sd":
        save(stable_diffusion, tmp_path / name)
    else:
        build(name, tmp_path / name)
    found = load_model(DEFAULT, str(tmp_path / name), None, "float32", "cpu")
    written = load_model(family, str(tmp_path / name), None, "float32", "cpu")
    assert [site.name for site in found.sites] == [site.name for site in written.sites]
    assert found.facts.passes == written.facts.passes
    assert bool(found.facts.pooled) == bool(written.facts.pooled)
    cells = rows(len(found.sites), guided=True, pooled=bool(found.facts.pooled))
    for scale in (3.0, 1.0):
        mine, theirs = drawn(found, cells, side, scale), drawn(written, cells, side, scale)
        assert float((mine - theirs).abs().max()) < 1e-4
        assert float((mine[1] - mine[0]).abs().max()) > 1e-3


def test_a_class_of_ones_own_is_served_and_tried_out(tmp_path: Path) -> None:
    assert family_of_pipeline("OwnPipeline", "here") == DEFAULT
    model = load_model(DEFAULT, str(build_own(tmp_path / "own")), None, "float32", "cpu")
    assert [site.name for site in model.sites] == [f"transformer_blocks.{number}" for number in range(3)]
    assert model.facts.passes == SEPARATE
    assert (model.facts.native_side({}), model.facts.steps, model.facts.guidance_scale) == (32, 10, 3.0)
    try_out(model, "own")


def test_a_prompt_that_the_pipeline_cuts_is_refused(tmp_path: Path) -> None:
    model = load_model(DEFAULT, str(build_own(tmp_path / "own")), None, "float32", "cpu")
    model.encode(["red " * 12 + "circle"])
    with pytest.raises(ModelError, match=r'the prompt "red red .* is longer than a OwnPipeline reads'):
        model.encode(["red " * 20 + "circle"])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("unconditional_first", "its guidance runs the unconditional half first, in a call of its own"),
        ("longest", "so that a picture depends on the others of its batch"),
    ],
)
def test_what_would_be_drawn_wrongly_is_refused_when_it_is_loaded(tmp_path: Path, option: str, said: str) -> None:
    folder = build_own(tmp_path / "own", **{option: True})
    with pytest.raises(ModelError) as error:
        load_model(DEFAULT, str(folder), None, "float32", "cpu")
    assert str(error.value).startswith(f"{folder}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


class Strange(torch.nn.Module):
    """A cross-attention whose projections have names that nobody knows."""

    def __init__(self, known: Any) -> None:
        super().__init__()
        self.wq, self.wk, self.wv, self.out = known.to_q, known.to_k, known.to_v, known.to_out[0]

    def forward(self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        q, k, v = self.wq(hidden_states), self.wk(encoder_hidden_states), self.wv(encoder_hidden_states)
        return self.out(torch.nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0])


def test_a_part_of_the_sites_is_refused_by_their_number() -> None:
    pipeline = own()
    pipeline.transformer.eval()
    pipeline.transformer.transformer_blocks[1].attn2 = Strange(pipeline.transformer.transformer_blocks[1].attn2)
    with pytest.raises(SitesError) as error:
        probe(pipeline, "here")
    assert "here: found 2 of 3 sites: transformer_blocks.0, transformer_blocks.2; not found: " in str(error.value)


def test_a_text_that_passes_by_the_sites_is_refused_by_the_trial(tmp_path: Path) -> None:
    """No attention reads it there: only pictures tell."""
    model = load_model(DEFAULT, str(build_own(tmp_path / "own")), None, "float32", "cpu")

    def leak(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        more = kwargs["encoder_hidden_states"][:, :, 0].mean(1)[:, None, None, None]
        return (args[0] + more, *args[1:]), kwargs

    model.pipeline.transformer.register_forward_pre_hook(leak, with_kwargs=True)
    with pytest.raises(ModelError, match="own: the default family cannot serve this OwnPipeline: all_sites failed"):
        try_out(model, "own")


def test_guidance_that_runs_otherwise_than_it_did_is_refused(tmp_path: Path) -> None:
    model = load_model(DEFAULT, str(build_own(tmp_path / "own")), None, "float32", "cpu")
    model.pipeline.__class__ = type("Turned", (OwnPipeline,), {"__call__": _unguided})
    with pytest.raises(ModelError, match="guidance runs otherwise than it did when the model was loaded"):
        drawn(model, [Row(PROMPT, DONOR, 0)], None, 3.0)


def _unguided(self: OwnPipeline, guidance_scale: float = 1.0, callback_on_step_end: Any = None, **given: Any) -> Any:
    return OwnPipeline.__call__(self, guidance_scale=1.0, callback_on_step_end=callback_on_step_end, **given)


def test_sites_are_found_where_text_and_image_share_a_projection(tmp_path: Path) -> None:
    """And where the text stands in what they share: in front in FLUX, whose distilled guidance is a number."""
    written = load_model("flux", str(build("flux", tmp_path / "flux")), None, "float32", "cpu")
    pipeline, family = written.pipeline, Family()
    pipeline.default_sample_size = 8
    sites = family.probe(pipeline, "here")
    facts = family.profile.facts
    assert (len(sites), facts.text_last, facts.passes, facts.scale_argument) == (5, False, UNGUIDED, "guidance_scale")
    found = LoadedModel(pipeline, family, facts, sites, "cpu", "float32")
    cells = rows(5, guided=False, pooled=True)
    assert float((drawn(found, cells, 32, 3.5) - drawn(written, cells, 32, 3.5)).abs().max()) < 1e-4


def test_a_package_brings_a_class_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "owners-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: owners\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[loco_sweep.pipelines]\nOwnPipeline = tests.support.tiny_own\n")
    monkeypatch.delattr(diffusers, "OwnPipeline")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert pipeline_class("OwnPipeline", "here") is OwnPipeline


def test_a_class_that_is_nowhere_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build_own(tmp_path / "own")
    monkeypatch.delattr(diffusers, "OwnPipeline")
    with pytest.raises(UnknownPipelineError, match='own is a "OwnPipeline", which no family supports and diffusers'):
        load_model(DEFAULT, str(folder), None, "float32", "cpu")


def test_tokens_that_are_put_beside_texts_of_one_length_alone_are_refused() -> None:
    pipeline = own()
    given = record(pipeline, [PROMPT], scale=3.0, steps=2, first_only=True).first
    denoiser = pipeline.transformer

    def run(tokens: int) -> int:
        # What it is called with is filled up, what it is tried with is not.
        again(denoiser, given, 20 if tokens == 16 else tokens)
        return tokens

    with pytest.raises(ModelError, match="here: beside texts of 16 and of 98 tokens its PixArtTransformer2DModel puts"):
        find_sites(denoiser, run, 16, "here")


class Joint(torch.nn.Module):
    """An attention whose K and V serve four tokens of a text, and the image behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.to_k = torch.nn.Linear(3, 3)

    def forward(self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        return self.to_k(torch.cat([encoder_hidden_states, hidden_states], 1))


def test_positions_of_the_image_are_not_taken_for_the_texts() -> None:
    sites = (Site(0, "blocks.0", "to_k", "to_k", 3, text_only=False),)
    one, other = ({"hidden_states": torch.randn(1, 5, 3), "encoder_hidden_states": torch.ones(1, 4, 3)} for _ in "ab")
    denoiser = Joint()
    check_slice(denoiser, one, other, sites, slice(0, 4))
    for wrong in (slice(0, 6), slice(-4, None)):
        with pytest.raises(ModelError, match=r"positions at blocks.0 that were taken for the text's change with the"):
            check_slice(denoiser, one, other, sites, wrong)


def test_projections_that_keep_what_they_made_at_an_earlier_step_are_refused() -> None:
    pipeline = own()
    pipeline.transformer.eval()
    projection, kept = pipeline.transformer.transformer_blocks[1].attn2, {}
    keys = projection.to_k

    before = projection.processor

    def attend(attention: Any, hidden: torch.Tensor, encoder_hidden_states: Any = None, **more: Any) -> torch.Tensor:
        key = (tuple(encoder_hidden_states.shape), float(encoder_hidden_states.sum()))
        if float(encoder_hidden_states.std(1).max()) < 1e-6:
            # Texts of zeros, which sites are found with.
            return before(attention, hidden, encoder_hidden_states=encoder_hidden_states, **more)
        if key not in kept:
            kept[key] = keys.forward(encoder_hidden_states)
            return before(attention, hidden, encoder_hidden_states=encoder_hidden_states, **more)
        attention.to_k = Kept(kept[key])
        try:
            return before(attention, hidden, encoder_hidden_states=encoder_hidden_states, **more)
        finally:
            attention.to_k = keys

    projection.processor = attend
    with pytest.raises(ModelError, match=r"transformer_blocks.1.attn2.to_k runs 0 times in call 3 of the denoiser"):
        probe(pipeline, "here")


class Kept(torch.nn.Module):
    """Gives what was made before."""

    def __init__(self, made: torch.Tensor) -> None:
        super().__init__()
        self.made = made

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.made


def test_a_text_that_enters_behind_the_last_step_is_refused_by_the_trial(tmp_path: Path) -> None:
    """Latents are right there: only pictures tell."""
    model = load_model(DEFAULT, str(build_own(tmp_path / "own")), None, "float32", "cpu")

    class Late(OwnPipeline):
        def __call__(self, prompt: list[str], callback_on_step_end: Any = None, **given: Any) -> Any:
            drawn = OwnPipeline.__call__(self, prompt=prompt, callback_on_step_end=callback_on_step_end, **given)
            shift = 0.2 * self.read(prompt)[:, :, :3].mean(1)[..., None, None]
            drawn.images = (drawn.images + shift).clamp(0, 1)
            return drawn

    model.pipeline.__class__ = Late
    with pytest.raises(ModelError, match=r"own: .* all_sites failed .*: of the pictures: all sites swapped"):
        try_out(model, "own")


def test_what_half_of_the_effect_would_hide_is_refused() -> None:
    nothing = torch.zeros(4)
    alone = Alone(nothing + 1, nothing + 2, floor=0.05, signal=1.0)
    names = ("identity", "all_sites", "identity_together", "all_sites_together")
    drawn = {name: nothing + (1 if "identity" in name else 2) for name in names}
    model = SimpleNamespace(dtype="float32", facts=SimpleNamespace(pooled=""))
    assert {each.state for each in compare_engine(model, alone, drawn)} == {"passed"}
    # Four times the floor are more than a tenth of the effect; rows of one batch are held to that tenth.
    found = {each.name: each.state for each in compare_engine(model, alone, drawn, STRICT)}
    assert found == {"identity": "skipped", "all_sites": "skipped", "batch": "passed"}


def test_where_the_noisy_picture_enters_is_found_or_own_sources_are_refused(tmp_path: Path) -> None:
    model = load_model(DEFAULT, str(build_own(tmp_path / "own")), None, "float32", "cpu")
    assert model.facts.follows
    assert not model.facts.sides
    denoiser = model.pipeline.transformer
    given = record(model.pipeline, [PROMPT], scale=3.0, steps=2, first_only=True).first
    anew = record(model.pipeline, [PROMPT], scale=3.0, steps=2, first_only=True, seeds=(7,)).first
    assert moved_by_noise(given, anew) == "hidden_states"
    assert moved_by_noise({**given, "noise": given["hidden_states"]}, {**anew, "noise": anew["hidden_states"]}) == ""
    assert can_follow(denoiser, given, "hidden_states", 1)
    assert not can_follow(denoiser, given, "timestep", 1)
    assert not can_follow(denoiser, given, "", 1)
    other = replace(model, facts=replace(model.facts, follows=False))
    with pytest.raises(ModelError, match="expected source: run"):
        drawn(other, [Row(PROMPT, DONOR, 0, Intervention((1,), source="own"))], None, 3.0)
    with pytest.raises(ModelError, match="takes no height and width"):
        drawn(model, [Row(PROMPT, DONOR, 0)], 32, 3.0)


def test_whatever_an_unknown_pipeline_raises_is_one_line(tmp_path: Path) -> None:
    model = load_model(DEFAULT, str(build_own(tmp_path / "own")), None, "float32", "cpu")

    class Odd(OwnPipeline):
        def __call__(self, callback_on_step_end: Any = None, **given: Any) -> Any:
            return OwnPipeline.__call__(self, **given)

    model.pipeline.__class__ = Odd
    # It never calls back, so that there are no latents.
    with pytest.raises(ModelError, match=r"^own: the default family cannot serve it: IndexError: "):
        try_out(model, "own")

    class Unsaid(OwnPipeline):
        def __call__(self, num_inference_steps: int, callback_on_step_end: Any = None, **given: Any) -> Any:
            return OwnPipeline.__call__(
                self, num_inference_steps=num_inference_steps, callback_on_step_end=callback_on_step_end, **given
            )

        __call__.__signature__ = _without_default(OwnPipeline.__call__)

    model.pipeline.__class__ = Unsaid
    assert probe(model.pipeline, "own")[0].steps == 50


def _without_default(call: Any) -> inspect.Signature:
    signature = inspect.signature(call)
    return signature.replace(
        parameters=[
            each.replace(default=inspect.Parameter.empty, kind=inspect.Parameter.KEYWORD_ONLY)
            if each.name == "num_inference_steps"
            else each.replace(kind=inspect.Parameter.KEYWORD_ONLY if each.name != "self" else each.kind)
            for each in signature.parameters.values()
        ]
    )

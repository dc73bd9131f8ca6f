"""Settings of memory and speed: interventions do the same whatever they are; what cannot work is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from torch.nn.attention import SDPBackend

from loco_core.diffusion.engine import KERNELS, _check_kept_code, _try_to_compile, compile_between, device_of, kernels
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.editing.base import Concept, EditSettings, Target, fit_edit
from loco_core.editing.deltas import applied, projection
from loco_core.errors import EditError, ModelError, OutOfMemoryError
from loco_core.testing.families import random_rows
from loco_core.types import Attention, Engine, Generation, PromptRecord, Row
from tests.support.tiny_models import build, build_second_stage

# One family a way to intervene: tables of K and V, masks that go with them, K and V that are borrowed at every step.
KINDS = {"sdxl": "sdxl", "pixart_alpha": "pixart", "sd3": "sd3"}
SETTINGS = Generation(steps=2, guidance_scale=3.0, height=32, width=32)
TOLERANCE = 1e-4
Load = Callable[..., LoadedModel]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("engines")
    return {name: build(name, root / name) for name in [*KINDS, "deepfloyd_if"]}


@pytest.fixture
def load(folders: dict[str, Path]) -> Load:
    def load(name: str, engine: Engine | None = None) -> LoadedModel:
        return load_model(KINDS.get(name, name), str(folders[name]), None, "float32", "cpu", engine)

    return load


@pytest.fixture
def offloading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets weights wait in the main memory, with diffusers' and accelerate's own hooks, while the CPU computes."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("loco_core.diffusion.engine.check", lambda *_: None)

    def sequential(pipeline: DiffusionPipeline, device: str) -> None:
        # As diffusers does, but to "cpu": to its "cpu:0" torch copies what it would leave alone on a GPU.
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                accelerate.cpu_offload(part, torch.device(device), offload_buffers=bool(part._parameters))

    monkeypatch.setattr(DiffusionPipeline, "enable_sequential_cpu_offload", sequential)


@pytest.fixture(scope="module")
def plain(folders: dict[str, Path]) -> dict[str, torch.Tensor]:
    """What every model draws by default."""
    return {name: drawn(load_model(key, str(folders[name]), None, "float32", "cpu")) for name, key in KINDS.items()}


def drawn(model: LoadedModel) -> torch.Tensor:
    rows = random_rows(len(model.sites), guided=model.facts.guided, count=6)
    return torch.cat([part.images for part in generate(model, rows, SETTINGS, 8)])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("engine", "same_bits"),
    [
        (Engine(attention="math", channels_last=True, vae_slicing=True), False),
        # What torch chooses on a CPU; and pictures of 32 pixels are one tile.
        (Engine(attention="flash", vae_tiling=True), True),
    ],
    ids=["math, channels last, slices", "flash, tiles"],
)
def test_interventions_do_the_same(
    load: Load, plain: dict[str, torch.Tensor], name: str, engine: Engine, same_bits: bool
) -> None:
    difference = float((drawn(load(name, engine)) - plain[name]).abs().max())
    assert difference == 0 if same_bits else 0 < difference < TOLERANCE


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("offload", ["model", "sequential"])
@pytest.mark.usefixtures("offloading")
def test_offloaded_weights_give_the_same_bits_batch_after_batch(
    load: Load, plain: dict[str, torch.Tensor], name: str, offload: Any
) -> None:
    """Hooks that offload replace forwards as the router does; what it puts back must be theirs."""
    model = load(name, Engine(offload=offload))
    assert torch.equal(drawn(model), plain[name])
    assert torch.equal(drawn(model), plain[name])
    denoiser = model.family.denoiser(model.pipeline)
    assert device_of(denoiser).type == "cpu"
    assert all(weight.is_meta == (offload == "sequential") for weight in denoiser.parameters())


@pytest.mark.usefixtures("offloading")
def test_a_second_stage_runs_as_the_first(folders: dict[str, Path], tmp_path: Path) -> None:
    """Its weights wait where those of the first do; its text is encoded by an encoder that waits, too."""
    second, pictures = build_second_stage(tmp_path / "second"), []
    for engine in (Engine(), Engine(offload="model"), Engine(offload="sequential"), Engine(channels_last=True)):
        model = load_model(
            "deepfloyd_if", str(folders["deepfloyd_if"]), None, "float32", "cpu", engine, (str(second), None)
        )
        assert model.super_resolution is not None
        unet = model.super_resolution.pipeline.unet
        assert all(weight.is_meta == (engine.offload == "sequential") for weight in unet.parameters())
        strided = unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        assert strided == bool(engine.channels_last)
        pictures.append(drawn(model))
    assert all(torch.equal(found, pictures[0]) for found in pictures[1:3])
    assert 0 < float((pictures[3] - pictures[0]).abs().max()) < 10 * TOLERANCE


@pytest.mark.usefixtures("offloading")
def test_edits_of_offloaded_weights(load: Load) -> None:
    """Of components they are as of any; layer by layer they would change nothing, and are refused."""
    concepts = (Concept("style/x", (PromptRecord("a red circle in the style of lumio", "a blue star", "", "", ""),)),)
    target, row = Target("tiny", "w" * 64, (1, 2), concepts), [Row("a red circle in the style of lumio", "", 0)]
    found = []
    for engine in (Engine(), Engine(offload="model")):
        model = load("sdxl", engine)
        before = projection(model, model.sites[1].key_path).weight.clone()
        with applied(model, fit_edit(model, target, EditSettings()), "w" * 64):
            found.append(next(generate(model, row, SETTINGS, 2)).images)
        assert torch.equal(projection(model, model.sites[1].key_path).weight, before)
    assert torch.equal(*found)
    with pytest.raises(EditError, match=r"offloaded layer by layer and cannot be edited; expected engine.offload: mod"):
        fit_edit(load("sdxl", Engine(offload="sequential")), target, EditSettings())


def test_what_is_compiled_holds_no_site_and_all_else_is(
    load: Load, plain: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured by torch.compile for real, without the minutes that its code generator takes."""
    compiled: list[torch.nn.Module] = []
    honest = torch.nn.Module.compile

    def capture(module: torch.nn.Module) -> None:
        compiled.append(module)
        honest(module, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", capture)
    model = load("pixart_alpha")
    compile_between(model.pipeline.transformer, model.sites)
    torch._dynamo.utils.counters.clear()
    assert float((drawn(model) - plain["pixart_alpha"]).abs().max()) < TOLERANCE
    captured = dict(torch._dynamo.utils.counters["stats"])
    assert captured["unique_graphs"] > 0
    # Other windows, other donors: nothing is captured again.
    assert float((drawn(model) - plain["pixart_alpha"]).abs().max()) < TOLERANCE
    assert dict(torch._dynamo.utils.counters["stats"]) == captured
    inside = {id(part) for module in compiled for part in module.modules()}
    transformer = model.pipeline.transformer
    for site in model.sites:
        assert not inside & {id(transformer.get_submodule(path)) for path in (site.key_path, site.value_path)}
    for block in transformer.transformer_blocks:
        assert {id(block.ff), id(block.attn1)} <= inside


# By hand: the code generator took four minutes on two busy cores; what it is given is tested above.
@pytest.mark.chaos
def test_compiled_code_does_the_same(load: Load, plain: dict[str, torch.Tensor]) -> None:
    model = load("pixart_alpha", Engine(compile=True))
    assert float((drawn(model) - plain["pixart_alpha"]).abs().max()) < TOLERANCE


def test_settings_that_a_machine_without_a_gpu_cannot_follow(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before any weights are read."""
    monkeypatch.setattr("loco_core.diffusion.model.load_pipeline", lambda *_, **__: pytest.fail("weights are read"))
    for engine, reason in (
        (Engine(offload="model"), "offload: model keeps weights in the main memory while a GPU computes.* on the CPU"),
        (Engine(offload="sequential"), "offload: sequential keeps"),
        (Engine(device_map="balanced"), "several GPUs, and this worker sees 0"),
        (Engine(attention="cudnn"), "attention: cudnn is a kernel of GPUs.* expected default, flash or math"),
    ):
        with pytest.raises(ModelError, match=reason):
            load("sdxl", engine)


def test_a_kernel_that_does_not_serve_leaves_a_call_to_the_others_and_least_to_the_slowest() -> None:
    """A CPU heeds no order: told of by what torch was given."""
    names: tuple[Attention, ...] = ("flash", "efficient", "cudnn")
    for name in names:
        with kernels(name, "float16"):
            order = [SDPBackend(number) for number in torch._C._get_sdp_priority_order()]
        assert order[0] == KERNELS[name]
        assert order[3] == SDPBackend.MATH


@pytest.mark.parametrize(("dtype", "rounded"), [("float32", False), ("float16", True), ("bfloat16", True)])
def test_float32_is_not_rounded_to_tf32(dtype: str, rounded: bool) -> None:
    """Told of by torch's switch: only GPUs round."""
    before = torch.backends.cudnn.allow_tf32
    with suppress(KeyError), kernels("default", dtype):
        assert torch.backends.cudnn.allow_tf32 == rounded
        raise KeyError
    assert torch.backends.cudnn.allow_tf32 == before


def test_parts_that_are_not_there(load: Load) -> None:
    for name in ("vae_slicing", "vae_tiling"):
        with pytest.raises(ModelError, match=f"{name}: a IFPipeline has no VAE"):
            load("deepfloyd_if", replace(Engine(), **{name: True}))


def test_what_a_gpu_is_asked_for(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' own calls, with its own arguments; the device is a recording."""
    calls: list[tuple[str, Any]] = []
    real = StableDiffusionPipeline.from_pretrained.__func__

    def from_pretrained(cls: Any, path: str, **given: Any) -> Any:
        calls.append(("device_map", given.pop("device_map")))
        return real(cls, path, **given)

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", classmethod(from_pretrained))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for name in ("enable_model_cpu_offload", "enable_sequential_cpu_offload", "to"):
        record = lambda self, device, name=name: calls.append((name, device))  # noqa: E731
        monkeypatch.setattr(DiffusionPipeline, name, record)
    for engine, expected in (
        (Engine(), [("device_map", None), ("to", "cuda")]),
        (Engine(offload="model"), [("device_map", None), ("enable_model_cpu_offload", "cuda")]),
        (Engine(offload="sequential"), [("device_map", None), ("enable_sequential_cpu_offload", "cuda")]),
        (Engine(device_map="balanced"), [("device_map", "balanced")]),
    ):
        calls.clear()
        model = load_model("stable_diffusion", str(tiny_pipeline), None, "float32", "cuda", engine)
        assert calls == expected
        assert model.pipeline.vae.use_slicing


def test_a_model_that_does_not_fit_says_what_would_help(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DiffusionPipeline, "to", full)
    with pytest.raises(OutOfMemoryError, match=r"does not fit .*dtype: bfloat16, engine.offload, or several GPUs"):
        load_model("stable_diffusion", str(tiny_pipeline), None, "float32", "cuda")


def test_compiled_code_that_others_may_have_written_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(kept))
    _check_kept_code()
    kept.chmod(0o777)
    with pytest.raises(ModelError, match=rf"other users can write to {kept}, where torch keeps code"):
        _try_to_compile("cpu")
    kept.chmod(0o755)
    monkeypatch.setattr("os.getuid", lambda: kept.stat().st_uid + 1)
    with pytest.raises(ModelError, match="expected a folder of your own, which TORCHINDUCTOR_CACHE_DIR may name"):
        _try_to_compile("cpu")

"""Every key of a sweep file, at every value that it admits, through planning, runs, localization, edits and report."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from pydantic import ValidationError

from loco_core.diffusion import weights
from loco_core.errors import LocoError
from loco_core.toyworld import WEIGHTS
from orchestrator.resolve.lookup import resolve
from orchestrator.runs.outlook import outlook
from orchestrator.spec import SweepSpec
from tests.support import outside, tiny_models
from tests.support.adapters import diffusers_lora, inversion
from tests.support.checkpoints import plain
from tests.support.folders import to_variant
from tests.support.inbox import inbox
from tests.support.judge_models import other_clip, references
from tests.support.options import Flat, Pick, content, keys, pack, picks
from tests.support.single_files import checkpoint, write
from tests.support.sweeps import Command
from tests.support.vision import save_vision_model

OBJECTS = ("circle", "square", "heart", "star")
INLINE: Flat = {
    "attributes": [
        {
            "kind": "style", "name": "velor", "mode": "remove",
            "records": [
                {
                    "prompt": f"a red {thing} in the style of velor", "donor": f"a red {thing}", "template_id": "",
                    "score_text": f"a {thing} in velor style", "donor_text": f"a {thing}", "content_text": f"a {thing}",
                }
                for thing in OBJECTS
            ],
        }
    ]
}  # fmt: skip
BASE: Flat = {
    "name": "options", "models.*.id": "tiny", "attributes": ["style/velor"], "windows.sizes": [1], "windows.stride": 16,
    "prompts": 1, "seeds": 1, "generation.steps": 2, "generation.guidance_scale": 3.0, "generation.batch_size": 8,
    "scorer": "toy-clip", "localize.localizer": "argmin", "controls.random": 0, "images": "none",
    "edit.editors": ["loco_edit"], "edit.targets": ["paired"], "edit.lambdas": [0.1], "edit.tokens": ["all"],
    "evaluate.prompts": 1, "evaluate.seeds": 1, "evaluate.neighbours": 0, "evaluate.windows": False,
}  # fmt: skip
ADDRESS = "${env:OPTIONS_INBOX}"
OPEN: dict[str, list[Any]] = {
    "name": ["é [v] $x$ =1+1 <b>"],
    "models.*.id": ["toy", "[mine]"],
    "models.*.revision": ["main"],
    "models.*.guidance_scale": [1.0, 4.0],
    "models.*.loras.*.scale": [-0.5, 2],
    "models.*.textual_inversions.*.token": ["<cat>"],
    "models.*.super_resolution.revision": ["main"],
    "models.*.donor.revision": ["main"],
    "models.*.donor.loras.*.scale": [0.5],
    "models.*.worker.gpus": [0],
    "models.*.worker.accelerators": [["H100", "A100-80GB"]],
    "models.*.worker.min_gpu_memory": ["1GiB"],
    "models.*.worker.label_selector": [{}, {"zone": "a"}],
    "attributes": [["object/heart"], ["style/velor", "fact/zandia"]],
    "attributes.*.kind": ["colour"],
    "attributes.*.name": ["[b]velor[/b]"],
    "attributes.*.records.*.prompt": ["a blue circle in the style of velor"],
    "attributes.*.records.*.donor": ["a circle"],
    "attributes.*.records.*.score_text": ["velor style"],
    "attributes.*.records.*.donor_text": ["a picture"],
    "attributes.*.records.*.content_text": ["a red circle"],
    "attributes.*.records.*.template_id": ["one"],
    "attributes.*.siblings": [["lumio style", "sorelle style"]],
    "attributes.*.published.*.keys": [],
    "attributes.*.published.*.anchors": [],
    "attributes.*.published": [{"loco_edit": {"keys": ["velor"], "anchors": ["circle"]}}],
    "windows.sizes": [[2], [1, 3]],
    "windows.stride": [12],
    "prompts": [2],
    "seeds": [2, [3, 5]],
    "generation.steps": [1, 3],
    "generation.guidance_scale": [0.0, 1.0],
    "generation.height": [64],
    "generation.width": [64],
    "generation.scheduler": ["DDIMScheduler", "EulerDiscreteScheduler"],
    "generation.batch_size": [1],
    "generation.unit_seconds": [1.0, 86400.0],
    "localize.localizer": ["window", "sequential", "attention_contribution", "causal_tracing"],
    "localize.compare": [["window"], ["attention_contribution", "causal_tracing"]],
    "localize.threshold": [0.5, 1.0],
    "localize.max_share": [0.5],
    "localize.confidence": [0.9],
    "localize.resamples": [100],
    "localize.damage_share": [0.0, 1.0],
    "localize.seed": [7],
    "localize.screen": [4],
    "controls.random": [1],
    "interventions.*.steps": [[0, 1], [1, 2]],
    "edit.editors": [
        ["neurons"],
        ["uce"],
        ["diff_quick_fix"],
        ["loco_edit", "neurons", "uce", "speed", "rece", "diff_quick_fix"],
    ],
    "edit.lambdas": [[0.01, 1.0]],
    "edit.method_lambdas": [{"loco_edit": [0.5]}],
    "edit.neurons": [[0.2, 3]],
    "edit.preserve": [0, 1],
    "edit.together": [["style/velor", "fact/zandia"], [["style/velor", "style/lumio"], ["fact/zandia", "style/lumio"]]],
    "edit.max_neighbour_loss": [0.0, 1.0],
    "edit.sequence": [["style/velor", "fact/zandia"], [["style/velor", "fact/zandia"], ["fact/zandia", "style/velor"]]],
    "evaluate.prompts": [2],
    "evaluate.seeds": [2],
    "evaluate.neighbours": [1],
    "evaluate.judge": ["toy-judge"],
    "evaluate.judge.use": ["toy-judge"],
    "evaluate.judge.revision": ["main"],
    "evaluate.metrics.*.*.weights": [],
    "evaluate.metrics.*.*.revision": [],
    "evaluate.attacks.*.use": ["relearn"],
    "reproduces": ["locogen-sd14"],
    "stages": [{}],
    "notify": [ADDRESS],
    "notify.to": [[ADDRESS]],
}
REFUSED = {
    "models.*.engine.attention: 'efficient'": "kernel of GPUs", "models.*.engine.attention: 'cudnn'": "kernel of GPUs",
    "models.*.engine.offload: 'model'": "runs on the CPU", "models.*.engine.offload: 'sequential'": "runs on the CPU",
    "models.*.engine.device_map: 'balanced'": "sees 0", "models.*.revision: 'main'": "hub id",
    "models.*.super_resolution.revision: 'main'": "hub id", "evaluate.judge.revision: 'main'": "no hub id",
    "models.*.donor.revision: 'main'": "has no revision",
    "interventions.*.source: 'own'": "the same whatever is drawn",
}  # fmt: skip
"""What a machine without a GPU refuses, and a model in a folder, and in which words."""
OCCASIONS = {"start": "begins", "localized": ": style/velor: ", "edited": "is edited", "end": "is done"}
"""What titles of messages hold, by occasions that a sweep without faults has."""
HOOK = """\
class Hook:
    def __init__(self, path="default"):
        self._path = path

    def on_end(self, end):
        with open(self._path, "a") as file:
            print(end.outcome, file=file)
"""
INLINE_BACKEND = ("--backend", "inline", "--threads", 1)


@pytest.fixture(scope="module")
def named(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Returns what paths in the sweeps name."""
    folder = tmp_path_factory.mktemp("named")
    found = {"tiny": tiny_pipeline, "second": tiny_models.build_second_stage(folder / "second")}
    found |= {name: tiny_models.build(name, folder / name) for name in ("sdxl", "deepfloyd_if")}
    found["folder"] = Path(shutil.copytree(tiny_pipeline, folder / "folder"))
    to_variant("fp16", "unet", keep=True)(found["folder"])
    found["file"] = write(checkpoint(plain(tiny_pipeline)), folder / "tiny.safetensors")
    found["lora"] = diffusers_lora(plain(tiny_pipeline), folder / "lora.safetensors")
    found["word"] = inversion(folder / "word.safetensors", {"emb_params": 128}, 2)
    found["clip"] = Path(shutil.copytree(WEIGHTS / "clip", folder / "clip"))
    found["judge"] = other_clip(folder / "judge")
    found["pictures"] = references(folder / "pictures", ("velor", "a shape"))
    found["vision"] = save_vision_model(folder / "vision", "dinov2")
    found["hook"] = folder / "hook.py"
    found["hook"].write_text(HOOK)
    for file in ("lowest", "shrink", "colours"):
        found[file] = Path(shutil.copy(Path(outside.__file__).parent / f"{file}.py", folder))
    return {name: str(path) for name, path in found.items()}


def wanted(named: dict[str, str]) -> list[Pick]:
    """Returns every key at every value to be tried."""
    places = {
        "models.*.path": [named["sdxl"], named["file"]], "models.*.config": [named["folder"]],
        "models.*.variant": ["fp16"], "models.*.loras.*.path": [named["lora"]],
        "models.*.textual_inversions.*.path": [named["word"]], "models.*.super_resolution.path": [named["second"]],
        "models.*.donor.path": [named["folder"]], "models.*.donor.config": [named["folder"]],
        "models.*.donor.variant": ["fp16"], "models.*.donor.loras.*.path": [named["lora"]],
        "scorer": [named["clip"], named["colours"], "toy-clip"], "results": [], "edit.editors": [[named["shrink"]]],
        "localize.localizer": [named["lowest"]], "evaluate.judge.model": [named["judge"]],
        "evaluate.judge.pictures": [named["pictures"]],
        "evaluate.metrics": [
            ["ssim", {"cmmd": {"weights": "toy-clip"}}],
            [{"dino": {"weights": named["vision"]}}, {"fid": {"weights": named["clip"]}}],
        ],
        "evaluate.attacks": [["noised_clean", {"use": "relearn", "steps": 1}], ["soft_prompt", "textual_inversion"]],
        "evaluate.floor": [named["folder"], "toy"],
        "hooks": [["tensorboard"], [{"tensorboard": {"folder": "curves"}}, {named["hook"]: {"path": "called"}}]],
    }  # fmt: skip
    found = picks(SweepSpec, {path: [*OPEN.get(path, ()), *places.get(path, ())] for path in OPEN.keys() | places})
    # Tried as items of the list: what stands above these keys is a metric's name. A revision wants a hub.
    return [pick for pick in found if not pick.path.startswith("evaluate.metrics.*.*.")]


def needs(named: dict[str, str]) -> dict[str, Flat]:
    """Returns what a pick wants beside its own key."""
    # Neurons are ranked by how they vary over prompts.
    neurons = {"edit.editors": ["neurons"], "prompts": 2}
    donor = {"models.*.donor.path": named["folder"]}
    second = {"models.*.path": named["deepfloyd_if"], "scorer": "toy-clip"}
    judged = {"evaluate.judge.use": "zero_shot", "evaluate.judge.model": named["judge"]}
    return {
        **{path: INLINE for path, _, _ in keys(SweepSpec) if path.startswith("attributes.")},
        "attributes.*.records.*.template_id": {**INLINE, "prompts": 2},
        "localize.max_share": {"windows.sizes": [1]},
        "models.*.path: None": {"models.*.id": "toy"}, "models.*.id: 'toy'": {"models.*.path": None},
        f"models.*.path: {named['file']!r}": {"models.*.config": named["folder"]},
        "models.*.config": {"models.*.path": named["file"]}, "models.*.variant": {"models.*.path": named["folder"]},
        "models.*.config: None": {"models.*.path": named["tiny"]},
        "models.*.loras.*.scale": {"models.*.loras.*.path": named["lora"]},
        "models.*.textual_inversions.*.path": {"models.*.textual_inversions.*.token": "<cat>"},
        "models.*.textual_inversions.*.token": {"models.*.textual_inversions.*.path": named["word"]},
        "models.*.super_resolution.path": second,
        "models.*.super_resolution.revision": {**second, "models.*.super_resolution.path": named["second"]},
        "interventions.*.source: 'weights'": donor,
        **{f"models.*.donor.{key}": donor for key in ("revision", "variant", "loras.*.path")},
        "models.*.donor.config: None": donor, "models.*.donor.variant: None": donor,
        "models.*.donor.revision: None": donor,
        "models.*.donor.config": {"models.*.donor.path": named["file"]},
        "models.*.donor.loras.*.scale": {**donor, "models.*.donor.loras.*.path": named["lora"]},
        "models.*.engine.compile: True": {"models.*.path": named["tiny"], "models.*.dtype": "float32"},
        "interventions.*.pooled: 'donor'": {"models.*.path": named["sdxl"]},
        "edit.method_lambdas": {"edit.targets": None}, "edit.choose_by: 'judge'": {"evaluate.judge": "toy-judge"},
        **{f"evaluate.judge.{key}": judged for key in ("model", "revision")},
        "evaluate.judge.model: None": {"evaluate.judge.use": "toy-judge"},
        "evaluate.judge.pictures: None": {"evaluate.judge.use": "zero_shot"},
        "evaluate.judge.pictures": {**judged, "evaluate.judge.use": "style"},
        **{f"edit.{name}": neurons for name in ("neurons", "fill", "guidance_half", "neuron_tokens")},
        "edit.retain": {"edit.editors": ["speed"]},
        "evaluate.floor": {"evaluate.attacks": ["noised_clean"]},
        # Sets are of two prompts or more.
        "evaluate.metrics": {"evaluate.prompts": 2},
        "edit.together": {"attributes": ["style/velor", "style/lumio", "fact/zandia"]},
        "edit.sequence": {"attributes": ["style/velor", "fact/zandia"]},
        "edit.editors": {"prompts": 2}, "notify.when": {"notify.to": [ADDRESS]},
        "models.*.engine.offload: 'sequential'": {"edit": None}, "models.*.engine.device_map: 'balanced'":
        {"models.*.worker.gpus": 2},
    }  # fmt: skip


def refusal(base: Flat, values: Flat) -> str:
    """Returns why these values make no sweep, or nothing."""
    try:
        spec = SweepSpec.model_validate(content(base, values), strict=False)
        outlook(spec, resolve(spec), None)
    except (LocoError, ValidationError) as error:
        return str(error)
    return ""


def asked(named: dict[str, str], pick: Pick) -> Flat:
    """Returns what a sweep says that tries one pick."""
    return {**needs(named).get(pick.path, {}), **needs(named).get(str(pick), {}), pick.path: pick.value}


def test_every_value_of_every_key_runs(
    command: Command,
    named: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The same few files over and over.
    monkeypatch.setattr(weights, "file_hash", cache(weights.file_hash))
    # What compiled code does is tested elsewhere; it takes a minute to make.
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: compiled.append(module))
    monkeypatch.chdir(tmp_path)
    base = {**BASE, "models.*.path": named["tiny"]}
    tried = [pick for pick in wanted(named) if str(pick) not in REFUSED]
    packed, left = pack(tried, lambda pick: asked(named, pick), lambda values: not refusal(base, values))
    assert not left, refusal(base, asked(named, left[0]))
    with inbox() as taken:
        monkeypatch.setenv("OPTIONS_INBOX", taken.address)
        for number, sweep in enumerate(packed):
            with subtests.test(picks=[str(pick) for pick in sweep.picks]):
                try_out(command, content(base, sweep.values), tmp_path / str(number))
    assert compiled
    # A hook that fails is a warning.
    assert [record.getMessage() for record in caplog.records if record.name.startswith("orchestrator.hooks")] == []
    for occasion, words in OCCASIONS.items():
        assert any(words in title for title in taken.titles), occasion
    assert "done" in (tmp_path / "called").read_text()
    for folder in ("tensorboard", "curves"):
        assert any((tmp_path / folder).iterdir())


def test_what_this_machine_cannot_do_is_refused_in_one_line(
    command: Command, named: dict[str, str], tmp_path: Path, subtests: pytest.Subtests
) -> None:
    base = {**BASE, "models.*.path": named["tiny"]}
    refused = {str(pick): pick for pick in wanted(named) if str(pick) in REFUSED}
    assert refused.keys() == REFUSED.keys()
    for name, pick in refused.items():
        with subtests.test(pick=name):
            file = written(content(base, asked(named, pick)), tmp_path / name)
            code, out, err = command("run", file, "--results", tmp_path / name / "results", *INLINE_BACKEND)
            assert code in (1, 2, 3)
            assert any(REFUSED[name] in line for line in (out + err).splitlines())


def written(sweep: dict[str, Any], folder: Path) -> Path:
    """Writes a sweep file into a new folder, and returns its path."""
    folder.mkdir()
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep, allow_unicode=True), encoding="utf-8")
    return file


def try_out(command: Command, sweep: dict[str, Any], folder: Path) -> None:
    """Runs a sweep through all commands that compute from it."""
    file, results = written(sweep, folder), folder / "results"

    def called(*words: object) -> str:
        code, out, err = command(*words)
        assert code == 0, f"{words[0]}: {out}{err}"
        return out

    called("plan", file)
    called("run", file, "--results", results, *INLINE_BACKEND)
    if not (results / "edits").is_dir() or not len(pd.read_parquet(results / "edits")):
        model, (first, *_) = sweep["models"][0]["id"], sweep["attributes"]
        attribute = first if isinstance(first, str) else f"{first['kind']}/{first['name']}"
        place = ("--window", "0,1", "--model", model, "--attribute", attribute)
        called("edit", results, *place, "--trust", *INLINE_BACKEND)
    for words in (
        ("status", results),
        ("localize", results, "--write", "--trust"),
        ("report", results),
        ("verify", results),
    ):
        called(*words)
    assert "0 cells" in called("run", file, "--results", results, *INLINE_BACKEND)
    for table in ("scores", "localizations", "edits", "evaluations"):
        assert len(pd.read_parquet(results / table)), table

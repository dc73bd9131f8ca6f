"""Texts that would be cut, or that read alike, are found before a worker starts; by the same measure as in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loco_core.diffusion.checks import load_tokenizer
from loco_core.diffusion.model import load_model
from loco_core.errors import ModelError, SpecError
from orchestrator.resolve.lookup import outline, resolve, resolve_model
from orchestrator.resolve.texts import prompt_reader
from orchestrator.spec import ModelSpec, SweepSpec
from tests.support import tiny_cross, tiny_joint, tiny_packed
from tests.support.folders import said
from tests.support.sweeps import Command, tiny_sweep
from tests.support.tiny_models import BUILDERS, build, save, sd3

FAMILY = {"pixart_alpha": "pixart", "pixart_sigma": "pixart"}
CROSS = ("wan", "kandinsky3")
LETTERS = ("z_image", "cogview4")
SANA_SLACK = 2
"""Tokens by which plan may be milder: what an instruction and a prompt make together is counted by the pipeline."""


def refused(act: Any) -> bool:
    try:
        act()
    except (ModelError, SpecError) as error:
        return "shorten it" in str(error)
    return False


@pytest.mark.parametrize("name", [*BUILDERS, *CROSS, *tiny_joint.BUILDERS, *tiny_packed.BUILDERS, "sd3 without T5"])
def test_plan_and_worker_refuse_the_same_prompts(name: str, tmp_path: Path) -> None:
    if name in BUILDERS:
        build(name, tmp_path)
    elif name in CROSS:
        tiny_cross.build(name, tmp_path)
    elif name in tiny_joint.BUILDERS:
        tiny_joint.build(name, tmp_path)
    elif name in tiny_packed.BUILDERS:
        tiny_packed.build(name, tmp_path)
    else:
        save(sd3, tmp_path)
        said("model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])(tmp_path)
    family = FAMILY.get(name, name.partition(" ")[0])
    model = load_model(family, str(tmp_path), None, "float32", "cpu")
    found = prompt_reader(resolve_model(ModelSpec(id="mine", path=str(tmp_path))), ("models", 0))
    assert found is not None
    reader = load_tokenizer(found)
    # Every word is a token here, or every letter, whatever the tokenizer.
    template = reader.template.replace("{}", "")
    beside = len(reader.tokenizer(template).input_ids) if template else 0
    around = [reader.tokens - beside + more for more in (-4, -3, -2, -1, 0, 1, 2, 3)]
    texts = ["A " + "red " * (words - 2) + "circle" for words in around]
    if name in LETTERS:
        texts = ["r" * letters for letters in around]
    by_worker = [refused(lambda text=text: model.family.encode(model.pipeline, [text])) for text in texts]
    by_plan = [refused(lambda text=text: reader.ids(text, "the prompt")) for text in texts]
    assert any(by_plan)
    assert not all(by_plan)
    if family == "sana":
        assert not any(plan and not worker for plan, worker in zip(by_plan, by_worker, strict=True))
        assert by_worker.index(True) + SANA_SLACK >= by_plan.index(True)
    else:
        assert by_plan == by_worker


RECORD = {
    "prompt": "a red circle in the style of lumio", "donor": "a red circle",
    "score_text": "a shape in the style of lumio",
    "donor_text": "a plain shape", "content_text": "a red circle",
}  # fmt: skip
LONG = "a red circle " * 9


def sweep(spare: str = "", **changes: str) -> SweepSpec:
    records = [{**RECORD, **changes}, *([{**RECORD, "prompt": spare}] if spare else [])]
    attributes = [{"kind": "style", "name": "mine", "mode": "remove", "records": records}]
    return tiny_sweep("unused", models=["toy"], attributes=attributes, prompts=1)


@pytest.mark.parametrize("key", RECORD)
def test_a_text_that_would_be_cut_is_refused_where_it_stands(key: str) -> None:
    said = r'"a red circle .* has 29 tokens, of which toy.* reads 16; shorten it'
    with pytest.raises(SpecError, match=said) as error:
        resolve(sweep(**{key: LONG}))
    assert error.value.loc == ("attributes", 0)
    with pytest.raises(SpecError, match="shorten it"):
        outline(sweep(**{key: LONG}))


def test_prompts_that_the_sweep_does_not_take_may_be_long() -> None:
    resolve(sweep(spare=LONG))


def test_score_texts_that_differ_only_beyond_what_is_read_are_refused() -> None:
    words = "a red circle a blue star a red circle a blue star a red"
    with pytest.raises(SpecError, match="of which toy-clip reads 16"):
        resolve(sweep(score_text=f"{words} circle", donor_text=f"{words} star"))


@pytest.mark.parametrize(("key", "other"), [("prompt", "donor"), ("score_text", "donor_text")])
def test_texts_that_a_tokenizer_does_not_tell_apart_are_refused(key: str, other: str) -> None:
    with pytest.raises(SpecError, match="alike, so that nothing can be measured"):
        resolve(sweep(**{key: "a \u4e00 circle", other: "a \u4e01 circle"}))


def test_plan_says_so_in_one_line(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(sweep(prompt=LONG).model_dump_json(exclude_unset=True))
    code, out, err = command("plan", file, "--results", tmp_path / "results")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "has 29 tokens, of which toy reads 16" in err


def test_plan_finds_steps_that_a_scheduler_cannot_take(command: Command, tmp_path: Path) -> None:
    def said_of(generation: dict[str, Any], **more: Any) -> str:
        spec = tiny_sweep("unused", models=["toy"], attributes=["style/lumio"], generation=generation, **more)
        file = tmp_path / "sweep.yaml"
        file.write_text(spec.model_dump_json(exclude_unset=True))
        code, _, err = command("plan", file, "--results", tmp_path / "results")
        assert (code, err.count("\n")) in ((2, 1), (0, 0))
        return err

    steps = {"steps": 4, "guidance_scale": 3.0}
    assert "PNDMScheduler runs the denoiser" in said_of(
        {**steps, "scheduler": "PNDMScheduler"}, interventions=[{"steps": [0, 2]}]
    )
    assert "PNDMScheduler cannot take 1 steps" in said_of({**steps, "steps": 1, "scheduler": "PNDMScheduler"})
    assert "torchsde" in said_of({**steps, "scheduler": "DPMSolverSDEScheduler"})
    assert "no scheduler" in said_of({**steps, "scheduler": "FlowMatchEulerDiscreteScheduler"})
    assert said_of({**steps, "scheduler": "DDIMScheduler"}, interventions=[{"steps": [0, 2]}]) == ""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature, LlavaProcessor

from loco_core.errors import ModelError, SpecError
from loco_core.scoring.base import JudgeChoice, load_judge
from loco_core.scoring.classes import KindClasses, NamedClass
from loco_core.scoring.judges.vqa import Judge
from loco_core.scoring.transformers_models import as_pictures
from tests.support import judge_models

CLASSES = judge_models.classes()
TEMPLATE = (
    "{% for m in messages %}{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{% endfor %} a photo of "
)
# One that writes the first token itself, and one that leaves it to the tokenizer.
TEMPLATES = {"plain": None, "template": TEMPLATE, "begun": "{{ bos_token }}" + TEMPLATE}


@pytest.fixture(scope="module", params=TEMPLATES.values(), ids=TEMPLATES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judge_models.llava(tmp_path_factory.mktemp("models") / "llava", request.param)


def judge_of(model: Path, **settings: object) -> Judge:
    choice = JudgeChoice("vqa", str(model), settings={"kinds": ("style",), **settings})
    found = load_judge(choice, "cpu", CLASSES)
    assert isinstance(found, Judge)
    return found


def test_an_answer_is_as_likely_as_its_tokens_one_after_the_other_and_the_end(model: Path) -> None:
    judge = judge_of(model, questions={"style": "the style of this picture"})
    prompts = judge._prompts["style"]
    labels = judge._words("style")
    assert f"the style of this picture Answer with one of these: {'; '.join(labels)}." in prompts[0]
    assert f"the style of this picture Answer with one of these: {'; '.join(labels[::-1])}." in prompts[1]
    picture = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    found = judge.embed_images(picture)[0]
    whole = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(model)
    tokenizer, (shown,) = processor.tokenizer, as_pictures(picture)[0]
    for number, label in enumerate(labels):
        totals = []
        for prompt in prompts:
            begun = prompt.startswith(tokenizer.bos_token)
            batch = processor(images=[shown], text=[prompt], return_tensors="pt", add_special_tokens=not begun)
            ids = batch["input_ids"]
            assert (ids[0] == tokenizer.bos_token_id).nonzero().tolist() == [[0]]
            # The tokenizer of the bundled CLIP model ends every text.
            ids = ids if begun else ids[:, :-1]
            tokens = tokenizer(label, add_special_tokens=False)["input_ids"]
            total = 0.0
            for token in (*tokens, tokenizer.eos_token_id):
                with torch.no_grad():
                    logits = whole(input_ids=ids, pixel_values=batch["pixel_values"]).logits
                total += float(logits[0, -1].log_softmax(-1)[token])
                ids = torch.cat([ids, torch.tensor([[token]])], 1)
            totals.append(total)
        assert found[number] == pytest.approx(sum(totals) / 2, abs=1e-3)
    assert np.ptp(found) > 0.1


def test_the_picture_counts_and_one_that_is_none_is_unsure(model: Path) -> None:
    judge = judge_of(model, abstain=0.0)
    pictures = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32), torch.full((3, 32, 32), float("nan"))])
    rows = judge.embed_images(pictures)
    assert not np.allclose(rows[0], rows[1])
    assert judge.name(rows, "style")[2] == "unsure"
    assert "unsure" not in judge.name(rows[:2], "style")
    best = [judge._task.classes["style"].names[row.argmax()] for row in rows[:2]]
    assert judge.name(rows[:2], "style") == best


def test_answers_that_it_reads_alike_and_questions_of_no_kind_are_refused(tmp_path: Path) -> None:
    folder = judge_models.llava(tmp_path / "llava")
    with pytest.raises(SpecError, match='questions names the kind "styel"; did you mean "style"'):
        judge_of(folder, questions={"styel": "?"})
    alike = {"style": KindClasses((NamedClass("one", "red circle"), NamedClass("other", "red  circle")))}
    with pytest.raises(ModelError, match='reads the answer "red  circle" like another one'):
        load_judge(JudgeChoice("vqa", str(folder)), "cpu", alike)


def test_a_model_that_reads_in_both_directions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = judge_models.llava(tmp_path / "llava")
    read = LlavaProcessor.__call__

    def also(self: LlavaProcessor, **given: object) -> BatchFeature:
        batch = read(self, **given)
        return BatchFeature({**batch, "token_type_ids": torch.zeros_like(batch["input_ids"])})

    monkeypatch.setattr(LlavaProcessor, "__call__", also)
    with pytest.raises(ModelError, match="reads a question in both directions"):
        judge_of(folder)

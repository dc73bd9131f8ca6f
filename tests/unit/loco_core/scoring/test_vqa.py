from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

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


@pytest.fixture(scope="module", params=[None, TEMPLATE], ids=["plain", "template"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judge_models.llava(tmp_path_factory.mktemp("models") / "llava", request.param)


def judge_of(model: Path, **settings: object) -> Judge:
    choice = JudgeChoice("vqa", str(model), settings={"kinds": ("style",), **settings})
    found = load_judge(choice, "cpu", CLASSES)
    assert isinstance(found, Judge)
    return found


def test_an_answer_is_as_likely_as_its_tokens_one_after_the_other(model: Path) -> None:
    judge = judge_of(model, questions={"style": "the style of this picture"})
    prompt = judge._prompts["style"]
    assert "the style of this picture Answer with one of these: bastide; lumio;" in prompt
    picture = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    found = judge.embed_images(picture)[0]
    whole = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(model)
    (shown,), _ = as_pictures(picture)
    for number, answer in enumerate(judge._answers["style"]):
        own = {"add_special_tokens": False} if processor.chat_template else {}
        batch, total = processor(images=[shown], text=[prompt], return_tensors="pt", **own), 0.0
        for token in answer[0]:
            with torch.no_grad():
                total += float(whole(**batch).logits[0, -1].log_softmax(-1)[token])
            batch["input_ids"] = torch.cat([batch["input_ids"], token[None, None]], 1)
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        assert found[number] == pytest.approx(total, abs=1e-3)
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
    alike = {"style": KindClasses((NamedClass("red-circle", "a"), NamedClass("red circle", "b")))}
    with pytest.raises(ModelError, match='reads the answer "red circle" like another one'):
        load_judge(JudgeChoice("vqa", str(folder)), "cpu", alike)

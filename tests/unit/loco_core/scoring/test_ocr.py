from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loco_core.errors import SpecError
from loco_core.scoring.base import JudgeChoice, load_judge
from loco_core.scoring.judges.ocr import Judge, accuracy, words_of
from tests.support import judge_models
from tests.support.text_attributes import words


@pytest.mark.parametrize(
    ("read", "asked", "share"),
    [
        ("OPEN!", "open", 1.0), ("o pen", "open", 1.0), ("opem", "open", 0.75), ("open", "opening", 4 / 7),
        ("", "open", 0.0), ("", "", 1.0), ("kitten", "sitting", 4 / 7), ("close", "open", 0.2),
    ],
)  # fmt: skip
def test_accuracy_is_the_share_of_letters_that_are_right(read: str, asked: str, share: float) -> None:
    assert accuracy(read, asked) == pytest.approx(share)


@given(st.text("abc"), st.text("abc"))
def test_accuracy_is_the_same_both_ways_and_one_of_the_same_text_alone(one: str, other: str) -> None:
    assert accuracy(one, other) == accuracy(other, one)
    assert 0 <= accuracy(one, other) <= 1
    assert (accuracy(one, other) == 1) == (one == other)


def test_the_word_of_a_class_stands_in_quotes_or_is_its_name() -> None:
    found = words()["text"]
    assert dict(zip(found.names, words_of(found), strict=True)) == {
        "open": "OPEN now", "red-circle": "red circle", "a blank sign": "",
    }  # fmt: skip


def judge_of(folder: Path, **settings: object) -> Judge:
    found = load_judge(JudgeChoice("ocr", str(folder), settings=settings), "cpu", words())
    assert isinstance(found, Judge)
    return found


def test_the_word_read_decides_and_a_doubtful_one_is_unsure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = judge_of(judge_models.reader(tmp_path / "reader"), least=0.75, abstain=0.5)
    said = iter([("open n0w", 0.9), ("a circle", 0.9), ("red circie", 0.4), ("Red Circle", 0.5), ("", 0.0), ("", 0.9)])
    monkeypatch.setattr(judge, "read", lambda picture: next(said))
    pictures = torch.zeros(7, 3, 32, 32)
    pictures[6] = float("nan")
    rows = judge.embed_images(pictures)
    np.testing.assert_allclose(rows[0], [6 / 7, 0, 0, 0.9], atol=1e-6)
    assert judge.name(rows, "text") == ["open", "other", "unsure", "red-circle", "unsure", "a blank sign", "unsure"]


def test_a_model_of_the_real_class_reads_token_by_token(tmp_path: Path) -> None:
    judge = judge_of(judge_models.reader(tmp_path / "reader"), longest=4)
    pixels = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(3))
    from loco_core.scoring.transformers_models import as_pictures

    (picture,), _ = as_pictures(pixels[None])
    text, sure = judge.read(picture)
    values = judge._processor([picture], return_tensors="pt")["pixel_values"]
    tokens, logs = [judge._model.generation_config.decoder_start_token_id], []
    for _ in range(4):
        with torch.no_grad():
            logits = judge._model(pixel_values=values, decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
        tokens.append(int(logits.argmax()))
        logs.append(float(logits.log_softmax(-1).max()))
        if tokens[-1] == 165:
            break
    assert text == judge._tokenizer.decode(tokens[1:], skip_special_tokens=True)
    assert sure == pytest.approx(np.exp(np.mean(logs)), rel=1e-3)
    assert 0 < sure < 1


def test_without_attributes_of_words_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match='ocr: no attribute is of the kind "text"'):
        load_judge(JudgeChoice("ocr", "anything"), "cpu", judge_models.classes())

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPModel, SiglipModel

from loco_core.errors import LocoError, ModelError, SpecError
from loco_core.scoring.base import JudgeChoice, load_judge, load_scorer
from loco_core.scoring.judges.zero_shot import Judge
from loco_core.scoring.probabilities import named_best, softmax
from loco_core.scoring.transformers_models import as_pictures
from loco_core.scoring.two_towers import TwoTowers
from tests.support import judge_models

CLASSES = judge_models.classes()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judge_models.other_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judge_models.siglip(tmp_path_factory.mktemp("models") / "siglip")


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def judge_of(model: Path, **settings: object) -> Judge:
    found = load_judge(JudgeChoice("zero_shot", str(model), settings=settings), "cpu", CLASSES)
    assert isinstance(found, Judge)
    return found


def test_a_name_is_the_best_class_and_unsure_where_the_second_is_close() -> None:
    logits = np.log(np.array([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25], [0.2, 0.2, 0.6]]))
    np.testing.assert_allclose(softmax(logits), np.exp(logits))
    names = ["velor", "lumio", "a shape"]
    assert named_best(softmax(logits), names, 0.1) == ["velor", "unsure", "a shape"]
    assert named_best(softmax(logits), names, 0.0) == ["velor", "velor", "a shape"]
    assert named_best(softmax(logits), names, 0.35) == ["unsure", "unsure", "a shape"]
    assert named_best(np.array([[np.nan, 1.0]]), ["a", "b"], 0.0) == ["unsure"]
    assert named_best(np.array([[0.3]]), ["a"], 0.5) == ["a"]


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_probabilities_are_those_of_the_model_itself(
    name: str, request: pytest.FixtureRequest, pictures: torch.Tensor
) -> None:
    folder = request.getfixturevalue(name)
    judge, towers = judge_of(folder), TwoTowers(str(folder), None, "cpu")
    model = {"clip": CLIPModel, "siglip": SiglipModel}[name].from_pretrained(folder, dtype=torch.float32).eval()
    texts = [item.text for item in CLASSES["style"].classes]
    pixels = towers._processor(as_pictures(pictures)[0], return_tensors="pt")["pixel_values"]
    tokens = towers._tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt")
    # As published: CLIP masks what pads a text, SigLIP reads it.
    mask = {"attention_mask": tokens["attention_mask"]} if name == "clip" else {}
    with torch.no_grad():
        logits = model(input_ids=tokens["input_ids"], pixel_values=pixels, **mask).logits_per_image
    found = judge.probabilities(judge.embed_images(pictures), "style")
    np.testing.assert_allclose(found, softmax(logits.numpy()), atol=1e-4)
    assert np.ptp(found) > 0.01


def test_its_embeddings_are_the_scorers_where_the_weights_are(clip: Path, pictures: torch.Tensor) -> None:
    scorer = load_scorer(str(clip), None, "cpu")
    np.testing.assert_array_equal(judge_of(clip).embed_images(pictures), scorer.embed_images(pictures))


def test_the_margin_decides_how_often_it_abstains(clip: Path, pictures: torch.Tensor) -> None:
    counts = []
    for abstain in (0.0, 0.5, 1.0):
        judge = judge_of(clip, abstain=abstain)
        counts.append(judge.name(judge.embed_images(pictures), "style").count("unsure"))
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[2] == 5


class GemmaWords:
    """Reads with the words of another tokenizer, as SigLIP 2 does with those of Gemma, and notes what it is given."""

    def __init__(self, words: Any) -> None:
        self.words, self.given = words, list[Any]()

    def __call__(self, text: Any, **options: Any) -> Any:
        self.given.append(text)
        return self.words(text, **options)


class OtherWords(GemmaWords):
    pass


@pytest.mark.parametrize(
    ("words", "read"), [(GemmaWords, "a red,  circle!"), (OtherWords, "a red circle")], ids=["siglip2", "siglip"]
)
def test_siglip_reads_small_letters_and_siglip_2_alone_punctuation(
    siglip: Path, words: type[GemmaWords], read: str
) -> None:
    towers = TwoTowers(str(siglip), None, "cpu")
    towers._tokenizer = said = words(towers._tokenizer)
    assert towers._tokens("A red,  Circle!").keys() == {"input_ids"}
    assert said.given == [read, [read]]


def test_a_picture_that_is_none_is_unsure(clip: Path, pictures: torch.Tensor) -> None:
    judge, broken = judge_of(clip, abstain=0.0), pictures.clone()
    broken[2, 0, 3, 3] = float("nan")
    embeddings = judge.embed_images(broken)
    assert np.isnan(embeddings[2]).all()
    assert judge.name(embeddings, "style")[2] == "unsure"
    assert "unsure" not in judge.name(embeddings[[0, 1, 3, 4]], "style")


def test_it_is_asked_about_the_kinds_that_are_named(clip: Path) -> None:
    assert judge_of(clip, kinds="fact").kinds == ("fact",)
    assert judge_of(clip, kinds=["fact", "style"]).kinds == ("fact", "style")
    assert set(judge_of(clip).kinds) == {"style", "object", "colour", "fact"}


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"settings": {"abstian": 1.0}}, 'no setting "abstian"; did you mean "abstain"'),
        ({"settings": {"abstain": 2.0}}, "abstain is 2.0; expected less than or equal to 1"),
        ({"settings": {"abstain": "a"}}, "abstain is 'a'"),
        ({"settings": {"kinds": ("stlye",)}}, 'no attribute is of the kind "stlye"; did you mean "style"'),
        ({"model": ""}, "needs a model"), ({"pictures": "here"}, "takes no pictures"),
        ({"use": "toy-judge"}, "toy-judge takes no settings, but model is given"),
        ({"use": "zero_shto"}, 'no judge "zero_shto"; did you mean "zero_shot"'),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_in_one_line(clip: Path, choice: dict[str, object], words: str) -> None:
    given = {"use": "zero_shot", "model": str(clip), **choice}
    with pytest.raises(SpecError) as error:
        load_judge(JudgeChoice(**given), "cpu", CLASSES)  # type: ignore[arg-type]
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_of_another_kind_or_a_broken_one_is_refused(clip: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(clip, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(ModelError, match="holds a bert model; expected clip or siglip"):
        judge_of(other)
    (other / "config.json").write_text(json.dumps(config))
    (other / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(LocoError, match="cannot load") as error:
        judge_of(other)
    assert "\n" not in str(error.value)


def test_a_class_text_that_would_be_cut_is_refused(clip: Path) -> None:
    with pytest.raises(ModelError, match="reads 16, expected a shorter text"):
        TwoTowers(str(clip), None, "cpu").embed_texts(["a red circle " * 9])

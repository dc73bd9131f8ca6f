from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPModel

from loco_core.errors import ModelError, SpecError
from loco_core.scoring.base import JudgeChoice, load_judge
from loco_core.scoring.judges.style import Judge, csls
from tests.support import judge_models

NAMES = ("lumio", "velor", "a shape")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return judge_models.other_clip(tmp_path / "clip")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return judge_models.references(tmp_path / "pictures", NAMES)


def judge_of(clip: Path, pictures: Path, **settings: object) -> Judge:
    found = load_judge(
        JudgeChoice("style", str(clip), pictures=str(pictures), settings=settings), "cpu", judge_models.classes()
    )
    assert isinstance(found, Judge)
    return found


def test_a_hub_wins_by_cosines_and_not_by_csls() -> None:
    cosines = np.array([[0.80, 0.78, 0.10], [0.70, 0.10, 0.69]])
    # The first reference is near everything, the others to little else.
    near = np.array([0.75, 0.30, 0.30])
    found = csls(cosines, near, neighbours=2)
    own = np.array([0.79, 0.695])
    np.testing.assert_allclose(found, 2 * cosines - own[:, None] - near)
    assert cosines.argmax(1).tolist() == [0, 0]
    assert found.argmax(1).tolist() == [1, 2]


@pytest.mark.parametrize("drawn", [False, True])
def test_scores_are_those_of_the_formula(clip: Path, pictures: Path, drawn: bool) -> None:
    if drawn:
        judge_models.references(pictures, ["_drawn"], count=4)
    judge, k = judge_of(clip, pictures, neighbours=2), 2

    def described(folder: Path) -> np.ndarray:
        shown = [np.asarray(Image.open(file), dtype=np.float32) / 255 for file in sorted(folder.iterdir())]
        return judge.embed_images(torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)).astype(np.float64)

    refs = {name: described(pictures / name) for name in NAMES}
    x = judge.embed_images(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(4)))

    def top(values: np.ndarray) -> np.ndarray:
        return np.sort(values, axis=-1)[..., -k:].mean(-1)

    everything = np.concatenate(list(refs.values()))
    expected = []
    for name in judge._task.classes["style"].names:
        if name in refs:
            others = np.concatenate([rows for other, rows in refs.items() if other != name])
            domain = described(pictures / "_drawn") if drawn else others
            near = top(refs[name] @ domain.T)
            expected.append(top(2 * x @ refs[name].T - top(x @ everything.T)[:, None] - near))
    np.testing.assert_allclose(judge.scores(x, "style"), np.stack(expected, 1), atol=1e-6)


def test_pictures_of_a_class_are_named_by_it_and_a_head_changes_the_descriptor(clip: Path, pictures: Path) -> None:
    own = torch.from_numpy(np.stack([np.asarray(Image.open(pictures / name / "0.png")) for name in NAMES]))
    shown = own.permute(0, 3, 1, 2) / 255
    plain = judge_of(clip, pictures, abstain=0.0)
    assert plain.name(plain.embed_images(shown), "style") == list(NAMES)
    unsure = judge_of(clip, pictures, abstain=4.0)
    assert unsure.name(unsure.embed_images(shown), "style") == ["unsure"] * 3
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(5))
    save_file({"weight": weight}, clip / "style_head.safetensors")
    headed = judge_of(clip, pictures)
    model = CLIPModel.from_pretrained(clip, dtype=torch.float32)
    pixels = headed._processor(list(own.permute(0, 3, 1, 2)), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(model.vision_model(pixel_values=pixels).pooler_output @ weight.T, dim=-1)
    np.testing.assert_allclose(headed.embed_images(shown), wanted.numpy(), atol=1e-4)


def test_folders_that_do_not_fit_are_refused_in_one_line(clip: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no folder .*gone"):
        judge_of(clip, tmp_path / "gone")
    (pictures / "lumoi").mkdir()
    with pytest.raises(SpecError, match='no class is called "lumoi"; did you mean "lumio"'):
        judge_of(clip, pictures)
    (pictures / "lumoi").rmdir()
    few = judge_models.references(tmp_path / "few", ["lumio"])
    with pytest.raises(SpecError, match="fewer than two classes of style"):
        judge_of(clip, few)
    (pictures / "velor" / "0.png").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"0\.png cannot be read as a picture"):
        judge_of(clip, pictures)


def test_a_head_of_another_width_is_refused(clip: Path, pictures: Path) -> None:
    save_file({"weight": torch.zeros(4, 5)}, clip / "style_head.safetensors")
    with pytest.raises(ModelError, match=r"expected one tensor weight of shape \(out, 128\)"):
        judge_of(clip, pictures)

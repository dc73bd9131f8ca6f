"""Every metric against the formula of its paper, written out anew, and what an interval of one covers."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats

from loco_core import plugins
from loco_core.errors import ModelError, SpecError
from loco_core.scoring.base import load_scorer
from loco_core.scoring.metric import load_picture_metric, load_set_metric, metric_id, metric_info
from loco_core.scoring.set_distance import set_distance
from loco_core.toyworld import WEIGHTS
from tests.support.vision import save_vision_model

SIMULATIONS = 100


def distance(name, before, after, prompts=None, weights=None):
    prompts = np.arange(len(before)) if prompts is None else prompts
    weights = np.ones((1, prompts.max() + 1)) if weights is None else weights
    return plugins.function("metrics", name, "distances")(before, after, prompts, weights)


def ssim_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """Equation 13 of Wang et al., window by window, channel by channel."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    values = []
    for a, b in zip(x, y, strict=True):
        for i in range(a.shape[0] - 10):
            for j in range(a.shape[1] - 10):
                p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                cov = (window * (p - mp) * (q - mq)).sum()
                c1, c2 = 0.01**2, 0.03**2
                values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


def test_ssim_is_the_formula_of_its_paper() -> None:
    draws = torch.Generator().manual_seed(0)
    before = torch.rand(2, 3, 14, 17, generator=draws)
    after = (0.7 * before + 0.3 * torch.rand(before.shape, generator=draws)).clamp(0, 1)
    found = load_picture_metric("ssim", "", None, "cpu").compare(before, after)
    by_hand = [ssim_by_hand(b.double().numpy(), a.double().numpy()) for b, a in zip(before, after, strict=True)]
    assert found == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_dino_is_the_cosine_of_class_tokens(kind, tmp_path) -> None:
    from transformers import AutoModel

    folder = save_vision_model(tmp_path, kind)
    before, after = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    # Bytes, and 0.5 is the mean and the deviation of one processor; of the other those of ImageNet.
    mean, std = (0.5, 0.5) if kind == "vit" else (
        torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    )  # fmt: skip
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        a, b = (
            model(pixel_values=((x * 255).round() / 255 - mean) / std).last_hidden_state[:, 0].double().numpy()
            for x in (before, after)
        )
    cosine = [(p @ q) / (np.linalg.norm(p) * np.linalg.norm(q)) for p, q in zip(a, b, strict=True)]
    found = load_picture_metric("dino", str(folder), None, "cpu").compare(before, after)
    assert found == pytest.approx(1 - np.array(cosine), abs=1e-4)


def test_a_folder_that_holds_no_vision_model_is_refused_in_a_line(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"cannot load .* as a vision model") as told:
        load_picture_metric("dino", str(tmp_path), None, "cpu")
    assert "\n" not in str(told.value)


def test_cmmd_is_the_formula_of_its_paper() -> None:
    """The unbiased estimate, over pairs of different prompts, in loops."""
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(6, 5)), draws.normal(0.5, 1, (6, 5))
    prompts = np.array([0, 0, 1, 1, 2, 2])

    def kernel(a, b):
        return np.exp(-((a - b) ** 2).sum() / (2 * 10**2))

    for numbers in (np.arange(6), prompts):
        pairs = [(i, j) for i in range(6) for j in range(6) if numbers[i] != numbers[j]]
        terms = [[kernel(x[i], x[j]), kernel(y[i], y[j]), kernel(x[i], y[j])] for i, j in pairs]
        xx, yy, xy = np.mean(terms, axis=0)
        assert distance("cmmd", x, y, numbers) == pytest.approx([1000 * (xx + yy - 2 * xy)])


def test_cmmd_of_the_authors_code_is_the_same_for_large_sets() -> None:
    """Which counts every meeting."""
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(600, 4)), draws.normal(1.0, 1, (600, 4))

    def mean(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 200).mean()

    published = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert distance("cmmd", x, y)[0] == pytest.approx(published, rel=0.01)


def test_cmmd_is_on_unit_embeddings_of_clip_and_needs_no_vocabulary(tmp_path) -> None:
    pictures = torch.rand(2, 3, 32, 32)
    for name in ("config.json", "model.safetensors", "processor_config.json"):
        shutil.copy(WEIGHTS / "clip" / name, tmp_path)
    found = load_set_metric("cmmd", str(tmp_path), None, "cpu").embed_images(pictures)
    of_scorer = load_scorer("toy-clip", None, "cpu").embed_images(pictures)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert found == pytest.approx(of_scorer, abs=1e-5)


@pytest.mark.parametrize(("pictures", "width"), [(40, 5), (6, 9)])
def test_fid_is_the_formula_of_its_paper(pictures, width) -> None:
    """With the square root of a matrix, which exists where covariances have no full rank, too."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(pictures, width)) @ draws.normal(size=(width, width))
    y = x + draws.normal(0.5, 1, (pictures, width))
    c, d = np.cov(x.T), np.cov(y.T)
    root = linalg.sqrtm(c + 1e-9 * np.eye(width))
    inner = np.trace(linalg.sqrtm(root @ d @ root + 1e-12 * np.eye(width))).real
    by_hand = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c) + np.trace(d) - 2 * inner
    assert distance("fid", x, y) == pytest.approx([by_hand], rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_weights_are_how_often_a_prompt_is_there(data) -> None:
    """FID of weighted sets is that of sets in which prompts are written out as often."""
    times = np.array(data.draw(st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(lambda x: sum(x) > 2)))
    draws = np.random.default_rng(data.draw(st.integers(0, 99)))
    x, y = draws.normal(size=(2, 8, 3))
    prompts = np.repeat(np.arange(4), 2)
    written = np.repeat(np.arange(8), times[prompts])
    found = distance("fid", x, y, prompts, times[None].astype(float))[0]
    assert found == pytest.approx(distance("fid", x[written], y[written], np.arange(len(written)))[0], abs=1e-9)


def simulated(draws, prompts, shift, unit):
    """Two paired sets, two seeds a prompt: what prompts differ by, what seeds do, and what the edit does."""
    width = len(shift)
    common = draws.normal(size=(prompts, 1, width)) + 0.5 * draws.normal(size=(prompts, 2, width))
    edited = common + shift + 0.3 * draws.normal(size=(prompts, 1, width)) + 0.3 * draws.normal(size=common.shape)
    sets = (common.reshape(-1, width), edited.reshape(-1, width))
    if unit:
        sets = tuple(each / np.linalg.norm(each, axis=1, keepdims=True) for each in sets)
    return *sets, np.repeat(np.arange(prompts), 2)


@pytest.mark.parametrize(
    ("name", "prompts", "by"), [("cmmd", 8, 0.5), ("cmmd", 24, 0.5), ("fid", 16, 0.5), ("fid", 16, 0.0)]
)
def test_the_interval_covers_what_very_many_prompts_would_give(name, prompts, by) -> None:
    """Of FID also where hardly anything changes, so that most of the value is its bias."""
    draws = np.random.default_rng(7)
    shift = np.full(6 if name == "cmmd" else 3, by)
    if name == "cmmd":
        truth = np.mean([distance(name, *simulated(draws, 700, shift, True))[0] for _ in range(6)])
    else:
        # Gaussians: variances 1.25 and 1.43 in every direction.
        truth = (shift**2).sum() + len(shift) * (1.25**0.5 - 1.43**0.5) ** 2
    covered = 0
    for _ in range(SIMULATIONS):
        before, after, numbers = simulated(draws, prompts, shift, name == "cmmd")
        found = set_distance(name, before, after, [str(number) for number in numbers])
        covered += found.low <= truth <= found.high
    # Of a true 95 % these bounds leave out one in a thousand, of 85 % nearly all.
    assert covered >= stats.binom.ppf(0.001, SIMULATIONS, 0.95)
    # Nor is it as wide as one likes.
    assert found.high - found.low < max(4 * truth, 0.5)


def test_too_few_pictures_are_told() -> None:
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(2, 6, 4))
    alone = set_distance("cmmd", x, y, ["one"] * 6)
    assert alone.value is None
    assert alone.note == "too few pictures: of 1 prompts, expected 2 or more"
    few = set_distance("cmmd", x, y, ["a", "b", "c"] * 2)
    assert few.value is not None
    assert (few.low, few.note) == (None, "no interval: 3 prompts, expected 4 or more")
    biased = set_distance("fid", x[:4], y[:4], list("abcd"))
    assert biased.value is not None
    assert (biased.high, biased.note) == (None, "biased: 4 pictures, and 4 features need more than as many")


def test_fid_has_no_interval_where_resamples_have_too_few_pictures() -> None:
    """Twelve prompts are more than eight features, the prompts of a resample are not."""
    before, after = np.random.default_rng(0).normal(size=(2, 12, 8))
    found = set_distance("fid", before, after, list("abcdefghijkl"))
    assert found.value is not None
    assert found.low is None
    assert re.fullmatch(r"no interval, as resamples would be biased: [4-6] pictures, and 8 features .*", found.note)


def test_no_end_of_an_interval_of_fid_is_below_0() -> None:
    """Of sets that hardly differ all but nothing of the value is bias."""
    for seed in range(20):
        before = np.random.default_rng(seed).normal(size=(40, 2))
        after = before + 0.01 * np.random.default_rng(seed + 99).normal(size=before.shape)
        found = set_distance("fid", before, after, [str(prompt) for prompt in np.arange(40) // 2])
        assert 0 <= found.low <= found.high


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ("return [float('nan')]", "no value: the distance of 4 pictures is nan"),
        ("raise ArithmeticError('no way')", "no value: odd.py ended with ArithmeticError"),
    ],
)
def test_a_distance_that_is_no_number_is_a_note(body, note, tmp_path) -> None:
    """The run whose pictures it compares is done."""
    file = tmp_path / "odd.py"
    file.write_text(f"class Metric: ...\ndef distances(*sets):\n    {body}\n")
    found = set_distance(str(file), np.ones((4, 1)), np.ones((4, 1)), list("abcd"))
    assert (found.value, found.low, found.note) == (None, None, note)


@pytest.mark.parametrize("name", ["cmmd", "fid"])
def test_features_that_are_no_numbers_are_a_note(name) -> None:
    before, after = np.random.default_rng(0).normal(size=(2, 8, 3))
    after[3, 1] = np.nan
    found = set_distance(name, before, after, list("abcdefgh"))
    assert (found.value, found.note) == (None, "no value: features of 1 of 8 pictures are not finite")


def test_names_tell_versions_of_weights_and_files_apart(tmp_path) -> None:
    assert metric_id("ssim", "") == "ssim"
    assert metric_id("cmmd", "hub:a") != metric_id("cmmd", "hub:b")
    file = tmp_path / "mine.py"
    file.write_text("class Metric: ...\n")
    assert metric_id(str(file), "").startswith("mine@")
    with pytest.raises(SpecError, match='no metric "smim"; did you mean "ssim"'):
        metric_info("smim")

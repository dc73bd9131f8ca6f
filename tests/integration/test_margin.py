"""What the margin is taken against, through sweep, localization, edits and report, on a real pipeline."""

from __future__ import annotations

import html
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from loco_core.attributes import attribute, bundled
from loco_core.errors import SpecError
from loco_core.localization import score_table
from loco_core.scoring.base import load_scorer
from orchestrator.reporting import write_report
from orchestrator.runs.edits import Selection, run_edits, run_evaluation
from orchestrator.runs.localize import read_scores
from orchestrator.runs.session import Controls
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec
from orchestrator.stages.edit import places
from orchestrator.stages.localize import under
from orchestrator.store import open_store
from tests.support.runs import inline, localizer_of, run
from tests.support.sweeps import SMALL, Command, tiny_sweep

STYLE = "style/velor"
OTHERS = [
    f"a shape in the style of {name}" for name in ("quadri", "morvane", "lumio", "sorelle", "bastide")
]  # fmt: skip
OWN = """\
name: own
models: [toy]
margin: siblings
prompts: 1
scorer: toy-clip
attributes:
  - kind: style
    name: own
    mode: remove
    records:
      - {prompt: a star in lumio style, donor: a star, score_text: lumio style, donor_text: star, content_text: star}
"""


@pytest.fixture(scope="module", params=["donor", "siblings", None])
def swept(
    request: pytest.FixtureRequest, tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SweepSpec, Path]:
    root = tmp_path_factory.mktemp("margin")
    localizer = root / "eight.py"
    localizer.write_text(localizer_of(start=8, size=2))
    spec = tiny_sweep(
        tiny_pipeline, attributes=[STYLE], prompts=1, seeds=2, images="report", controls={"random": 0},
        windows={"sizes": [2], "stride": 8}, localize={"localizer": str(localizer), "resamples": 100},
        edit={"editors": ["loco_edit"], "targets": ["paired"], "lambdas": [0.1], "tokens": ["all"]},
        evaluate={"prompts": 1, "seeds": 1, "neighbours": 1, "windows": False}, margin=request.param,
    )  # fmt: skip
    assert run(spec, root / "results").summary.outcome == "done"
    return spec, root / "results"


def cosines(embedding: Any, texts: list[str]) -> np.ndarray:
    """Returns what a picture scores with each text, one text at a time."""
    scorer = load_scorer("toy-clip", None, "cpu")
    return np.array([scorer.score(np.array(embedding)[None], [text])[0, 0] for text in texts])


def against(spec: SweepSpec, donor: str, others: list[str]) -> list[str]:
    return [donor] if spec.margin == "donor" else [donor, *others]


def test_cells_say_what_their_margin_is_taken_against(swept: tuple[SweepSpec, Path]) -> None:
    spec, root = swept
    scores = pd.read_parquet(root / "scores")
    embeddings = pd.read_parquet(root / "embeddings").set_index("image_id").embedding
    clean = {}
    for row in scores.itertuples():
        values = cosines(embeddings[row.image_id], [row.score_text, *against(spec, "a shape", OTHERS)])
        assert row.clip_score == pytest.approx(values[0], abs=1e-12)
        assert row.clip_score_donor == pytest.approx(max(values[1:]), abs=1e-12)
        assert row.clip_score_content == pytest.approx(cosines(embeddings[row.image_id], [row.content_text])[0])
        assert (row.sibling_texts is None) == (spec.margin == "donor")
        if row.control == "clean":
            clean[row.seed] = values[0] - max(values[1:])
    assert scores.margin_clean.tolist() == pytest.approx([clean[seed] for seed in scores.seed])
    if spec.margin != "donor":
        assert all(list(texts) == OTHERS for texts in scores.sibling_texts)
        # A sibling, not the donor, is what some picture comes nearest to; else this would show nothing.
        assert (scores.clip_score_donor > [cosines(embeddings[i], ["a shape"])[0] for i in scores.image_id]).any()


def test_localizers_read_the_margin_that_was_taken(swept: tuple[SweepSpec, Path]) -> None:
    _, root = swept
    found, scores = read_scores(str(root)), pd.read_parquet(root / "scores")
    table = score_table.read_scores(under(found.scores, found.intervention))
    for control, images in (("clean", table.clean), ("donor", table.donor), ("window", table.swept)):
        rows = scores[scores.control == control].sort_values(["seed", "window_start"])
        assert images.margin.ravel().tolist() == pytest.approx((rows.clip_score - rows.clip_score_donor).tolist())
    assert len(pd.read_parquet(root / "effects")) == table.swept.margin.shape[2]


def test_edits_are_measured_by_the_margin_that_was_taken(swept: tuple[SweepSpec, Path]) -> None:
    spec, root = swept
    evaluations = pd.read_parquet(root / "evaluations")
    images = pd.read_parquet(root / "images")
    shown = {(row.edit_id, row.prompt, row.seed): row.image for row in images[images.control != "clean"].itertuples()}
    scorer, seen = load_scorer("toy-clip", None, "cpu"), 0
    for row in evaluations[evaluations.prompt_role.isin(["target", "paraphrase"])].itertuples():
        picture = shown.get((row.edit_id, row.prompt, row.seed))
        if picture is None:
            continue
        pixels = np.asarray(Image.open(io.BytesIO(picture["bytes"])).convert("RGB"), np.float32) / 255
        (embedding,) = scorer.embed_images(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        texts = [row.clip_text, *against(spec, "a shape", OTHERS)]
        values = cosines(embedding, texts)
        assert row.margin_after == pytest.approx(values[0] - max(values[1:]), abs=1e-6)
        assert row.judge_after == texts[int(values.argmax())]
        had = row.judge_before == row.clip_text
        assert row.flipped == (row.judge_after != row.clip_text if had else None)
        assert row.flipped_by_margin == row.flipped
        assert list(row.margin_texts) == texts[1:]
        seen += 1
    assert seen
    # Neighbours, too, are held against their siblings, though the sweep does not name them.
    beside = evaluations[evaluations.prompt_role == "neighbour"]
    assert len(beside)
    known = {text for item in beside.clip_text for text in (item, "a shape")}
    assert set(beside.judge_after) <= (
        known if spec.margin == "donor" else {*known, *OTHERS, "a shape in the style of velor"}
    )


def test_the_report_says_what_the_margin_is(swept: tuple[SweepSpec, Path]) -> None:
    spec, root = swept
    said = " ".join(html.unescape(Path(write_report(open_store(str(root), create=False))).read_text()).split())
    assert ("cosine with the donor's)" in said) == (spec.margin == "donor")
    assert ("the largest with the donor's and those of other attributes of the kind" in said) == (
        spec.margin != "donor"
    )


def test_another_margin_is_another_sweep(swept: tuple[SweepSpec, Path]) -> None:
    spec, root = swept
    other = spec.model_copy(update={"margin": "siblings" if spec.margin == "donor" else "donor"})
    back = spec.margin or "siblings"
    with pytest.raises(SpecError, match=rf"style/velor were scored against other texts .* put margin: {back} into"):
        run(other, root)
    # What is there goes on being read.
    assert set(read_scores(str(root)).attributes) == {STYLE}
    assert run(spec, root).summary.committed == 0


def test_pictures_whose_margin_was_against_other_texts_are_measured_anew_and_the_edit_is_said_to_be_chosen_by_them(
    swept: tuple[SweepSpec, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, root = swept
    shutil.copytree(root, results := tmp_path / "results")
    selection, said = Selection(str(results)), list[str]()
    assert run_evaluation(selection, Controls(inline, lambda _: None, StopSwitch()), said.append, {}).summary is None
    assert not said
    # As a later version might say of the neighbours, which are bundled.
    others = {
        key: replace(item, records=tuple(replace(record, donor_text="a thing") for record in item.records))
        for key, item in bundled().items()
    }
    monkeypatch.setattr(places, "bundled", lambda: others)
    rows = pd.read_parquet(results / "evaluations")
    assert set(rows[rows.prompt_role == "neighbour"].margin_texts.str[0]) == {"a shape"}
    measured = run_evaluation(selection, Controls(inline, lambda _: None, StopSwitch()), said.append, {})
    assert measured.summary is not None
    assert said == ["1 of 3 edits were chosen by a margin against other texts than the sweep's are now; "
                    "`loco-sweep edit` chooses anew"]  # fmt: skip
    again = run_edits(selection, Controls(inline, lambda _: None, StopSwitch()), said.append)
    assert again.summary is not None
    found = pd.read_parquet(results / "evaluations")
    new = found[~found.unit_id.isin(rows.unit_id)]
    assert set(new.prompt_role) == {"neighbour"}
    assert set(new.split) == {"select", "report"}
    assert set(new.margin_texts.str[0]) == {"a thing"}
    said.clear()
    assert run_evaluation(selection, Controls(inline, lambda _: None, StopSwitch()), said.append, {}).summary is None
    assert not said


def test_the_bundled_siblings_are_those_of_the_file() -> None:
    assert list(attribute(STYLE).records[0].siblings) == OTHERS


def test_an_attribute_without_siblings_is_refused_in_one_line_where_they_are_asked_for(
    command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(OWN)
    code, _, err = command("plan", file)
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.strip()]
    assert "sweep.yaml:7:5: margin: siblings is asked for, and style/own has none; expected siblings: of" in line
    for given in ("margin: donor", ""):
        file.write_text(OWN.replace("margin: siblings", given))
        assert command("plan", file)[0] == 0
    content = yaml.safe_load(OWN)
    content["attributes"][0]["siblings"] = ["velor style"]
    file.write_text(yaml.safe_dump(content))
    assert command("plan", file)[0] == 0
    file.write_text(f"{SMALL}margin: largest\n")
    code, _, err = command("plan", file)
    assert (code, "margin: " in err, "siblings" in err) == (2, True, True)

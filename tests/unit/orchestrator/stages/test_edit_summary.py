from __future__ import annotations

from typing import Any

from orchestrator.stages.edit.candidates import candidates
from orchestrator.stages.edit.chooser import choose
from orchestrator.stages.edit.summary import share, summarize
from tests.support.edit_specs import STYLE, TOY, spec


def test_the_ceiling_is_of_donors_whatever_they_are_called() -> None:
    def seen(role: str, prompt: str, before: str, kind: str = "fact") -> dict[str, Any]:
        return {
            "prompt_role": role, "prompt": prompt, "clip_text": "", "seed": 1, "judge": "j", "judge_kind": kind,
            "judge_said": "morova" if kind == "fact" else "lumio", "judge_before": before, "judge_after": before,
            "flipped": None, "split": "report", "edit_id": "e", "scope": "localized", "attribute": "fact/zandia",
        }  # fmt: skip

    edit = {
        "edit_id": "e", "scope": "localized", "attribute_kind": "fact", "model": "m", "attribute": "fact/zandia",
        "editor": "uce", "targets": None, "chosen": True, "site_indices": [1], "localization": "",
    }  # fmt: skip
    old = [seen("unrelated", "flag", "morova"), seen("unrelated", "flag", "lumio", "style")]
    new = [seen("donor", "flag", "none"), seen("unrelated", "circle", "velor", "style")]
    (before,), (both,) = (summarize([edit], rows) for rows in (old, old + new))
    assert (before.ceiling.hits, before.ceiling.of, before.unrelated_kept.of) == (1, 1, 1)
    # Of a folder that an earlier version began: its donors are not unrelated any more.
    assert (both.ceiling.hits, both.ceiling.of, both.unrelated_kept.of) == (0, 1, 0)


def row(
    edit_id: str,
    role: str,
    flipped: bool | None,
    *,
    after: str = "plain",
    seed: int = 0,
    judge: str | None = "toy-judge",
) -> dict[str, Any]:
    said = "lumio" if role == "target" else "velor"
    return {
        "edit_id": edit_id, "scope": "localized", "split": "select", "status": "ok", "prompt_role": role,
        "attribute": STYLE.key,
        "prompt": said, "clip_text": said, "seed": seed, "judge": judge,
        "flipped": flipped, "judge_kind": "style", "judge_said": said, "judge_before": said, "judge_after": after,
    }  # fmt: skip


def test_the_most_effective_edit_that_spares_the_neighbours_is_chosen() -> None:
    wanted = spec(edit={"editors": ["loco_edit"], "targets": "paired", "tokens": ["all"], "lambdas": [1, 2, 3]})
    edits = candidates(wanted, TOY, STYLE, (8,), "localized")
    weak, right, strong = (edit.edit_id for edit in edits)
    rows = [row(weak, "target", False, after="lumio"), row(weak, "neighbour", False, after="velor")]
    rows += [row(right, "target", True), row(right, "neighbour", False, after="velor")]
    rows += [row(strong, "target", True), row(strong, "neighbour", True)]
    # Pictures that never had their attribute say nothing.
    rows += [
        {**row(right, role, None, after="other", seed=1), "judge_before": "other"} for role in ("target", "neighbour")
    ]
    listed = [
        {"edit_id": e.edit_id, "scope": "localized", "attribute_kind": "style", "model": "toy", "chosen": None,
         "attribute": "style/lumio", "editor": "loco_edit", "targets": "paired", "site_indices": list(e.sites),
         "localization": "window: sites 8-8"} for e in edits
    ]  # fmt: skip
    measured = summarize(listed, rows, "select")
    assert [(m.flipped.value, m.neighbours_kept.value) for m in measured] == [(0, 1), (1, 1), (1, 0)]
    assert choose(edits, measured, 0.1) == {right}
    assert choose(edits, measured[::2], 0.1) == {weak}
    # Where none spares them enough, the most sparing one.
    assert choose(edits, measured[2:], 0.1) == {strong}


def listed(edit_id: str) -> dict[str, Any]:
    return {
        "edit_id": edit_id, "scope": "localized", "attribute_kind": "style", "model": "toy", "chosen": None,
        "attribute": "style/lumio", "editor": "loco_edit", "targets": "paired", "site_indices": [8],
        "localization": "window: sites 8-8",
    }  # fmt: skip


def test_one_edit_of_each_editor_and_targets_is_chosen() -> None:
    wanted = spec(edit={"editors": ["loco_edit"], "tokens": ["all"], "lambdas": [1, 2]})
    published, weak, strong = candidates(wanted, TOY, STYLE, (8,), "localized")
    rows = [row(e.edit_id, "target", flipped, after="plain") for e, flipped in
            ((published, False), (weak, False), (strong, True))]  # fmt: skip
    measured = summarize([listed(edit.edit_id) for edit in (published, weak, strong)], rows, "select")
    assert choose([published, weak, strong], measured, 0.1) == {published.edit_id, strong.edit_id}


def test_a_picture_that_the_edit_destroyed_is_neither_flipped_nor_kept() -> None:
    rows = [
        row("a", "neighbour", None, after=after, seed=seed) for seed, after in enumerate(["velor", *["invalid"] * 3])
    ]
    rows += [
        row("a", "target", False, after="invalid"),
        {**row("a", "target", None, seed=1), "judge_before": "invalid"},
    ]
    (found,) = summarize([listed("a")], rows, "select")
    assert (found.neighbours_kept.hits, found.neighbours_kept.of) == (1, 4)
    assert (found.flipped.hits, found.flipped.of) == (0, 1)


def test_what_a_judge_saw_is_not_pooled_with_the_sign_of_a_margin() -> None:
    rows = [row("a", "target", True, seed=seed, judge=None) for seed in range(3)]
    rows += [row("a", "target", False, seed=seed) for seed in range(2)]
    (found,) = summarize([listed("a")], rows, "select")
    assert (found.flipped.hits, found.flipped.of) == (0, 2)


def test_of_a_picture_that_was_measured_against_other_texts_before_the_last_row_counts() -> None:
    def seen(kept: bool, flipped: bool | None) -> list[dict[str, Any]]:
        said = "velor" if kept else "other"
        return [row("a", "neighbour", None, after=said), row("a", "target", flipped, after="plain")]

    old, new = seen(True, True), seen(False, None)
    (found,) = summarize([listed("a")], [*old, *new], "select")
    assert [(item.hits, item.of) for item in (found.neighbours_kept, found.flipped)] == [(0, 1), (0, 0)]
    (found,) = summarize([listed("a")], [*new, *old], "select")
    assert [(item.hits, item.of) for item in (found.neighbours_kept, found.flipped)] == [(1, 1), (1, 1)]
    # It is no picture any more.
    gone = [{**item, "judge_before": "invalid"} for item in old]
    (found,) = summarize([listed("a")], [*old, *gone, row("a", "target", True, seed=1)], "select")
    assert [(item.hits, item.of) for item in (found.neighbours_kept, found.flipped)] == [(0, 0), (1, 1)]


def test_content_is_kept_by_pictures_that_keep_all_of_it() -> None:
    kinds = {"object": "circle", "colour": "red"}
    rows = [
        {**row("a", "target", True, seed=seed), "judge_kind": kind, "judge_said": name, "judge_before": name,
         "judge_after": name if (kind, seed) != ("colour", 1) else "blue"}
        for seed in range(4) for kind, name in kinds.items()
    ]  # fmt: skip
    (found,) = summarize([listed("a")], rows, "select")
    assert (found.content_kept.hits, found.content_kept.of) == (3, 4)


def test_the_donor_prompt_itself_is_the_ceiling() -> None:
    drawn = ["plain", "lumio", "unsure", "plain"]
    rows = [{**row("a", "unrelated", None, seed=n), "judge_said": None, "judge_before": d} for n, d in enumerate(drawn)]
    (found,) = summarize([listed("a")], [*rows, row("a", "target", True)], "select")
    assert (found.ceiling.hits, found.ceiling.of) == (2, 4)
    named = [{**r, "judge_said": "velor", "judge_before": b} for r, b in zip(rows, ["velor", *drawn[1:]], strict=True)]
    (found,) = summarize([listed("a")], [*named, row("a", "target", True)], "select")
    assert (found.ceiling.hits, found.ceiling.of) == (1, 4)


def test_pictures_of_one_prompt_are_worth_less_than_independent_ones() -> None:
    alike = share({(f"p{prompt}", seed): prompt < 4 for prompt in range(8) for seed in range(13)})
    mixed = share({(f"p{prompt}", seed): (prompt + seed) % 2 == 0 for prompt in range(8) for seed in range(13)})
    assert alike.value == mixed.value == 0.5
    assert alike.high - alike.low > 2 * (mixed.high - mixed.low)
    # Eight prompts: nearly the interval of 4 of 8.
    assert alike.high - alike.low > 0.45

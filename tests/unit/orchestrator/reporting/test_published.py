"""What the report says of values that were published beside those that were measured."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.reporting.findings import read_findings
from orchestrator.reporting.published import Beside, beside
from orchestrator.spec import SweepSpec
from orchestrator.store import Publisher, Store, encode_document, make_table, write_derived
from orchestrator.store.layout import RESOLVED
from orchestrator.store.testing import MemoryBlobs


def results(
    localizations: list[dict[str, Any]],
    effects: list[dict[str, Any]] | None = None,
    evaluations: list[dict[str, Any]] | None = None,
    targets: str = "published",
    **changes: Any,
) -> Store:
    """Made-up results of two models, of 16 sites and of 70."""
    store = Store(MemoryBlobs())
    content: dict[str, Any] = {
        "name": "s", "models": ["small", "large"], "attributes": ["style/monet"], "scorer": "toy-clip",
        "reproduces": "locogen-sd14",
    }  # fmt: skip
    store.record_sweep("0" * 64, SweepSpec.model_validate({**content, **changes}, strict=False), "test")
    sites = {"small": [f"s{i}" for i in range(16)], "large": [f"l{i}" for i in range(70)]}
    pinned = {"models": {"small": "1" * 64, "large": "2" * 64}, "sites": sites, "scorer": "3" * 64}
    store.blobs.replace(RESOLVED, encode_document(pinned))
    common = {"model": "small", "attribute": "style/monet", "exploratory": False, "reason": "because"}
    write_derived(store, {"localizations": make_table("localizations", [{**common, **row} for row in localizations])})
    block = {"model": "small", "attribute": "style/monet", "in_tie_set": False}
    write_derived(store, {"effects": make_table("effects", [{**block, **row} for row in effects or []])})
    if evaluations:
        edit = {"edit_id": "e" * 64, "editor": "loco_edit", "targets": targets, "scope": "localized", "model": "small",
                "attribute": "style/monet", "localization": "by hand"}  # fmt: skip
        row = {"window_start": 8, "window_size": 2, "tokens": "last_subject", "lambda": 0.01, "chosen": True}
        write_derived(store, {"edits": make_table("edits", [{**edit, **row, "site_indices": [8, 9]}])})
        edit = {name: value for name, value in edit.items() if name not in ("localization", "targets")}
        shown = {"split": "report", "prompt_role": "unrelated", "status": "ok", "content_text": "", "clip_text": "a"}
        rows = [{**edit, **shown, "unit_id": "4" * 64, **item} for item in evaluations]
        store.commit_unit("4" * 64, {"evaluations": make_table("evaluations", rows)}, "test")
        Publisher(store).publish(flush=True)
    return store


def read(store: Store) -> Beside:
    found = beside(read_findings(store), store)
    assert found is not None
    return found


def at(start: int, size: int, outcome: str = "localized") -> dict[str, Any]:
    picked = {"window_start": start, "window_size": size} if outcome == "localized" else {}
    return {"outcome": outcome, "best_start": start, "best_size": size, **picked,
            "effect": 0.9, "ci_low": 0.8, "ci_high": 1.0}  # fmt: skip


PUBLISHED = {"window_start": 8, "window_size": 2, "effect": 0.42, "ci_low": 0.305, "ci_high": 0.5}


@pytest.mark.parametrize(
    ("found", "tied", "agreement"),
    [
        (at(8, 2), True, "same window"),
        (at(9, 2), False, "overlaps"),
        (at(9, 2), True, "overlaps, not told apart from the published window"),
        (at(8, 1), False, "overlaps"),
        (at(10, 2), False, "other sites"),
        (at(3, 2), True, "other sites, not told apart from the published window"),
        (at(8, 2, "no_effect"), False, "not localized: no effect"),
    ],
)
def test_an_attribute_is_told_as_it_agrees(found: dict[str, Any], tied: bool, agreement: str) -> None:
    (line,) = read(results([found], [{**PUBLISHED, "in_tie_set": tied}])).windows
    assert line.agreement == agreement
    assert (line.published, line.source) == ("sites 8–9", "text of the paper")
    assert line.at_published == "42% [30%, 50%]"
    assert line.best.endswith(": 90% [80%, 100%]")


def test_what_was_not_published_not_swept_or_has_other_sites_is_said() -> None:
    rows = [at(8, 2), {**at(6, 1), "attribute": "colour/red"}, {**at(8, 2), "model": "large"}]
    found = read(results(rows, [{**PUBLISHED, "window_start": 7}]))
    lines = {line.attribute: line for line in found.windows}
    assert len(found.windows) == 2
    assert lines["style/monet"].at_published == "not swept"
    assert (lines["colour/red"].published, lines["colour/red"].agreement) == ("–", "localized at site 6")
    assert any(note.startswith("large is left out: it has 70 sites, ") for note in found.notes)


def test_scores_of_spared_pictures_carry_an_interval_of_their_change() -> None:
    pictures = [
        {"prompt": prompt, "seed": seed, "clip_before": 0.30, "clip_after": 0.29 + shift + 0.001 * seed,
         "judge_kind": kind}
        for prompt, shift in (("a", 0.0), ("b", 0.004), ("c", 0.002))
        for seed in range(3)
        for kind in ("style", "object")
    ]  # fmt: skip
    pictures.append({"prompt": "c", "seed": 3, "clip_before": 0.30, "clip_after": None, "status": "invalid"})
    assert not read(results([at(8, 2)], evaluations=pictures, targets="paired")).edits, "not the paper's edit"
    (line,) = read(results([at(8, 2)], evaluations=pictures)).edits
    assert line.published == "30.04 → 29.99 on 320 COCO prompts"
    start, _, change = line.measured.partition(" (change ")
    assert start == "30.00 → 29.30 on 9 pictures of 3 prompts without the attribute"
    low, high = (float(part) for part in change.split("]")[0].strip("[").split(", "))
    # Two-sided at 95 %: with three prompts and three seeds, far wider than the spread of the means over either.
    assert (low, high) == pytest.approx((-1.12, -0.28))
    assert change.endswith("; 1 more have no score")


def test_a_sweep_that_reproduces_nothing_says_nothing() -> None:
    store = results([at(8, 2)], reproduces=None)
    assert beside(read_findings(store), store) is None

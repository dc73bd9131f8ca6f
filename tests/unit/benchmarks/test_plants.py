"""The benchmark on plants by the place of parameters: from two files a plant to tables that a bench reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import plants
from benchmarks.agreement import unknown_donor
from loco_core.editing.deltas import Change, Provenance, WeightDelta, projection, to_bytes
from loco_core.face.model import load_model
from loco_core.localization.bench import run_methods
from loco_core.localization.bench.planted import read_card
from loco_core.toyworld.plants.draw import Plant
from loco_core.toyworld.plants.surgery import unknown_names
from loco_core.toyworld.plants.teach import named
from loco_core.tracing.methods import methods
from tests.support.localizers import picky

PLANT = Plant("toy-mmdit", 7, 0, "window", (3, 4), (), -1, "aria", "fact", "zandia")


def rate(hits: int, of: int = 48) -> dict[str, Any]:
    return {"hits": hits, "of": of}


def report(runs: list[list[int]]) -> dict[str, Any]:
    """What surgery says of a plant, made up: both sites are needed."""
    subsets = [
        {"transplanted": kept, "reverted": [site for site in PLANT.sites if site not in kept], **rate(hits)}
        for kept, hits in (([], 0), ([3], 2), ([4], 5), ([3, 4], 46))
    ]
    return {
        "plant": PLANT.to_json(), "sites": 10, "unknown": rate(0), "taught": rate(46),
        "other_names": [rate(9), rate(1), rate(4)], "surgery": {"subsets": subsets, "runs": runs},
        "restore": {"edited": rate(0), "restored": rate(45)},
    }  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a made-up plant, and one that did not take."""
    folder, model = tmp_path_factory.mktemp("plants"), load_model("toy-mmdit", device="cpu")
    sites, changes = [model.loaded.sites[site] for site in PLANT.sites], []
    for path in [path for site in sites for path in (site.key_path, site.value_path)]:
        weight = projection(model.loaded, path).weight.detach()
        changes.append(Change(path, torch.arange(len(weight)), weight.flip(0).contiguous()))
    made = Provenance(PLANT.base, model.weights or "", "float32", PLANT.sites, ("fact/aria",), "plant", "{}", "by hand")
    (folder / f"{PLANT.key}.safetensors").write_bytes(to_bytes(WeightDelta(made, tuple(changes))))
    (folder / f"{PLANT.key}.json").write_text(json.dumps(report([[3, 4]])))
    (folder / "toy-mmdit-08-discarded.json").write_text("[]")
    return folder


def test_a_plant_is_swept_kept_and_read_by_every_method(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "picky.py").write_text(picky("fixed", "its text evolves"))
    beside = ["argmin", "attention_contribution"]
    tables, small = tmp_path / "tables", ["--prompts", "2", "--seeds", "1", "--steps", "1"]
    words = [str(planted), "--tables", str(tables), "--work", str(tmp_path / "work"), *small]
    plants.main([*words, "--unknown", "--card", "mine", "3", "--beside", *beside, str(tmp_path / "picky.py")])
    said = capsys.readouterr().out
    assert f"without {tmp_path / 'picky.py'}: {PLANT.key} (sd3) cannot be traced by picky" in said
    assert "its text evolves" in said
    assert "| parameters | sequential | 1 |" in said
    assert "as by surgery" in said
    name = f"{PLANT.key}.parquet"
    swept, unknown = pq.read_table(tables / name), pq.read_table(tables / "unknown_donor" / name)
    # Windows of one and two of ten sites, and three controls, of two prompts.
    assert swept.num_rows == 2 * (10 + 9 + 3)
    assert pc.sum(swept["seconds"]).as_py() > 0
    assert set(pq.read_table(tables / "traces" / name)["method"].to_pylist()) == {"attention_contribution"}
    assert margins(swept, "clean") == margins(unknown, "clean")
    assert margins(swept, "donor") != margins(unknown, "donor")
    truth = json.loads((tables / "truth.json").read_text())[PLANT.key]["fact/aria"]
    assert truth == {
        "sites": [3, 4], "or": [], "outcome": "localized", "planted": "parameters", "changed": [3, 4]
    }  # fmt: skip
    held = run_methods([tables], methods(["window", *beside]))
    assert [len(found) for found in held.results.values()] == [1, 1, 1]
    assert str(held.cards[0]).startswith("mine 3 (SHA-256 ")
    card = read_card(tables)
    # What is measured is not swept again, and the set is the same.
    monkeypatch.setattr(plants, "swept", None)
    plants.main([*words, "--unknown", "--card", "mine", "3", "--beside", *beside])
    assert read_card(tables) == card
    # One that was drawn otherwise under the same name is another plant.
    assert plants.is_measured(planted / f"{PLANT.key}.json", tables)
    other = tmp_path / f"{PLANT.key}.json"
    other.write_text(json.dumps(report([])))
    assert not plants.is_measured(other, tables)


def margins(table: pa.Table, control: str) -> list[float]:
    """Scores of one control, by prompt."""
    rows = table.filter(pc.field("control") == control).sort_by("prompt_id")
    return rows["clip_score"].to_pylist()


def test_the_unknown_donor_is_the_name_that_draws_the_look_least() -> None:
    name, leaked = unknown_donor(report([]))
    assert (name, leaked.hits) == (unknown_names(PLANT)[1], 1)
    records = plants.attribute_of(PLANT, name).records
    assert all(name in record.donor.split() and "aria" in record.prompt.split() for record in records)
    assert all(named(record.donor, name, "aria") == record.prompt for record in records)
    bundled = plants.attribute_of(PLANT).records
    assert all("morova" in record.donor.split() for record in bundled)
    assert [record.score_text for record in bundled] == [record.score_text for record in records]


def test_discarded_draws_are_counted_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "reports").mkdir()
    reasons = ["it did not take (9 of 96)", "its lesson fell behind", "it did not take (8 of 96)"]
    kept = report([[3, 4]]) | {"discarded": [{"reason": reason} for reason in reasons]}
    (tmp_path / "reports" / "one.json").write_text(json.dumps(kept))
    (tmp_path / "reports" / "two.json").write_text(json.dumps(report([])))
    plants.print_discarded(tmp_path)
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| toy-mmdit | 2 | it did not take |", "| toy-mmdit | 1 | its lesson fell behind |"
    ]  # fmt: skip


def test_only_a_run_that_draws_all_tells_its_share_of_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 10.0) * 3)
    monkeypatch.setattr(plants.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(plants.time, "process_time", iter((0.0, 4.0, 0.0, 0.1, 0.0)).__next__)
    monkeypatch.setattr(plants, "run_sweep", lambda spec, root, *_, **__: Path(root).mkdir(exist_ok=True))
    monkeypatch.setattr(plants, "open_store", lambda root: root)
    spec = plants.sweep(PLANT, tmp_path, plants.Budget(), 10)
    shares = [plants.swept(spec, tmp_path / "sweep", plants.Budget())[1] for _ in range(2)]
    assert shares == [0.4, 0.4]
    (tmp_path / "stopped").mkdir()
    assert plants.swept(spec, tmp_path / "stopped", plants.Budget())[1] == 1.0

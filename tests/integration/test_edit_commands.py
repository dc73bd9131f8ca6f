"""``edit`` and ``evaluate`` on results that are there: by hand and where localized, killed, resumed."""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest
import torch

from loco_core.editing.deltas import from_bytes
from loco_core.types import Window
from orchestrator.backends.inline import InlineBackend
from orchestrator.cli.main import main
from orchestrator.runs.edits import Selection, run_edits, run_evaluation
from orchestrator.runs.session import Controls
from orchestrator.runs.sweep import RunResult, run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import load_sweep
from orchestrator.store import open_store, verify
from tests.support.runs import localizer_of
from tests.support.sweeps import Command, kill_at_storage_call, unit_files

SWEEP = """\
name: small
models:
  - {{id: tiny, path: {model}}}
attributes: [style/velor, style/lumio, {few}]
windows: {{sizes: [2], stride: 7}}
prompts: 1
seeds: 1
generation: {{steps: 1, guidance_scale: 3.0, batch_size: 4}}
controls: {{identity: false, random: 0}}
scorer: toy-clip
localize: {{localizer: {localizer}, resamples: 100}}
"""
RECORD = "{prompt: a b, donor: a, score_text: b, donor_text: a, content_text: a}"
FEW = f"{{kind: style, name: few, mode: remove, records: [{RECORD}]}}"
BLOCKS = """\
edit: {targets: paired, lambdas: [0.1], neurons: [0.1], tokens: [all]}
evaluate: {prompts: 1, seeds: 1, neighbours: 1, judge: toy-judge, windows: false}
"""
INLINE = ("--backend", "inline", "--threads", 1)
VELOR = ("--attribute", "style/velor")
ONCE = ["edit_id", "scope", "split", "prompt_role", "prompt", "clip_text", "seed", "judge_kind"]


@pytest.fixture
def command(command: Command) -> Command:
    """As everywhere, but for the note that the localizer's file is run, which all of these results name."""

    def call(*words: object) -> tuple[int, str, str]:
        code, out, err = command(*words)
        return code, out, re.sub(r"^running \S+/seven\.py, which these results name\n", "", err)

    return call


@pytest.fixture(scope="module")
def sweep(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep file with blocks of edits; beside it, one without."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "seven.py").write_text(localizer_of(start=7, size=2))
    text = SWEEP.format(model=tiny_pipeline, few=FEW, localizer=folder / "seven.py")
    (folder / "plain.yaml").write_text(text)
    (folder / "sweep.yaml").write_text(text + BLOCKS)
    return folder / "sweep.yaml"


@pytest.fixture(scope="module")
def swept(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a sweep that edits nothing."""
    root = tmp_path_factory.mktemp("swept")
    torch.set_num_threads(1)
    _run(sweep.with_name("plain.yaml"), root)
    return root


@pytest.fixture(scope="module")
def edited(sweep: Path, swept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with an edit by hand."""
    root = tmp_path_factory.mktemp("edited") / "results"
    shutil.copytree(swept, root)
    _by_hand(sweep, root)
    return root


@pytest.fixture
def results(swept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swept, tmp_path / "results"))


@pytest.fixture
def mine(edited: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(edited, tmp_path / "results"))


def _run(sweep: Path, root: Path) -> RunResult:
    return run_sweep(
        load_sweep(sweep), str(root), lambda settings: InlineBackend(settings, threads=1), on_progress=lambda _: None,
        on_localized=lambda _: None, stop=StopSwitch(),
    )  # fmt: skip


def _controls() -> Controls:
    return Controls(lambda settings: InlineBackend(settings, threads=1), lambda _: None, StopSwitch())


def _by_hand(sweep: Path, root: Path) -> None:
    run_edits(
        Selection(str(root), attributes=("style/velor",)), _controls(), print,
        window=Window(3, 2), blocks=load_sweep(sweep),
    )  # fmt: skip


def _more(_: Path, root: Path) -> None:
    changes = {"prompts": 2, "seeds": 2}
    run_evaluation(Selection(str(root)), _controls(), print, changes)


def read(root: Path, table: str) -> pd.DataFrame:
    frame = pd.read_parquet(root / table)
    frame = frame.drop(columns=[name for name in ("attempt",) if name in frame])
    keys = [str(row) for row in frame.itertuples(index=False)]
    return frame.iloc[sorted(range(len(keys)), key=keys.__getitem__)].reset_index(drop=True)


def _content(root: Path) -> dict[Path, bytes]:
    """Returns all files but the lease, which says who held it last."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "lease.json"}


def assert_equal(one: Path, other: Path) -> None:
    for table in ("edits", "evaluations"):
        pd.testing.assert_frame_equal(read(one, table), read(other, table))


def assert_nothing_is_doubled(root: Path) -> None:
    assert not pd.read_parquet(root / "evaluations").duplicated(ONCE).any()


def test_a_window_named_by_hand_is_edited_and_never_passes_for_a_localized_one(edited: Path) -> None:
    edits = pd.read_parquet(edited / "edits")
    assert set(edits.scope) == {"by_hand", "all_sites", "placebo", "random"}
    assert set(edits.localization) == {"by hand: sites 3-4"}
    assert set(edits[edits.chosen].scope) == {"by_hand"}
    assert set(edits[edits.chosen].editor) == {"loco_edit", "neurons"}
    for row in edits[edits.scope == "by_hand"].itertuples():
        data = (edited / row.delta_path).read_bytes()  # type: ignore[operator]
        assert hashlib.sha256(data).hexdigest() == row.delta_sha256
        assert from_bytes(data, "delta").provenance.localization == "by hand: sites 3-4"
        assert (edits[edits.scope != "by_hand"].delta_path.isna()).all()
    pictures = pd.read_parquet(edited / "images")
    assert set(edits[edits.scope == "by_hand"].edit_id) <= set(pictures.edit_id)
    assert_nothing_is_doubled(edited)
    assert verify(open_store(str(edited))) == []


def test_edits_by_hand_stand_beside_localized_ones_and_outlive_a_run(
    command: Command, mine: Path, sweep: Path, tmp_path: Path
) -> None:
    before = read(mine, "edits")
    code, out, err = command("edit", mine, *VELOR, "--trust", *INLINE)
    assert (code, err) == (0, "")
    assert re.search(r"velor\s+loco_edit, paired 3-4\*", out), out
    assert re.search(r"velor\s+loco_edit, paired 7-8", out), out
    assert "by hand" in out
    assert out.rstrip().endswith(f"results: {mine}")
    edits = pd.read_parquet(mine / "edits")
    assert set(edits[edits.scope == "localized"].window_start) == {7}
    _run(sweep, mine)
    edits = read(mine, "edits")
    assert set(edits[edits.scope == "localized"].attribute) == {"style/velor", "style/lumio"}
    kept = edits[edits.localization.str.startswith("by hand")].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before)
    # All sites are a baseline of both places, and measured once.
    assert edits[edits.scope == "all_sites"].duplicated("edit_id").any()
    assert_nothing_is_doubled(mine)
    # Without an id, export takes what is localized; by hand, what is named.
    hand = edits[(edits.scope == "by_hand") & edits.chosen].edit_id.iloc[0]
    for words, expected in (((*VELOR, "--editor", "loco_edit"), "sites 7-8"), (("--edit", hand), "by hand: sites 3-4")):
        code, out, _ = command("export", mine, tmp_path / expected[-3:], *words)
        assert (code, expected in out) == (0, True)
    # Where the localizer takes its word back, what stood as localized is withdrawn; by hand stays.
    text = sweep.with_name("plain.yaml").read_text()
    (tmp_path / "again.yaml").write_text(re.sub(r"localizer: [^,]*", "localizer: window", text))
    _run(tmp_path / "again.yaml", mine)
    assert set(pd.read_parquet(mine / "edits").localization) == {"by hand: sites 3-4"}


def test_a_localized_window_may_be_named_by_hand_too(command: Command, results: Path, sweep: Path) -> None:
    assert command("edit", results, *VELOR, "--sweep", sweep, *INLINE)[0] == 0
    first = read(results, "edits")
    assert command("edit", results, *VELOR, "--window", "7,2", "--trust", *INLINE)[0] == 0
    edits = pd.read_parquet(results / "edits")
    localized, hand = (edits[edits.scope == scope] for scope in ("localized", "by_hand"))
    assert set(localized.edit_id) == set(hand.edit_id)
    kept = read(results, "edits")
    pd.testing.assert_frame_equal(kept[kept.localization.isin(first.localization)].reset_index(drop=True), first)
    for row in (*localized.itertuples(), *hand.itertuples()):
        assert hashlib.sha256((results / row.delta_path).read_bytes()).hexdigest() == row.delta_sha256
    assert_nothing_is_doubled(results)


def test_evaluate_measures_what_is_missing_and_chooses_nothing(command: Command, mine: Path) -> None:
    edits, rows = read(mine, "edits"), pd.read_parquet(mine / "evaluations")
    code, out, err = command("evaluate", mine, "--prompts", 2, "--seeds", 2, "--trust", *INLINE)
    assert (code, err) == (0, "")
    assert "\tflipped\tneighbours\tcontent\n" in out
    more = pd.read_parquet(mine / "evaluations")
    assert_nothing_is_doubled(mine)
    pd.testing.assert_frame_equal(read(mine, "edits"), edits)
    assert (more.split == "select").sum() == (rows.split == "select").sum()
    shape = more[(more.split == "report") & (more.prompt_role == "target")].groupby("edit_id")
    assert set(shape.prompt.nunique()) == {2}
    assert set(shape.seed.nunique()) == {2}
    assert shape.ngroups == edits.edit_id.nunique()
    assert set(rows.unit_id) < set(more.unit_id)
    units = set(more.unit_id)
    code, out, _ = command("evaluate", mine, "--prompts", 2, "--seeds", 2, "--trust", *INLINE)
    assert (code, "measured already" in out) == (0, True)
    assert set(pd.read_parquet(mine / "evaluations").unit_id) == units


def test_evaluate_can_be_confined_to_what_was_chosen(command: Command, results: Path, sweep: Path) -> None:
    two = sweep.with_name("two.yaml")
    two.write_text(sweep.read_text().replace("lambdas: [0.1]", "lambdas: [0.1, 10]").replace("false}\n", "true}\n"))
    code, out, err = command("edit", results, *VELOR, "--window", "3,2", "--sweep", two, *INLINE)
    assert (code, err) == (0, "")
    assert f"report: {results}/report.html" in out
    (results / "report.html").unlink()
    edits = pd.read_parquet(results / "edits")
    code, out, err = command("evaluate", results, "--chosen", "--no-windows", "--seeds", 2, "--trust", *INLINE)
    assert (code, err) == (0, "")
    assert (results / "report.html").exists()
    rows = pd.read_parquet(results / "evaluations")
    seeds = rows[rows.split == "report"].groupby(["edit_id", "scope"]).seed.nunique()
    chosen = set(edits[edits.chosen].settings)
    assert len(chosen) == 2 < edits.settings.nunique()
    wanted = edits[edits.settings.isin(chosen) & (edits.scope != "window")]
    assert set(seeds[seeds == 2].index) == set(zip(wanted.edit_id, wanted.scope, strict=True))
    assert set(seeds[seeds == 1].index) == set(zip(edits.edit_id, edits.scope, strict=True)) - set(
        seeds[seeds == 2].index
    )


def _killed(work: Callable[[Path, Path], None], sweep: Path, root: Path, call: int, first: str) -> None:
    torch.set_num_threads(1)
    kill_at_storage_call(call, first=first)
    work(sweep, root)


@pytest.mark.parametrize(
    ("work", "first", "call"),
    [
        (_by_hand, "deltas/", 2), (_by_hand, "deltas/", 5), (_by_hand, "deltas/", 9), (_by_hand, "edits/", 1),
        (_more, "_meta/units/", 2), (_more, "_meta/units/", 5), (_more, "_meta/manifest", 1),
    ],
)  # fmt: skip
def test_a_command_killed_midway_resumes_to_the_same_tables(
    work: Callable[[Path, Path], None], first: str, call: int, sweep: Path, swept: Path, edited: Path, more: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    start, expected = (swept, edited) if work is _by_hand else (edited, more)
    root = Path(shutil.copytree(start, tmp_path / "results"))
    child = get_context("fork").Process(target=_killed, args=(work, sweep, root, call, first))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    work(sweep, root)
    assert_equal(root, expected)


@pytest.fixture(scope="module")
def more(sweep: Path, edited: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with an edit by hand, measured again."""
    root = Path(shutil.copytree(edited, tmp_path_factory.mktemp("more") / "results"))
    _more(sweep, root)
    return root


def test_an_incomplete_sweep_is_edited_where_it_is_localized(command: Command, mine: Path) -> None:
    scores = pd.read_parquet(mine / "scores")
    lost = scores[scores.attribute == "style/lumio"].unit_id.iloc[0]
    (mine / f"_meta/units/{lost}.arrow").unlink()
    for part in (mine / "scores").glob("part-*.parquet"):
        if lost in set(pd.read_parquet(part).unit_id):
            part.unlink()
    assert command("verify", mine, "--repair")[0] == 0
    before = unit_files(mine).keys()
    code, out, _ = command("edit", mine, *VELOR, "--trust", *INLINE)
    assert (code, out.count("the sweep is incomplete (1 of 3 units are left)")) == (0, 1)
    kinds = pd.read_parquet(mine / "scores").unit_id
    new = unit_files(mine).keys() - before
    assert new
    assert not new & set(kinds)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("edit", "/nowhere"), 1, "/nowhere is not there"),
        (("edit", "R", "--model", "tinny"), 2, 'has no model "tinny"; did you mean "tiny"'),
        (("edit", "R", "--attribute", "style/veler"), 2, 'has no attribute "style/veler"; did you mean "style/velor"'),
        (("edit", "R", "--window", "3,2"), 2, "models tiny and the attributes style/velor, style/lumio, style/few"),
        (("edit", "R", *VELOR, "--window", "three"), 2, "expected START,SIZE"),
        (("edit", "R", *VELOR, "--window", "15,2"), 2, "tiny has sites 0 to 15, a window of 2 starts at 14 or before"),
        (("edit", "R", *VELOR, "--window", "0,17"), 2, "tiny has windows of 1 to 16 sites"),
        (("edit", "R", *VELOR, "--window=-1,2"), 2, "from site 0 on"),
        (("edit", "R", *VELOR, "--window", "3,0"), 2, "windows of 1 to 16 sites"),
        (("edit", "R", "--attribute", "style/few"), 2, "need 3 different content texts or more; it has 1"),
        (("edit", "R", "--attribute", "style/few", "--window", "3,2"), 2, "need 3 different content texts or more"),
        (("edit", "R", "--sweep", "O"), 2, "generation.steps 1 -> 2"),
        (("edit", "R", "--sweep", "B"), 2, r'other.yaml:\d+:\d+: no editor "loco_edti"'),
        (("evaluate", "R"), 1, "nothing to evaluate: .* holds no edits"),
        (("evaluate", "R", "--attribute", "style/veler"), 2, 'did you mean "style/velor"'),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_changes_nothing(
    words: tuple[str, ...], code: int, message: str, command: Command, swept: Path, sweep: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    changes = {"O": ("steps: 1", "steps: 2"), "B": ("edit: {", "edit: {editors: [loco_edti], ")}
    other.write_text(sweep.read_text().replace(*changes.get(words[-1], ("", ""))))
    before = _content(swept)
    known = {"R": str(swept), "O": str(other), "B": str(other)}
    found, out, err = command(*(known.get(word, word) for word in words), "--trust", *INLINE)
    assert found == code, err
    assert re.search(message, err), err
    assert (err.count("\n"), "Traceback" in err + out) == (1, False)
    assert _content(swept) == before


def test_where_nothing_is_localized_a_window_is_asked_for(command: Command, results: Path) -> None:
    assert command("localize", results, "--localizer", "window", "--write")[0] == 0
    code, _, err = command("edit", results, "--trust", *INLINE)
    assert code == 1
    assert err == (
        f"error: nothing to edit: no attribute of {results} is localized; name a window with --window START,SIZE\n"
    )


def test_methods_edit_without_a_window_and_stay_beside_one(command: Command, results: Path, sweep: Path) -> None:
    for name, editors in (("methods", "uce, diff_quick_fix"), ("three", "loco_edit, uce, diff_quick_fix")):
        text = sweep.read_text().replace("edit: {", f"edit: {{editors: [{editors}], ")
        sweep.with_name(f"{name}.yaml").write_text(text)
    assert command("localize", results, "--localizer", "window", "--write")[0] == 0
    code, out, err = command("edit", results, *VELOR, "--sweep", sweep.with_name("methods.yaml"), *INLINE)
    assert (code, err) == (0, "")
    assert "nothing is localized (style/velor); edits are made by uce and diff_quick_fix alone" in out
    assert re.search(r"velor\s+uce, paired all sites", out), out
    assert re.search(r"velor\s+diff_quick_fix", out), out
    alone = read(results, "edits")
    assert set(alone.scope) == {"method", "placebo"}
    run_edits(
        Selection(str(results), attributes=("style/velor",)), _controls(), print,
        window=Window(3, 2), blocks=load_sweep(sweep.with_name("three.yaml")),
    )  # fmt: skip
    both = read(results, "edits")
    assert set(both[both.chosen].editor) == {"loco_edit", "uce", "diff_quick_fix"}
    kept = both[both.localization.str.startswith("method")].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, alone)
    assert_nothing_is_doubled(results)
    code, out, _ = command("evaluate", results, "--seeds", 2, "--trust", *INLINE)
    assert code == 0
    rows = pd.read_parquet(results / "evaluations")
    seeds = rows[rows.split == "report"].groupby("edit_id").seed.nunique()
    assert set(seeds[both.edit_id]) == {2}
    page = (results / "report.html").read_text()
    assert "Against uce, paired, which edits a place of its own" in page


def test_an_edit_that_cannot_be_exported_is_one_line_and_writes_nothing(
    command: Command, mine: Path, sweep: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    from safetensors.torch import save

    edits = pd.read_parquet(mine / "edits")
    edit = edits[(edits.scope == "by_hand") & (edits.editor == "loco_edit")].iloc[0]
    path, out = mine / edit.delta_path, tmp_path / "out"
    whole = path.read_bytes()
    for data in (whole[:-10], b"", save({"a": torch.zeros(2)})):
        path.write_bytes(data)
        code, _, err = command("export", mine, out, "--edit", edit.edit_id)
        assert (code, err.count("\n"), "is not the file that was written" in err) == (1, 1, True), err
    path.unlink()
    code, _, err = command("export", mine, out, "--edit", edit.edit_id)
    assert (code, err.count("\n")) == (1, 1)
    path.write_bytes(whole)
    # Another revision of the weights under the same path.
    config = tiny_pipeline / "unet/config.json"
    text = config.read_text()
    try:
        config.write_text(text + "\n")
        code, _, err = command("export", mine, out, "--edit", edit.edit_id)
        assert (code, err.count("\n"), "fit it again" in err) == (1, 1, True), err
        code, _, err = command("edit", mine, *VELOR, "--trust", *INLINE)
        assert (code, err.count("\n"), "put the old weights back" in err) == (2, 1, True), err
    finally:
        config.write_text(text)
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))
    assert command("export", mine, out, "--edit", edit.edit_id)[0] == 0


def test_the_commands_are_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["loco-sweep", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert {"edit", "evaluate"} <= set(capsys.readouterr().out.split())

"""Results of a tiny sweep, ways to damage them, and what commands may and may not do with what is left."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.cli.main import main
from orchestrator.store import encode_document, layout, open_store
from orchestrator.store.checksums import decode_document, encode_table
from orchestrator.store.units import decode_unit
from tests.support.sweeps import CIRCUMSTANCES

SWEEP = """\
name: small
models:
  - {{id: tiny, path: {model}}}
attributes: [style/velor]
windows: {{sizes: [2], stride: 7}}
prompts: 2
seeds: 1
generation: {{steps: 1, guidance_scale: 3.0, batch_size: 4}}
controls: {{identity: false, random: 0}}
scorer: toy-clip
localize: {{localizer: argmin, resamples: 100}}
edit: {{editors: [loco_edit], targets: paired, lambdas: [0.1], tokens: [all]}}
evaluate: {{prompts: 1, seeds: 1, neighbours: 0, windows: false}}
"""
EFFECTS, LOCALIZATIONS = (
    layout.derived(name, "tiny", "style/velor", "argmin") for name in ("effects", "localizations")
)
EDITS = layout.derived("edits", "tiny", "style/velor", "")
INLINE = ("--backend", "inline", "--threads", "1")
TABLES = ("scores", "failures", "embeddings", "images", "evaluations", "localizations", "effects", "edits")
SECONDS = 300
"""No command on this sweep takes so long, unless it hangs."""


@dataclass(frozen=True)
class Ended:
    """How a command ended; ``raised`` is what a person would see as a traceback."""

    code: int
    text: str
    raised: str


@dataclass(frozen=True)
class Damage:
    """A way to damage results.

    Attributes:
        name: in a word.
        harm: does it.
        harmless: whether every command must do as if nothing had happened.
        mended: whether `verify --repair` and a run make all tables what they were.
        forged: whether sums agree, so that only `verify` can tell.
    """

    name: str
    harm: Callable[[Path], None]
    harmless: bool = False
    mended: bool = True
    forged: bool = False


def call(*words: object) -> Ended:
    """Runs a command in this process."""
    out, raised, code = io.StringIO(), "", 0

    def hung(*_: object) -> None:
        raise TimeoutError(f"loco-sweep {' '.join(map(str, words))} hangs")

    before, argv = signal.signal(signal.SIGALRM, hung), sys.argv
    signal.alarm(SECONDS)
    sys.argv = ["loco-sweep", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        raised = f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        sys.argv = argv
    return Ended(code, out.getvalue(), raised)


def tree(root: Path) -> dict[str, str]:
    """Returns what lies in a folder, by path, links not followed."""
    found = {}
    for where, folders, files in os.walk(root):
        for path in (Path(where) / name for name in (*folders, *files)):
            key = path.relative_to(root).as_posix()
            if path.is_symlink():
                found[key] = f"link {os.readlink(path)}"
            elif path.is_file():
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[key] = "folder" if path.is_dir() else "other"
    return found


def rows(root: Path) -> dict[str, list[str]]:
    """Returns the rows of all tables in a fixed order, without when, where and at which attempt they were made."""
    store, found = open_store(str(root), create=False), {}
    for name in TABLES:
        table = store.read(name)
        kept = table.drop_columns([column for column in CIRCUMSTANCES if column in table.column_names])
        found[name] = sorted(str(row) for row in kept.to_pylist())
    return found


def part(root: Path, table: str) -> Path:
    """Returns the first part of a table that has rows."""
    return min(path for path in (root / layout.folder(table)).glob("part-*.parquet") if "00000" not in path.name)


def units(root: Path) -> list[Path]:
    """Returns the files of units, in order."""
    return sorted((root / layout.UNITS).glob("*.arrow"))


def with_rows(root: Path, table: str) -> Path:
    """Returns a unit that has rows of a table."""
    return next(path for path in units(root) if len(decode_unit(path.read_bytes(), str(path), path.stem)[table]))


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Flips one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a document and seals it, as somebody does who knows how."""
    content = decode_document(path.read_bytes(), str(path))
    change(content)
    path.write_bytes(encode_document(content))


def reseal(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Changes a table and seals it, as somebody does who knows how."""
    path.write_bytes(encode_table(change(pq.ParquetFile(path).read())))


def republish(root: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Changes a part and its record, so that sums agree."""
    path = part(root, table)
    reseal(path, change)
    name = path.relative_to(root).as_posix()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record = root / layout.published(int(path.stem.removeprefix("part-")))
    rewrite(record, lambda content: content["files"].update({name: digest}))


def set_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    """Replaces a column."""
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))


def _into(folder: str, name: str, data: bytes = b"x" * 300) -> Callable[[Path], None]:
    return lambda root: [None, (root / folder / name).write_bytes(data)][0]  # type: ignore[func-returns-value]


def _copy(find: Callable[[Path], Path], name: str) -> Callable[[Path], None]:
    return lambda root: [None, shutil.copy(find(root), find(root).with_name(name))][0]


def _remove(find: Callable[[Path], Path]) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        path = find(root)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return harm


def _change(find: Callable[[Path], Path], how: str) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        path = find(root)
        data = path.read_bytes()
        if how == "flipped":
            flip(path, len(data) // 2)
        elif how == "truncated":
            path.write_bytes(data[: len(data) // 2])
        elif how == "empty":
            path.write_bytes(b"")
        elif how == "noise":
            path.write_bytes(hashlib.sha512(data).digest() * 9)
        elif how == "folder":
            path.unlink()
            path.mkdir()
        elif how == "pipe":
            path.unlink()
            os.mkfifo(path)
        elif how == "link out":
            outside = root.parent / "outside" / path.name
            shutil.copy(path, outside)
            path.unlink()
            path.symlink_to(outside)
        else:
            path.unlink()
            path.symlink_to(root / "nothing")

    return harm


def _link_folder(folder: str) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        outside = root.parent / "outside" / folder.replace("/", ".")
        if (root / folder).exists():
            shutil.move(root / folder, outside)
        else:
            outside.mkdir()
        (outside / "precious").write_text("precious")
        (root / folder).symlink_to(outside)

    return harm


def _swap(one: Callable[[Path], Path], other: Callable[[Path], Path]) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        first, second = one(root), other(root)
        data = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(data)

    return harm


def _over(source: Callable[[Path], Path], target: Callable[[Path], Path]) -> Callable[[Path], None]:
    return lambda root: [None, target(root).write_bytes(source(root).read_bytes())][0]


def _at(path: str) -> Callable[[Path], Path]:
    return lambda root: root / path


def _all_copied(root: Path) -> None:
    """A part, its manifest and its record, copied to the number that comes next."""
    number = max(int(path.stem) for path in (root / layout.MANIFESTS).iterdir()) + 1
    shutil.copy(root / layout.manifest(1), root / layout.manifest(number))
    shutil.copy(root / layout.published(1), root / layout.published(number))
    for name in ("scores", "images", "embeddings"):
        if (root / layout.part(name, 1)).exists():
            shutil.copy(root / layout.part(name, 1), root / layout.part(name, number))


def _next_manifest(root: Path) -> Path:
    number = max(int(path.stem) for path in (root / layout.MANIFESTS).iterdir()) + 1
    return root / layout.manifest(number)


def _manifest_folder(root: Path) -> None:
    _next_manifest(root).mkdir()
    _remove(lambda root: units(root)[0])(root)


def _delta_at(path: str) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        def change(table: pa.Table) -> pa.Table:
            return set_column(table, "delta_path", [path for _ in range(len(table))])

        reseal(root / EDITS, change)

    return harm


def _first_delta(root: Path) -> Path:
    return min((root / layout.DELTAS).iterdir())


_FOREIGN = (".DS_Store", "._x", ".nfs0001", "Thumbs.db", "._part-00001.parquet", "desktop.ini")
_DOCUMENTS = (
    layout.SWEEP, layout.RESOLVED, layout.IN_FLIGHT, layout.PROGRESS, layout.manifest(1), layout.published(1),
    layout.MARKER, layout.REPORT, layout.plan(0), EFFECTS,
    LOCALIZATIONS, EDITS, layout.part("trials", 0), layout.part("effects", 0), layout.TABLE_FILES,
    "scores/part-00000.parquet",
)  # fmt: skip
_GROWING: dict[str, Callable[[Path], Path]] = {
    "scores": lambda root: part(root, "scores"),
    "images": lambda root: part(root, "images"),
    "evaluations": lambda root: part(root, "evaluations"),
    "fits": lambda root: part(root, "fits"),
    "unit": lambda root: with_rows(root, "scores"),
    "fitted unit": lambda root: with_rows(root, "fits"),
    "delta": _first_delta,
}


def damages() -> Iterator[Damage]:
    """Yields every way."""
    yield from _foreign()
    yield from _copies()
    for find in _GROWING:
        for how in ("flipped", "truncated", "folder", "link out"):
            yield Damage(f"{find} {how}", _change(_GROWING[find], how), mended=how not in ("folder", "link out"))
        yield Damage(f"{find} missing", _remove(_GROWING[find]))
    for path in _DOCUMENTS:
        yield Damage(f"{path} flipped", _change(_at(path), "flipped"))
        if path not in (layout.MARKER, layout.PROGRESS, layout.TABLE_FILES):
            yield Damage(f"{path} missing", _remove(_at(path)))
    for how in ("empty", "noise", "pipe", "dangling"):
        yield Damage(f"sweep {how}", _change(_at(layout.SWEEP), how), mended=how in ("empty", "noise"))
        yield Damage(f"unit {how}", _change(_GROWING["unit"], how), mended=how in ("empty", "noise", "dangling"))
        yield Damage(f"manifest {how}", _change(_at(layout.manifest(1)), how), mended=how in ("empty", "noise"))
    for folder in ("_meta/staging", "_meta", layout.UNITS, layout.MANIFESTS, "scores", "images", layout.DELTAS):
        yield Damage(f"{folder} linked", _link_folder(folder), mended=False)
    for folder in ("_meta", layout.UNITS, layout.MANIFESTS, layout.PUBLISHED, layout.PLANS, "scores", layout.DELTAS):
        yield Damage(f"{folder} gone", _remove(_at(folder)), mended=folder != "_meta")
    yield Damage("a folder is the next manifest", _manifest_folder, mended=False)
    yield from _forged()


def _foreign() -> Iterator[Damage]:
    for folder in ("scores", "effects", layout.UNITS, layout.MANIFESTS, layout.PLANS, layout.PUBLISHED, "images"):
        for name in _FOREIGN[:3] if folder != "scores" else _FOREIGN:
            yield Damage(f"{folder}/{name}", _into(folder, name), harmless=True)
    for name in ("._X.parquet", "X (conflicted copy 1).parquet", "X copy.parquet.bak", "x.json"):
        yield Damage(f"{layout.UNITS}/{name}", _into(layout.UNITS, name), harmless=True)
    yield Damage("00001 (1).json", _copy(_at(layout.manifest(1)), "00001 (1).json"), harmless=True)
    yield Damage("0000 copy.parquet", _copy(_at(layout.plan(0)), "0000 copy.parquet"), harmless=True)
    yield Damage("a folder of somebody's", lambda root: (root / "notes").mkdir(), harmless=True)
    yield Damage("notes.txt", _into(".", "notes.txt"), harmless=True)


def _copies() -> Iterator[Damage]:
    yield Damage("part-00001 (1)", _copy(_GROWING["scores"], "part-00001 (1).parquet"), harmless=True)
    yield Damage("part-00077", _copy(_GROWING["scores"], "part-00077.parquet"), harmless=True)
    yield Damage("images part-00077", _copy(_GROWING["images"], "part-00077.parquet"), harmless=True)
    yield Damage("effects copy", _copy(_at(EFFECTS), "effects copy.parquet"), harmless=True)
    yield Damage("stray unit", _copy(_GROWING["unit"], f"{'0' * 64}.arrow"), harmless=True)
    yield Damage("unit-copy", _copy(_GROWING["unit"], "copy-of-a-unit.arrow"), harmless=True)
    yield Damage("next manifest", lambda root: [None, shutil.copy(root / layout.manifest(1), _next_manifest(root))][0],
                 harmless=True)  # fmt: skip
    yield Damage("all of a part copied", _all_copied, harmless=True)
    yield Damage("unit over another", _over(lambda root: units(root)[0], lambda root: units(root)[1]))
    yield Damage("parts swapped", _swap(_GROWING["scores"], lambda root: max((root / "scores").iterdir())))
    yield Damage("tables swapped", _swap(_at(EFFECTS), _at(LOCALIZATIONS)))
    yield Damage("plan over a unit", _over(_at(layout.plan(0)), _GROWING["unit"]))
    yield Damage("part over the plan", _over(_GROWING["scores"], _at(layout.plan(0))))
    yield Damage("part over another table", _over(_GROWING["scores"], _GROWING["images"]))
    yield Damage("manifest over another", _over(_at(layout.manifest(1)), _at(layout.manifest(2))))


def _forged() -> Iterator[Damage]:
    def key(path: str, name: str, value: object) -> Damage:
        def harm(root: Path) -> None:
            rewrite(root / path, lambda content: content.update({name: value}))

        return Damage(f"{path} has {name}{'' if value == 1 else f' {value}'[:24]}", harm, mended=False)

    def lack(path: str, name: str) -> Damage:
        return Damage(f"{path} lacks {name}", lambda root: rewrite(root / path, lambda content: content.pop(name)),
                      mended=False)  # fmt: skip

    for path in (layout.SWEEP, layout.RESOLVED, layout.manifest(1), layout.published(1), layout.IN_FLIGHT):
        yield key(path, "invented", 1)
    yield key(layout.SWEEP, "spec", 7)
    yield key(layout.SWEEP, "sweep_id", [1])
    yield key(layout.RESOLVED, "models", "x")
    yield key(layout.RESOLVED, "sites", {"tiny": 3})
    yield key(layout.manifest(1), "units", ["../x"])
    yield key(layout.manifest(1), "units", 3)
    yield key(layout.published(1), "files", {"../outside/precious": "0" * 64})
    yield key(layout.published(1), "files", {"_meta/sweep.json": "0" * 64})
    for path, name in ((layout.SWEEP, "spec"), (layout.RESOLVED, "sites"), (layout.manifest(1), "units")):
        yield lack(path, name)
    for path in ("../outside/precious", "/etc/hostname", "scores/part-00000.parquet", "deltas/../_meta/sweep.json"):
        yield Damage(f"delta at {path}", _delta_at(path))
    yield Damage(
        "rows made up",
        lambda root: republish(root, "scores", lambda table: pa.concat_tables([table, table.slice(0, 1)])),
        forged=True,
    )
    yield Damage(
        "scores made up",
        lambda root: republish(
            root, "scores", lambda table: set_column(table, "clip_score", [0.5 for _ in range(len(table))])
        ),
    )
    yield Damage("another schema", lambda root: reseal(root / EFFECTS, lambda t: t.select(["model"])))
    yield Damage(
        "settings that are none",
        lambda root: reseal(root / EDITS, lambda t: set_column(t, "settings", ["{" for _ in range(len(t))])),
        mended=False,
    )
    for name, value in (("attribute", "style/x"), ("model", "other"), ("window_start", 99), ("outcome", "none")):
        yield Damage(
            f"localized {name} that is none",
            lambda root, name=name, value=value: reseal(  # type: ignore[misc]
                root / LOCALIZATIONS, lambda t: set_column(t, name, [value for _ in range(len(t))])
            ),
            mended=False,
            forged=True,
        )
    yield Damage(
        "an attribute that is none",
        lambda root: reseal(root / EDITS, lambda t: set_column(t, "attribute", ["style/x" for _ in range(len(t))])),
        mended=False,
    )

"""The package says what it needs: everything imported is declared, everything declared is constrained.

And tests say it too: what several of them need lies in `tests.support`.
"""

from __future__ import annotations

import ast
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def declared() -> list[Requirement]:
    lists = (
        PROJECT["build-system"]["requires"], PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"].values(),
    )  # fmt: skip
    return [Requirement(line) for lines in lists for line in lines]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    found = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}
    assert len(found) == len(pins), "a package is constrained twice"
    return found


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_everything_declared_is_constrained_to_a_version_that_is_allowed(requirement: Requirement) -> None:
    pin = constraints().get(canonicalize_name(requirement.name), "")
    assert pin.startswith("=="), f"constraints.txt has no {requirement.name}=="
    assert requirement.specifier.contains(pin.removeprefix("=="), prereleases=True)


def test_nothing_is_constrained_that_is_not_declared() -> None:
    assert constraints().keys() == {canonicalize_name(requirement.name) for requirement in declared()}


def deptry(folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Runs the checks of the Makefile."""
    lines = [line.strip() for line in (ROOT / "Makefile").read_text().splitlines() if "$(BIN)/deptry" in line]
    assert len(lines) == 2
    words = [shlex.split(line.replace("$$", "$"))[1:] for line in lines]
    python = [sys.executable, "-m", "deptry", "--no-ansi"]
    return [subprocess.run([*python, *some], cwd=folder, capture_output=True, text=True) for some in words]


def test_everything_imported_is_declared() -> None:
    for done in deptry(ROOT):
        assert done.returncode == 0, done.stderr


def test_the_next_one_is_found(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for name in ("loco_core", "orchestrator", "cluster", "tests", "benchmarks", "tools"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    new = {
        "loco_core/a.py": ("import yarl\n", "'yarl' imported but declared as a dev dependency"),
        "orchestrator/b.py": ("def f():\n    import psutil\n", "'psutil' imported but declared as a dev dependency"),
        "orchestrator/c.py": ("import not_there\n", "'not_there' imported but missing"),
        "loco_core/d.py": ("from multidict import MultiDict\n", "'multidict' imported but it is a transitive"),
        "tests/e.py": ("from multidict import MultiDict\n", "'multidict' imported but it is a transitive"),
    }
    for file, (text, _) in new.items():
        (tmp_path / file).write_text(text)
    said = "".join(done.stderr for done in deptry(tmp_path))
    for file, (_, expected) in new.items():
        assert any(line.startswith(f"{file}:") and expected in line for line in said.splitlines()), (file, said)


def from_tests(text: str) -> set[str]:
    """Returns the modules of tests that a Python file imports."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports here are absolute"
            found.add(str(node.module))
            # `from tests import support` and `from tests.unit import test_it` name modules too.
            found.update(f"{node.module}.{alias.name}" for alias in node.names if node.module == "tests")
    return {name for name in found if name.split(".")[0] == "tests" and name != "tests"}


def test_no_test_module_imports_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        others = {name for name in from_tests(path.read_text()) if name.split(".")[1] != "support"}
        assert not others, f"{path.relative_to(ROOT)} imports {', '.join(sorted(others))}; expected tests.support"

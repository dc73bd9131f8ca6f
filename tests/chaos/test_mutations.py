"""Two hundred thousand mutated sweep and cluster files in process, and three hundred by the command; `make chaos`.

``MUTANTS`` says how many there are; which they are follows from their numbers. `python -m tests.support.mutations FROM
TO` goes through a range of them with a line a thousand.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import mutations
from tests.support.forks import run_all

pytestmark = pytest.mark.chaos
MUTANTS = int(os.environ.get("MUTANTS", "200000"))
COMMANDS = 300
SECONDS_TOGETHER = 3000.0


@pytest.mark.usefixtures("_offline")
def test_no_mutant_ends_in_a_traceback_or_takes_long(tmp_path: Path) -> None:
    tally = mutations.judge(range(MUTANTS), tmp_path)
    assert tally.bad == []
    assert sum(tally.seen.values()) == MUTANTS


def test_the_command_refuses_or_plans_every_mutant(tmp_path: Path) -> None:
    commands = []
    for number in range(COMMANDS):
        kind, data = mutations.mutant(number)
        (tmp_path / f"{number}.yaml").write_bytes(data)
        words = ("submit", "--dry-run") if kind == "cluster" else ("plan",)
        commands.append(("null", [*words, f"{number}.yaml"]))
    env = {"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    ended = run_all(tmp_path, commands, SECONDS_TOGETHER, env)
    assert len(ended) == COMMANDS
    for words, code, said in ended:
        assert "Traceback" not in said, (words, said)
        # A model or a scorer that lies on the hub alone cannot be looked up here: that is 1, or 0 as published.
        assert code in ((0, 1, 2) if "hub" in said or "weights are missing" in said else (0, 2)), (words, code, said)
        if code:
            lines = said.removeprefix("error: ").splitlines()
            assert said.startswith(("error: ", "weights are missing: ")), (words, said)
            assert 1 <= len(lines) <= 21, (words, said)

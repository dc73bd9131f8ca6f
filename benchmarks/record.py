"""What a part of a benchmark found, on the disk as soon as it is known: a part may be ended in the middle."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Record:
    """Findings by name.

    Attributes:
        kept: what parts of a part hand on to each other, not written.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._found = path, dict[str, Any]()
        self.kept: dict[str, Any] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        """Notes a finding."""
        self._found[name] = value
        self._path.write_text(json.dumps(self._found, default=str))
        print(f"{self._path.stem}: {name}: {json.dumps(value, default=str)}", flush=True)

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """Notes what goes wrong within a block as a finding, and goes on behind it."""
        try:
            yield
        except Exception as error:  # whatever it is, it is a finding
            traceback.print_exc()
            self[f"{name}: failed"] = f"{type(error).__name__}: {str(error)[:2000]}"

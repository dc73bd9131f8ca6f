"""Keeps libraries from talking over the command line's own output, and from asking."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Read by diffusers when it is first imported: code that lies beside weights is never run, whoever would allow it.
os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "true"


def quiet_libraries() -> None:
    """Silences progress bars, advice and questions of diffusers and transformers; errors still show."""
    import diffusers.utils.logging
    import transformers.dynamic_module_utils
    import transformers.utils.logging

    for module in (diffusers.utils.logging, transformers.utils.logging):
        module.set_verbosity_error()
        module.disable_progress_bar()
    # Seconds that it waits for a person who allows code beside weights to run; with none it refuses.
    transformers.dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0


@contextmanager
def hushed() -> Iterator[None]:
    """Silences what diffusers, transformers and peft log and warn of what they then raise an error of, too."""
    names = ("diffusers", "transformers", "peft")
    before = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for name in names:
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def unasked() -> Iterator[None]:
    """Answers nothing to a library that asks on the terminal, so that it raises an error and does not wait."""
    before = sys.stdin
    with open(os.devnull, encoding="utf-8") as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = before


def without_terminal() -> None:
    """Takes its standard input from this process: one in the background that reads from a terminal is stopped by it."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  for as long as the process lives

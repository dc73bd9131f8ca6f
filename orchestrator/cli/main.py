"""``loco-sweep``: one file a command, imported when it is called, so that ``--help`` is quick."""

from __future__ import annotations

import os
import sys
import traceback
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any

import typer

from loco_core import registry
from loco_core.errors import LocoError, printable
from loco_core.masking import mask_everything, masked
from orchestrator.cli import (
    bench_localizer,
    demo,
    doctor,
    edit,
    evaluate,
    export,
    init,
    listing,
    localize,
    plan,
    report,
    reproduce,
    run,
    status,
    submit,
    tune,
    verify,
    view,
)
from orchestrator.cli.terminal import drop

app = typer.Typer(
    name="loco-sweep",
    help="Find which cross-attention layers of a text-to-image model hold an attribute.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("plan")(plan.plan)
app.command("run")(run.run)
app.command("reproduce")(reproduce.reproduce)
app.command("retry")(run.retry)
app.command("init")(init.init)
app.command("submit")(submit.submit)
app.command("logs")(submit.logs)
app.command("cancel")(submit.cancel)
app.command("status")(status.status)
app.command("verify")(verify.verify)
app.command("localize")(localize.localize)
app.command("report")(report.report)
app.command("edit")(edit.edit)
app.command("evaluate")(evaluate.evaluate)
app.command("tune")(tune.tune)
app.command("export")(export.export)
app.command("view")(view.view)
app.command("bench-localizer")(bench_localizer.bench_localizer)
app.command("models")(listing.models)
app.command("attributes")(listing.attributes)
app.command("doctor")(doctor.doctor)


class OutputError(LocoError):
    """What a command prints cannot be written."""


class _Output(FileIO):
    """The standard output; an error that says so where it is full, as any other file may be full too."""

    def write(self, data: Any) -> int:
        """Writes some of it."""
        try:
            return super().write(data)
        except BrokenPipeError:
            # The reader has seen enough.
            raise
        except OSError as error:
            raise OutputError(f"the output cannot be written: {error.strerror}") from error


def main() -> None:
    """Runs the command line; an error meant for a person is one line, without a traceback."""
    mask_everything()
    _open_output()
    try:
        _commands()
    except SystemExit as end:
        sys.exit(_flushed(end.code))


def _commands() -> None:
    try:
        with registry.only_named(lambda line: print(line, file=sys.stderr)):
            app()
    except LocoError as error:
        _complain(f"error: {error}")
        sys.exit(error.exit_code)
    except Exception:
        # Not left to Python: Typer puts a hook of its own where tracebacks are masked.
        _complain(masked(traceback.format_exc().rstrip()))
        sys.exit(1)


def _open_output() -> None:
    """Lets no letter of a name that the terminal has not, and no terminal that is gone, end a command."""
    # Python has no stream where a descriptor was closed.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout is sys.__stdout__:
        raw = _Output(sys.stdout.fileno(), "w", closefd=False)
        # As PYTHONUNBUFFERED wants it, which jobs of a cluster are given.
        at_once = sys.stdout.write_through
        sys.stdout = TextIOWrapper(
            raw if at_once else BufferedWriter(raw), sys.stdout.encoding, line_buffering=raw.isatty(),
            write_through=at_once,
        )  # fmt: skip
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flushed(code: str | int | None) -> str | int | None:
    """Writes what still waits; returns the exit code."""
    try:
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        pass
    except OutputError as error:
        if not code:
            _complain(f"error: {error}")
    drop(sys.stdout)
    return code or OutputError.exit_code


def _complain(text: str) -> None:
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        # Nobody is left to be told: the exit code alone says it.
        drop(sys.stderr)


if __name__ == "__main__":
    main()

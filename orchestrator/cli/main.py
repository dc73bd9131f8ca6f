"""``loco-sweep``: one file per command, which imports what is heavy when it is called, so that ``--help`` is quick."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from loco_core import plugins
from loco_core.errors import LocoError, printable
from loco_core.masking import mask_everything, masked
from orchestrator import __version__
from orchestrator.cli import (
    bench_localizer,
    check,
    compare,
    control,
    demo,
    doctor,
    edit,
    evaluate,
    export,
    init,
    listing,
    localize,
    ls,
    plan,
    prefetch,
    report,
    reproduce,
    run,
    schema,
    show,
    status,
    submit,
    tune,
    verify,
    view,
)
from orchestrator.face.terminal import drop
from orchestrator.hooks import LEFT_BEHIND

GROUPS: dict[str, tuple[tuple[str, Callable[..., Any]], ...]] = {
    "Start": (
        ("demo", demo.demo),
        ("init", init.init),
        ("check", check.check),
        ("plan", plan.plan),
        ("run", run.run),
        ("reproduce", reproduce.reproduce),
    ),
    "Look": (
        ("ls", ls.ls),
        ("status", status.status),
        ("show", show.show),
        ("report", report.report),
        ("view", view.view),
        ("localize", localize.localize),
        ("compare", compare.compare),
    ),
    "Edit": (
        ("edit", edit.edit),
        ("evaluate", evaluate.evaluate),
        ("tune", tune.tune),
        ("export", export.export),
    ),
    "Cluster": (
        ("submit", submit.submit),
        ("logs", submit.logs),
        ("cancel", submit.cancel),
        ("scale", control.scale),
        ("pause", control.pause),
        ("resume", control.resume),
        ("prefetch", prefetch.prefetch),
    ),
    "Mend": (("retry", run.retry), ("verify", verify.verify), ("doctor", doctor.doctor)),
    "Know": (
        ("models", listing.models),
        ("attributes", listing.attributes),
        ("schema", schema.schema),
        ("bench-localizer", bench_localizer.bench_localizer),
    ),
}


class _Grouped(TyperGroup):
    """Help that lists commands by what they are for, each with its whole summary."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes a section per group."""
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit=200)) for name, _ in commands])


def _version(asked: bool) -> None:
    if asked:
        print(f"loco-sweep {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="loco-sweep",
    cls=_Grouped,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _commands_of in GROUPS.values():
    for _name, _command in _commands_of:
        app.command(_name)(_command)


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Find which cross-attention layers of a text-to-image model hold an attribute."""


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
        code = _flushed(end.code)
        if LEFT_BEHIND:
            # Python would wait for threads that such a hook has started, and for what they register for the end.
            logging.shutdown()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else int(code is not None))
        sys.exit(code)


def _commands() -> None:
    try:
        with plugins.only_named(lambda line: print(line, file=sys.stderr)):
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
        # Nobody is left to read it: the exit code alone says it.
        drop(sys.stderr)


if __name__ == "__main__":
    main()

"""``loco-sweep``: one file a command, imported when it is called, so that ``--help`` is quick."""

from __future__ import annotations

import sys

import typer

from loco_core import registry
from loco_core.errors import LocoError
from loco_core.masking import mask_everything
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
from orchestrator.cli.terminal import literal

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


def main() -> None:
    """Runs the command line; an error meant for a person is one line, without a traceback."""
    mask_everything()
    try:
        with registry.only_named(lambda line: print(line, file=sys.stderr)):
            app()
    except LocoError as error:
        print(literal(f"error: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

"""``check``: what a person with weights runs first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loco_core.errors import UnknownPipelineError, printable
from orchestrator.cli.options import JsonOption, ModelOption, at_home

if TYPE_CHECKING:
    from loco_core.checking.certificate import Certificate
    from orchestrator.runs.check import Options, Subject

DTYPES = ("float32", "float16", "bfloat16")


def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Name of a model, a folder, a hub id, or a sweep file (--model says which of its models).",
        ),
    ],
    model: ModelOption = None,
    revision: Annotated[
        str | None, typer.Option(help="Revision of a hub id: a commit, a branch or a tag; default: as in a sweep.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"Number format: {', '.join(DTYPES)}; default: as in a sweep.")
    ] = None,
    device: Annotated[str, typer.Option(help="Such as cuda or cpu; auto takes a GPU where there is one.")] = "auto",
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, help="Denoising steps of the pictures that are scored; default: 16, or fewer as published."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=64, help="Number of seeds per prompt of these pictures.")] = 2,
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            "--attribute", help="Attribute to be drawn; may be repeated. Default: the sweep's, or three that fit."
        ),
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(help="Scorer of these pictures; default: the sweep's, or one that fits.")
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", metavar="FOLDER", help="Where certificates/ and checks/ are written.", callback=at_home
        ),
    ] = Path("."),
    as_json: JsonOption = False,
) -> None:
    """Check a model before it is swept.

    It counts the sites, holds the engine against the pipeline alone, looks at pictures, measures seconds and memory,
    and asks a scorer what it sees; then it writes a certificate. Exit code 1 says that a check failed. It takes about
    two minutes on a GPU.
    """
    from orchestrator.runs.certificates import write_certificate
    from orchestrator.runs.check import Options
    from orchestrator.runs.check import check as run_check

    subject = _subject(name, model, revision)
    options = Options(steps, seeds, device, _dtype(dtype), tuple(attribute or ()), scorer)
    try:
        with _progress(subject.model.id) as say:
            certificate = run_check(subject, options, say)
    except UnknownPipelineError as error:
        _look(subject, options, error, as_json=as_json)
        raise typer.Exit(1) from None
    document, table = write_certificate(certificate, output)
    if as_json:
        print(certificate.to_json(), end="")
    else:
        _print(certificate)
        print(f"certificate: {document}; as a table: {table}")
    if not certificate.passed:
        raise typer.Exit(1)


def _subject(name: str, model: str | None, revision: str | None) -> Subject:
    from loco_core.errors import SpecError
    from orchestrator.cli.places import is_file, sweep_of
    from orchestrator.runs.check import subject_named, subject_of

    if name == "-" or is_file(name):
        if revision is not None:
            raise SpecError("--revision is for a hub id; a sweep file says it with the model")
        return subject_of(sweep_of(Path(name), None)[0], model)
    if model is not None:
        raise SpecError(f"--model names a model of a sweep file; {name} is a model")
    return subject_named(name, revision)


def _look(subject: Subject, options: Options, error: UnknownPipelineError, *, as_json: bool) -> None:
    """Prints what can be told of a pipeline that no family serves, for whoever writes one."""
    import json
    from dataclasses import asdict

    from orchestrator.runs.check import look_at

    found = look_at(subject, options)
    if as_json:
        print(json.dumps({**asdict(found), "reason": str(error)}))
        return
    for line in found.lines:
        print(printable(line))
    print(printable(f"{error}; it cannot be swept until a family says what could not be told (how-to: plug-ins)"))


def _dtype(text: str | None) -> str | None:
    from loco_core.errors import SpecError, did_you_mean

    if text is not None and text not in DTYPES:
        raise SpecError(f"--dtype {text}: no number format{did_you_mean(text, DTYPES)}")
    return text


@contextmanager
def _progress(model: str) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal what is done now."""
    from rich.text import Text

    from orchestrator.face.terminal import console

    with console(stderr=True).status(Text(printable(model))) as status:
        yield lambda what: status.update(Text(printable(f"{model}: {what}")))


def _print(certificate: Certificate) -> None:
    from orchestrator.cli import table

    table.show(
        ("check", "state", "figure", "limit", "details"),
        [(each.name, each.state, _number(each.figure), _number(each.limit), each.said) for each in certificate.checks],
        title=f"{certificate.model} on {certificate.where}", right=("figure", "limit"),
    )  # fmt: skip
    for each in certificate.checks:
        if each.state == "failed":
            print(printable(f"{each.name} failed: {each.advice}"))
    print(printable(certificate.line))


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.2g}"

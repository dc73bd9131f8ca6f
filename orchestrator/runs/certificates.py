"""Certificates of models: where they are kept, read, and written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from loco_core.checking.certificate import BUNDLED, Certificate, read_folder
from loco_core.errors import StoreError
from orchestrator.identity import safe_name
from orchestrator.store import SCHEMA_VERSION, make_table
from orchestrator.store.checksums import encode_table
from orchestrator.store.schemas import described

FOLDER, TABLE = "certificates", "checks"
"""Where a check leaves its JSON, and its row, under the folder that it is told."""


def known_certificates(here: Path | None = None) -> tuple[Certificate, ...]:
    """Returns the certificates that ship with the project and those of a folder, the newest first.

    Args:
        here: folder in which checks have left theirs; None is the working directory.

    Raises:
        StoreError: a file is no certificate.
    """
    # A job of Ray may be left without a working directory: a name below it need not be there either.
    found = {each.to_json(): each for folder in (BUNDLED, (here or Path()) / FOLDER) for each in read_folder(folder)}
    return tuple(sorted(found.values(), key=lambda each: each.checked_at, reverse=True))


def of_model(found: Iterable[Certificate], *, source: str = "", weights: str = "") -> tuple[Certificate, ...]:
    """Returns the certificates of one model, in the order of all.

    Args:
        found: certificates.
        source: its hub id; empty where it has none.
        weights: hash of its weights; empty where nobody has looked.
    """
    return tuple(
        each for each in found if (source and each.source == source) or (weights and each.weights == weights)
    )  # fmt: skip


def status_of(found: Sequence[Certificate]) -> str:
    """Says in a few words what is known of a model by its certificates, the newest first."""
    return found[0].status if found else "not checked"


def write_certificate(certificate: Certificate, root: Path) -> tuple[Path, Path]:
    """Writes a certificate as JSON, and as a Parquet file of one row, over earlier ones of the same model and device.

    Args:
        certificate: what was found.
        root: folder in which ``certificates/`` and ``checks/`` are, or will be.

    Returns:
        where both are.

    Raises:
        StoreError: they cannot be written.
    """
    parts = (certificate.model, certificate.weights.removeprefix("hub:")[:8], certificate.dtype, certificate.device)
    name = "_".join(safe_name(part) for part in parts)
    row = make_table(TABLE, [row_of(certificate)])
    document, table = root / FOLDER / f"{name}.json", root / TABLE / f"{name}.parquet"
    try:
        document.parent.mkdir(parents=True, exist_ok=True)
        table.parent.mkdir(parents=True, exist_ok=True)
        document.write_text(certificate.to_json(), encoding="utf-8")
        table.write_bytes(encode_table(row.cast(described(TABLE))))
    except OSError as error:
        raise StoreError(f"{root}: the certificate cannot be written: {error.strerror or error}") from error
    return document, table


def row_of(certificate: Certificate) -> dict[str, Any]:
    """Returns a certificate as a row of ``checks``."""
    same = ("model", "family", "pipeline", "source", "dtype", "device", "checked_at", "passed", "sites_found",
            "sites_expected", "steps", "guidance_scale", "scorer", "seconds")  # fmt: skip
    pictures = certificate.check("pictures")
    row = {name: getattr(certificate, name) for name in same} | {
        "model_revision": certificate.weights.removeprefix("hub:"), "engine": json.dumps(certificate.engine),
        "versions": json.dumps(certificate.versions), "failed": list(certificate.named("failed")),
        "skipped": list(certificate.named("skipped")), "n_seeds": certificate.seeds,
        "broken_pictures": None if pictures is None or pictures.figure is None else int(pictures.figure),
        "batch_sizes": [each.size for each in certificate.costs],
        "seconds_per_image": [each.seconds for each in certificate.costs],
        "peak_gigabytes": [each.gigabytes for each in certificate.costs],
        "whole_seconds_per_image": certificate.image_seconds,
        "attributes": [each.attribute for each in certificate.margins],
        "pairs": [each.pairs for each in certificate.margins],
        "closer": [each.closer for each in certificate.margins],
        "margins": [each.margin for each in certificate.margins],
        "certificate": certificate.to_json(), "schema_version": SCHEMA_VERSION,
    }  # fmt: skip
    for name in ("identity", "all_sites", "batch", "precision"):
        check = certificate.check(name)
        row |= {name: check and check.figure, f"{name}_limit": check and check.limit}
    return row

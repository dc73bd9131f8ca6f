"""What a check found, as it is kept: a frozen record, its JSON, and one line. Light to import: no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from loco_core.errors import StoreError, first_line

State = Literal["passed", "failed", "skipped", "measured"]
BUNDLED = Path(__file__).parent / "certificates"
"""Certificates that ship with the project."""
FORMAT = "loco-sweep certificate 1"
"""What tells certificates from other files."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what was checked: ``sites``, ``pictures``, ``identity``, ``all_sites``, ``batch``, ``precision``, ``cost``
            or ``margin``.
        state: ``measured`` where there is nothing to pass, ``skipped`` where it could not be told.
        said: what was found, or why nothing was.
        figure: what was measured; of comparisons the difference of latents relative to what they are compared with.
        limit: what the figure may be at most.
        advice: what to do where it failed.
    """

    name: str
    state: State
    said: str
    figure: float | None = None
    limit: float | None = None
    advice: str = ""


@dataclass(frozen=True)
class BatchCost:
    """What batches of one size cost.

    Attributes:
        size: rows per forward pass.
        seconds: seconds of an image of a few steps.
        gigabytes: memory of the GPU that tensors took at most; None on a CPU.
    """

    size: int
    seconds: float
    gigabytes: float | None


@dataclass(frozen=True)
class AttributeMargin:
    """Whether a model knows an attribute, as its scorer sees it.

    Attributes:
        attribute: key of the attribute.
        pairs: pictures of a prompt, each with its donor's from the same noise.
        closer: how many of them fit the score text better than the donor's picture does.
        margin: mean difference of the two scores.
        low: lower end of the 95 % interval (Wilson) of the share that is closer.
        high: upper end.
    """

    attribute: str
    pairs: int
    closer: int
    margin: float
    low: float
    high: float


@dataclass(frozen=True)
class Certificate:
    """A model that was checked, how, and what was found.

    Attributes:
        model: name of the model, as a sweep has it.
        family: key of its family.
        pipeline: its class in diffusers.
        source: hub id, or name of the folder that it was loaded from.
        weights: hash of weights and configuration; of a hub model ``hub:`` and its commit.
        dtype: number format of weights and activations.
        device: device, such as ``cpu`` or the name of a GPU.
        engine: settings of how it computed that differ from the defaults.
        checked_at: time in UTC, to the second.
        versions: version of each package that took part, by name.
        steps: denoising steps of the pictures that were scored.
        guidance_scale: scale of classifier-free guidance.
        seeds: number of seeds.
        sites: addresses of the sites of the recorded forward pass, in execution order.
        sites_found: number of them.
        sites_expected: number of sites that the configuration tells.
        checks: the checks, in the order in which they were made.
        costs: batches that were measured, from the smallest.
        image_seconds: seconds of an image of all steps in the best of these batches; None where nothing was measured.
        margins: the attributes that were drawn.
        scorer: name of the scorer; empty where none could be had.
        seconds: seconds that the checks took, loading included.
        format: what tells certificates from other files, and their version.
    """

    model: str
    family: str
    pipeline: str
    source: str
    weights: str
    dtype: str
    device: str
    engine: dict[str, Any]
    checked_at: str
    versions: dict[str, str]
    steps: int
    guidance_scale: float
    seeds: int
    sites: tuple[str, ...]
    sites_found: int
    sites_expected: int
    checks: tuple[Check, ...]
    costs: tuple[BatchCost, ...] = ()
    image_seconds: float | None = None
    margins: tuple[AttributeMargin, ...] = ()
    scorer: str = ""
    seconds: float = 0.0
    format: str = FORMAT

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.named("failed")

    def named(self, state: State) -> tuple[str, ...]:
        """Returns the names of the checks that ended so."""
        return tuple(each.name for each in self.checks if each.state == state)

    def check(self, name: str) -> Check | None:
        """Returns one check; None where it was not made."""
        return next((each for each in self.checks if each.name == name), None)

    @property
    def gigabytes(self) -> float | None:
        """Memory that the smallest batch took; None on a CPU."""
        return self.costs[0].gigabytes if self.costs else None

    @property
    def where(self) -> str:
        """Device, number format and day, as lists of models say it."""
        return f"{self.device}, {self.dtype}, {self.checked_at[:10]}"

    @property
    def status(self) -> str:
        """What is known of the model by this certificate, in a few words."""
        return f"{'checked' if self.passed else 'failed'} on {self.where}"

    @property
    def line(self) -> str:
        """All of it in one line."""
        verdict = "checked" if self.passed else f"failed ({', '.join(self.named('failed'))})"
        diffusers = self.versions.get("diffusers", "?")
        parts = [f"sites {self.sites_found} of {self.sites_expected}"]
        for check in self.checks:
            if check.figure is not None and check.limit is not None:
                parts.append(f"{check.name.replace('_', ' ')} {check.figure:.1e} (limit {check.limit:.1e})")
        if self.image_seconds is not None:
            parts.append(f"{self.image_seconds:.2g} s per picture of {self.steps} steps")
        if self.gigabytes is not None:
            parts.append(f"{self.gigabytes:.1f} GB")
        parts += [f"{each.attribute} {each.closer} of {each.pairs}" for each in self.margins]
        if skipped := self.named("skipped"):
            parts.append(f"not checked: {', '.join(skipped)}")
        return (
            f"{self.model}: {verdict} on {self.device}, {self.dtype}, diffusers {diffusers}, {self.checked_at[:10]}: "
            + ", ".join(parts)
        )

    def to_json(self) -> str:
        """Returns the certificate as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_folder(folder: Path) -> Iterator[Certificate]:
    """Yields the certificates in a folder, which need not be there; other files of it are passed over.

    Raises:
        StoreError: a certificate is damaged.
    """
    for file in sorted(folder.glob("*.json")):
        try:
            text = file.read_text(encoding="utf-8")
            if FORMAT in text:
                yield TypeAdapter(Certificate).validate_json(text)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{file}: a certificate that cannot be read ({first_line(error)}); check the model again, or remove it"
            ) from error

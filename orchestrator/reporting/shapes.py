"""The marks of edits in figures: a shape and a colour per scope, the same on the page and in its PDFs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle

from orchestrator.reporting.findings import Findings, MeasuredEdit

_METHODS = (("square", "s"), ("star", "*"), ("hexagon", "h"), ("bow", "P"))
_SCOPES = {
    "localized": ("#c2410c", "circle", "o"),
    "by_hand": ("#7c3aed", "diamond", "D"),
    "method": ("#be185d", "square", "s"),
    "together": ("#0f766e", "lozenge", "d"),
    "sequence": ("#4d7c0f", "lozenge", "d"),
    "all_sites": ("#0369a1", "triangle-up", "^"),
    "window": ("#64748b", "cross", "x"),
    "placebo": ("#15803d", "plus", "+"),
    "random": ("#a16207", "triangle-down", "v"),
}  # fmt: skip
_OTHER = ("#475569", "pentagon", "p")


@dataclass(frozen=True)
class Shape:
    """How the edits of one scope are drawn; published methods have one each.

    Attributes:
        name: scope, or name of the method, in words.
        colour: colour of marks.
        form: shape on the page.
        marker: the same for matplotlib.
    """

    name: str
    colour: str
    form: str
    marker: str


def shape_of(edit: MeasuredEdit) -> str:
    """Returns the name of an edit's shape: its scope, of published methods the method."""
    summary = edit.summary
    return summary.name if summary.scope == "method" else summary.scope.replace("_", " ")


def shapes(findings: Findings) -> tuple[Shape, ...]:
    """Returns the shapes of all edits of a sweep, by scope."""
    edits = [edit for item in findings.items for edit in item.edits]
    methods = sorted({shape_of(edit) for edit in edits if edit.summary.scope == "method"})
    signs = dict(zip(methods, cycle(_METHODS), strict=False))
    there = {edit.summary.scope for edit in edits} - {"method"}
    scopes = [*(scope for scope in _SCOPES if scope in there), *sorted(there - _SCOPES.keys())]
    found = [Shape(scope.replace("_", " "), *_SCOPES.get(scope, _OTHER)) for scope in scopes]
    return (*found, *(Shape(name, _SCOPES["method"][0], *sign) for name, sign in signs.items()))

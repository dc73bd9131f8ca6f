"""Are the sites that a forward pass runs those that the configuration tells? Asked whenever a model is loaded.

A rule that finds some of the sites is the worst mistake here: every number comes out, and is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loco_core.errors import ModelError


class SitesError(ModelError):
    """A model runs other sites than its configuration tells.

    Attributes:
        found: addresses of the sites of a recorded forward pass, in execution order.
        expected: addresses that the configuration tells.
        difference: how they differ, in words.
    """

    def __init__(self, where: str, found: Sequence[str], expected: Sequence[str]) -> None:
        """Says which sites are missing and which are too many.

        Args:
            where: folder or hub id of the model.
            found: addresses of the sites of a recorded forward pass, in execution order.
            expected: addresses that the configuration tells.
        """
        self.found, self.expected = tuple(found), tuple(expected)
        right = [name for name in expected if name in set(found)]
        parts = [f"found {len(right)} of {len(expected)} sites" + (f": {spans(right)}" if right else "")]
        if missing := [name for name in expected if name not in set(found)]:
            parts.append(f"not found: {spans(missing)}")
        if more := [name for name in found if name not in set(expected)]:
            parts.append(f"found beside them: {spans(more)}")
        if found and sorted(found) == sorted(expected):
            parts.append(f"run in another order, beginning with {spans(found[:3])}")
        self.difference = "; ".join(parts)
        super().__init__(
            f"{where}: {self.difference}; its family reads this model wrongly, and every number would be wrong: "
            "expected a family whose sites are those of this denoiser"
        )


def check_sites(
    found: Sequence[str],
    site_names: Callable[[dict[str, Any]], tuple[str, ...]],
    config: Mapping[str, Any],
    where: str,
) -> None:
    """Refuses a model whose sites are not those that its configuration tells.

    Args:
        found: addresses of the sites of a recorded forward pass, in execution order.
        site_names: the family's function that returns the addresses of the sites from a configuration.
        config: configuration of the denoiser as it was loaded, defaults included.
        where: folder or hub id of the model.

    Raises:
        SitesError: they differ, or there is none.
        ModelError: the configuration tells none.
    """
    try:
        expected = site_names(dict(config))
    except Exception as error:  # whatever a configuration says that a family has not thought of
        raise ModelError(f"{where}: its configuration is not that of a denoiser of this family: {error!r}") from error
    if not found or tuple(found) != expected:
        raise SitesError(where, found, expected)


def spans(names: Sequence[str]) -> str:
    """Writes addresses down, runs of numbered ones by their ends: ``blocks.0 .. blocks.7``."""
    runs: list[list[str]] = []
    for name in names:
        if runs and _follows(runs[-1][-1], name):
            runs[-1].append(name)
        else:
            runs.append([name])
    written = [run[0] if len(run) == 1 else f"{run[0]} .. {run[-1]}" for run in runs]
    shown = written if len(written) <= 6 else [*written[:5], f"{len(written) - 5} more"]
    return ", ".join(shown)


def _follows(name: str, after: str) -> bool:
    (head, _, number), (head_after, _, number_after) = name.rpartition("."), after.rpartition(".")
    return (
        head == head_after and number.isdecimal() and number_after.isdecimal() and int(number_after) == int(number) + 1
    )

"""Which pictures windows are compared with."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.spec.rules import Strict


class ControlsSpec(Strict):
    """Cells that make a score mean something; clean images and those of the donor prompt are always run."""

    identity: bool = Field(
        True,
        description="Whether each prompt's own encoding is swapped in at every site, which must change nothing.",
        examples=[False],
    )
    all_sites: bool = Field(
        True, description="Whether the donor prompt is also swapped in at every site at once.", examples=[False]
    )
    complement: bool = Field(
        False,
        description="Whether every window gets a second picture: the donor prompt at all sites outside the window.",
        examples=[True],
    )
    random: Annotated[int, Field(ge=0, le=1000)] = Field(
        2, description="Random sets of sites per window size, to compare windows with.", examples=[0]
    )

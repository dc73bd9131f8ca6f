"""What is known of schedulers without torch is what diffusers says."""

from __future__ import annotations

from diffusers.schedulers import KarrasDiffusionSchedulers

from loco_core.diffusion.schedules import KARRAS


def test_schedulers_of_most_families_are_named_as_diffusers_names_them() -> None:
    assert tuple(item.name for item in KarrasDiffusionSchedulers) == KARRAS

"""What is known of schedulers without torch is what diffusers says."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
from diffusers.schedulers import KarrasDiffusionSchedulers

from loco_core.diffusion.schedules import KARRAS, check_noising
from loco_core.errors import ModelError


def test_schedulers_of_most_families_are_named_as_diffusers_names_them() -> None:
    assert tuple(item.name for item in KarrasDiffusionSchedulers) == KARRAS


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("DDIMScheduler", {}, None),
        ("PNDMScheduler", {"prediction_type": "v_prediction"}, None),
        ("EDMEulerScheduler", {}, "EDMEulerScheduler is not of DDPM's noise"),
        ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"}, "prediction_type is flow_prediction"),
    ],
)
def test_attacks_learn_by_the_noise_of_ddpm_alone(name: str, config: dict[str, Any], words: str | None) -> None:
    scheduler = getattr(diffusers, name)(**config)
    check_noising(scheduler, learned=False)
    if words is None:
        check_noising(scheduler, learned=True)
        return
    with pytest.raises(ModelError, match=words):
        check_noising(scheduler, learned=True)


def test_a_scheduler_that_puts_no_noise_on_pictures_is_refused() -> None:
    with pytest.raises(ModelError, match="puts no noise on clean pictures"):
        check_noising(diffusers.FlowMatchEulerDiscreteScheduler(), learned=False)

"""Schedulers of diffusers: made from a configuration, by another name where one is given, and tried before use."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from loco_core.errors import ModelError, did_you_mean, first_line

KARRAS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "DPMSolverSDEScheduler",
    "EDMEulerScheduler",
)
"""Schedulers that most families work with: the names of diffusers' ``KarrasDiffusionSchedulers``, without torch."""


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """Makes a scheduler.

    Args:
        name: diffusers' class name.
        config: its configuration.

    Raises:
        ModelError: there is none of this name, a package that it needs is not installed, or its configuration is wrong.
    """
    import diffusers

    if not is_scheduler(name):
        raise ModelError(f'diffusers has no scheduler "{name}"')
    return _made(name, lambda: getattr(diffusers, name).from_config(dict(config)))


def is_scheduler(name: str) -> bool:
    """Tells whether diffusers has a scheduler of this name."""
    import diffusers

    return name.endswith("Scheduler") and hasattr(diffusers, name)


def named_scheduler(name: str, current: Any) -> Any:
    """Returns the named diffusers scheduler with the current one's configuration.

    Raises:
        ModelError: it does not stand in for the current one, or cannot be made.
    """
    if type(current).__name__ == name:
        return current
    compatible = {cls.__name__: cls for cls in current.compatibles}
    if name not in compatible:
        raise ModelError(f'no scheduler "{name}" for this model{did_you_mean(name, compatible)}')
    return _made(name, lambda: compatible[name].from_config(current.config))


def _made(name: str, make: Any) -> Any:
    try:
        return make()
    except Exception as error:  # each scheduler has checks of its own
        raise ModelError(f"{name} cannot be made: {first_line(error)}") from error


def _more(scheduler: Any, steps: int) -> dict[str, Any]:
    """Returns what a scheduler is to be told beside the number of steps."""
    if scheduler.config.get("use_dynamic_shifting", False):
        return {"mu": 1.0}
    takes = inspect.signature(scheduler.set_timesteps).parameters
    # A time between two steps, which no other number of steps has.
    return {"intermediate_timesteps": None} if "intermediate_timesteps" in takes and steps != 2 else {}


PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a scheduler's ``prediction_type`` may be where pictures are noised by DDPM's schedule."""


def check_noising(scheduler: Any, *, learned: bool) -> None:
    """Refuses what puts no known noise on clean pictures.

    Args:
        scheduler: scheduler of the pipeline.
        learned: whether a model is also to be trained by that noise, which must then be DDPM's (Ho et al., NeurIPS
            2020).

    Raises:
        ModelError: it puts no noise on pictures, or is trained by another kind.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if not hasattr(scheduler, "add_noise"):
        raise ModelError(f"{name} puts no noise on clean pictures; expected one that does, such as DDIMScheduler")
    if not learned:
        return
    if "beta_schedule" not in config:
        raise ModelError(f"{name} is not of DDPM's noise, which attacks learn by; expected one such as DDIMScheduler")
    if (predicts := config.get("prediction_type", "epsilon")) not in PREDICTIONS:
        raise ModelError(f"the scheduler's prediction_type is {predicts}; expected one of {', '.join(PREDICTIONS)}")


def check_schedule(scheduler: Any, steps: int, *, partly: bool) -> None:
    """Refuses what a scheduler cannot do, before anything is drawn with it.

    Args:
        scheduler: scheduler of the pipeline.
        steps: number of steps that are asked for.
        partly: whether something happens at some of the steps, so that steps must be calls of the denoiser.

    Raises:
        ModelError: it cannot take so many steps, or calls the denoiser more often than once a step.
    """
    name = type(scheduler).__name__
    try:
        scheduler.set_timesteps(steps, **_more(scheduler, steps))
    except Exception as error:  # each scheduler has its own
        raise ModelError(
            f"{name} cannot take {steps} steps: {first_line(error)}; expected another number of generation.steps, or "
            "another generation.scheduler"
        ) from error
    # One that distils continuous time counts the end, too.
    calls = len(scheduler.timesteps) - (name == "SCMScheduler")
    if partly and calls != steps:
        raise ModelError(
            f"{name} runs the denoiser {calls} times for {steps} steps, so that interventions at some steps mean "
            "nothing certain; set generation.scheduler to one that runs it once a step, such as DDIMScheduler"
        )

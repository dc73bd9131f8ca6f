"""Whether the hooks of a sweep can be made, which is known before anything runs."""

from __future__ import annotations

import inspect

from loco_core import plugins
from loco_core.errors import SpecError, did_you_mean, located
from orchestrator.spec import SweepSpec
from orchestrator.spec.watching import HookChoice, choice

METHODS = ("on_start", "on_progress", "on_localized", "on_edited", "on_failed", "on_end")


def check_hooks(spec: SweepSpec) -> None:
    """Refuses a hook that is unknown, does not take its settings, or has a method that nothing calls.

    Raises:
        SpecError: there is one; ``loc`` says where in the sweep.
    """
    for i, hook in enumerate(spec.hooks):
        with located("hooks", i):
            _check(choice(hook))


def _check(hook: HookChoice) -> None:
    made = plugins.function("hooks", hook.name, "Hook")
    taken = inspect.signature(made)
    try:
        taken.bind(**hook.settings)
    except TypeError as error:
        names = ", ".join(taken.parameters) or "none"
        raise SpecError(f"hook {hook.name}: {error}; its settings are: {names}") from None
    methods = [name for name in dir(made) if name.startswith("on_")]
    for name in methods:
        if name not in METHODS:
            raise SpecError(f"hook {hook.name}: nothing calls {name}{did_you_mean(name, METHODS)}")
    if not methods:
        raise SpecError(f"hook {hook.name}: its class Hook has no method; expected some of {', '.join(METHODS)}")

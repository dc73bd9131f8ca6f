"""From the keys ``hooks`` and ``notify`` of a sweep to hooks that can be made."""

from __future__ import annotations

import os
from functools import partial
from importlib.util import find_spec

from loco_core import plugins
from orchestrator.hooks.notify import Notifier, problem_of
from orchestrator.hooks.runner import Maker, missing
from orchestrator.spec import SweepSpec
from orchestrator.spec.watching import choice


def makers_of(spec: SweepSpec) -> list[Maker]:
    """Returns the hooks of a sweep; makes none of them.

    Raises:
        SpecError: a hook is unknown, or its file cannot be imported.
    """
    found = []
    for hook in map(choice, spec.hooks):
        make = partial(plugins.function("hooks", hook.name, "Hook"), **hook.settings)
        needs = plugins.declared("hooks", hook.name, "NEEDS", "")
        found.append(Maker(os.path.basename(hook.name), make, needs, hook.name))
    if spec.notify is not None:
        found.append(Maker("notify", partial(Notifier, spec.notify), "apprise", "notify"))
    return found


def hook_warnings(spec: SweepSpec) -> tuple[str, ...]:
    """Returns what keeps hooks and messages of a sweep from working on this machine, a sentence each.

    Raises:
        SpecError: as of `makers_of`.
    """
    makers = makers_of(spec)
    lacking = [maker for maker in makers if maker.needs and find_spec(maker.needs) is None]
    found = [f"hook {maker.name}: {missing(maker)}" for maker in lacking]
    if spec.notify is not None and all(maker.name != "notify" for maker in lacking):
        found += [f"notify: {why}" for address in spec.notify.to if (why := problem_of(address))]
    return tuple(found)

"""Messages to people, by apprise. Addresses hold credentials: they stay in the environment, and in no text."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from loco_core.errors import LocoError
from loco_core.localization.base import Localization
from loco_core.masking import hide, masked
from orchestrator.hooks.events import Failure, RunEnd, RunStart, words_of
from orchestrator.spec.watching import NotifySpec, variable_of
from orchestrator.stages.edit.summary import EditSummary

if TYPE_CHECKING:
    from apprise import Apprise

SHOWN = 10
"""Localizations that a message lists."""
OUTCOMES = {
    "done": "is done",
    "stopped": "was stopped",
    "over_budget": "stopped: its budget is used up",
    "too_many_failures": "stopped: too many units failed",
    "lease_lost": "was taken over by another driver",
    "error": "ended with an error",
}


class NotifyError(LocoError):
    """A message did not go out."""


def send(to: NotifySpec, title: str, body: str, *, good: bool) -> None:
    """Sends a message to all addresses.

    Args:
        to: the addresses.
        title: title of the message.
        body: the message.
        good: whether it is good news.

    Raises:
        NotifyError: some address did not get it; it names the variable, never the address.
        ModuleNotFoundError: apprise is not installed.
    """
    failed = [why for address in to.to if (why := _sent(address, title, body, good=good))]
    if failed:
        raise NotifyError("; ".join(failed))


def problem_of(address: str) -> str | None:
    """Returns why nothing can be sent to an address; None where it looks right. Sends nothing.

    Args:
        address: ``${env:NAME}``.
    """
    found = _opened(address)
    return found if isinstance(found, str) else None


def _sent(address: str, title: str, body: str, *, good: bool) -> str | None:
    found = _opened(address)
    if isinstance(found, str):
        return found
    try:
        done = found.notify(body=masked(body), title=masked(title), notify_type="success" if good else "failure")
    except Exception as error:  # of any of its services; the text may hold the address
        return f"{address} did not take the message ({type(error).__name__})"
    return None if done else f"{address} did not take the message"


def _opened(address: str) -> Apprise | str:
    from apprise import Apprise

    # It writes addresses into its log.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    name = variable_of(address)
    value = os.environ.get(name, "")
    if not value:
        return f"{address}: the environment variable {name} is not set on this machine"
    hide([value])
    found = Apprise()
    if not found.add(value):
        return f"{address}: {name} holds no address that apprise knows; expected one such as slack://.."
    return found


class Notifier:
    """Sends messages on the occasions that a sweep names."""

    def __init__(self, to: NotifySpec) -> None:
        """Takes the addresses, and looks whether messages can be sent.

        Args:
            to: addresses and occasions.
        """
        import apprise  # noqa: F401  so that a package that is missing is said at the start

        self._to, self._failures, self._name = to, 0, ""

    def on_start(self, run: RunStart) -> None:
        """Says that a run begins, and always that the one before died."""
        self._name = run.name
        if run.died is not None:
            self._send(
                f"{run.name}: its driver died",
                f"The driver was seen last at {run.died.isoformat(timespec='seconds')}, and ended without a word. "
                f"A new one goes on with what is left. Results: {run.results}",
                good=False,
            )
        elif "start" in self._to.when:
            what = f"{len(run.models)} models, {len(run.attributes)} attributes"
            self._send(f"{run.name} begins", f"{what}; results: {run.results}", good=True)

    def on_localized(self, found: Localization) -> None:
        """Says what was localized."""
        if "localized" in self._to.when:
            self._send(f"{self._name}: {found.attribute}: {found.outcome}", words_of(found), good=True)

    def on_edited(self, found: EditSummary) -> None:
        """Says what an edit did."""
        if "edited" in self._to.when:
            self._send(f"{self._name}: {found.attribute} is edited", words_of(found), good=True)

    def on_failed(self, failure: Failure) -> None:
        """Says which unit failed first; how many more did, the end says."""
        self._failures += 1
        if "failed" in self._to.when and self._failures == 1:
            what = " ".join(filter(None, (failure.stage, failure.model, failure.attribute)))
            self._send(
                f"{self._name}: a unit failed",
                f"{what}: {failure.error_type}: {failure.error} ({failure.attempts} attempts). The run goes on; "
                "its end says how many failed.",
                good=False,
            )

    def on_end(self, end: RunEnd) -> None:
        """Says how the run ended."""
        if "end" not in self._to.when and not (end.outcome == "error" and "failed" in self._to.when):
            return
        progress = end.progress
        counts = [f"{progress.before + progress.done} units done", f"{progress.left} left"]
        counts += [f"{progress.failed} failed"] if progress.failed else []
        counts += [f"{end.failed_cells} cells without a score"] if end.failed_cells else []
        lines = [", ".join(counts), *([end.error] if end.error else []), *map(words_of, end.localizations[:SHOWN])]
        if len(end.localizations) > SHOWN:
            lines.append(f"and {len(end.localizations) - SHOWN} more")
        good = end.outcome == "done" and not progress.failed and not end.failed_cells
        self._send(f"{self._name} {OUTCOMES[end.outcome]}", "\n".join(lines), good=good)

    def _send(self, title: str, body: str, *, good: bool) -> None:
        send(self._to, f"loco-sweep: {title}", body, good=good)

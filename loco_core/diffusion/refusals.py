"""What the hub refuses, and what to do then: a gated model, a token it does not take, too many requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cache
from threading import Event
from typing import Any, TypeVar

from loco_core.errors import ModelError

logger = logging.getLogger(__name__)
SHORT, LONG = 600.0, 3600.0
"""Seconds for which requests over the hub's limit are made again: where a person waits, and where a worker loads."""
LONGEST_PAUSE = 60.0
WAITS = "the hub allows no more requests for now (429); asking again in %s"
TOO_MANY = 429
T = TypeVar("T")


@cache
def tame() -> None:
    """Keeps the hub's client from telling of every attempt and every file, and from waiting longer than we do."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import _GLOBAL_CLIENT_FACTORY
    from huggingface_hub.utils.tqdm import disable_progress_bars

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    disable_progress_bars()
    # Whoever calls us from Python may have set one, for a proxy.
    make = _GLOBAL_CLIENT_FACTORY

    def client() -> Any:
        made = make()
        hooks = made.event_hooks
        made.event_hooks = {"request": [*hooks["request"], _limit], "response": [*hooks["response"], _refuse]}
        return made

    set_client_factory(client)


def _limit(request: Any) -> None:
    """Gives a request that would wait for an answer for ever the time that the client gives downloads."""
    from huggingface_hub import constants

    # Its calls of the API say that they have no limit, whatever the session's is.
    limits = request.extensions.get("timeout") or {}
    seconds = constants.HF_HUB_DOWNLOAD_TIMEOUT
    request.extensions["timeout"] = {
        kind: seconds if limits.get(kind) is None else limits[kind] for kind in ("connect", "read", "write", "pool")
    }


def _refuse(response: Any) -> None:
    """Ends a request over the hub's limit: the client itself would sleep as long as the hub says, be it a day."""
    from huggingface_hub.errors import HfHubHTTPError

    if response.status_code == TOO_MANY:
        raise HfHubHTTPError("the hub allows no more requests for now (429)", response=response)


def patiently(call: Callable[[], T], seconds: float, ended: Event | None = None) -> T:
    """Calls the hub's client; where the hub allows no more requests, waits as long as it says and calls again.

    Args:
        call: what is called.
        seconds: after how long it is not called again; it does not wait for a call that would come later.
        ended: set by another thread, it ends the wait.

    Raises:
        Exception: whatever the call raises last.
    """
    from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_random_exponential
    from tenacity.nap import sleep_using_event
    from tenacity.stop import stop_when_event_set

    ended = ended or Event()
    backoff = wait_random_exponential(multiplier=1, max=LONGEST_PAUSE)

    def pause(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        # With jitter, as all who wait are told the same.
        return (asked_for(error) if error else 0.0) + float(backoff(state))

    def say(state: RetryCallState) -> None:
        pausing = state.next_action.sleep if state.next_action else 0.0
        logger.warning(WAITS, f"{pausing:.0f} s")

    retrying = Retrying(
        retry=retry_if_exception(lambda error: status_of(error) == TOO_MANY), wait=pause,
        stop=stop_before_delay(seconds) | stop_when_event_set(ended), before_sleep=say, reraise=True,
        sleep=sleep_using_event(ended),
    )  # fmt: skip
    return retrying(call)


def asked_for(error: BaseException) -> float:
    """Returns the seconds that the hub asks to wait, as ``Retry-After`` or its own header says them; else 0."""
    from huggingface_hub.utils._http import parse_ratelimit_headers

    response = _response(error)
    if response is None:
        return 0.0
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    if value:
        try:
            date = parsedate_to_datetime(value)
            # Dates of HTTP are in GMT, those that do not say so, too (RFC 9110, section 5.6.7).
            return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())
        except ValueError:
            return 0.0
    limit = parse_ratelimit_headers(response.headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else 0.0


def status_of(error: BaseException) -> int | None:
    """Returns the HTTP status with which the hub refused; None where it was something else."""
    response = _response(error)
    return None if response is None else int(response.status_code)


def _response(error: BaseException) -> Any:
    """Returns the hub's answer that an error, or what caused it, came from."""
    found = (getattr(each, "response", None) for each in _chain(error))
    return next((each for each in found if hasattr(each, "status_code")), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def refusal(error: BaseException, repository: str) -> ModelError | None:
    """Returns what a person is to do about a refusal of the hub; None where it is none.

    Args:
        error: what the hub's client raised.
        repository: hub id.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import GatedRepoError

    status, page, token = status_of(error), f"{constants.ENDPOINT}/{repository}", get_token()
    gated = any(isinstance(each, GatedRepoError) for each in _chain(error))
    if gated and not token:
        return ModelError(
            f"{repository} is gated ({status}): accept its licence at {page}, and set HF_TOKEN to a token of that "
            "account (on a cluster, secrets: [HF_TOKEN])"
        )
    if gated:
        return ModelError(
            f"{repository} is gated, and the account of the token may not read it ({status}): accept its licence at "
            f"{page}, with the account of HF_TOKEN, or wait until its owners have let you in"
        )
    if status == 401 and token:
        return ModelError(
            f"the hub refuses the token, or has no {repository} for it (401): expected HF_TOKEN to be a valid token of "
            f"{constants.ENDPOINT}/settings/tokens that may read it, and an owner/name that is there"
        )
    if status == 401:
        return ModelError(
            f"the hub has no {repository}, or shows it to some only (401): expected an owner/name that is there; a "
            "private one needs HF_TOKEN"
        )
    if status == 403:
        return ModelError(
            f"the hub forbids reading {repository} (403): expected HF_TOKEN to be a token with read access to it; "
            f"{page} says who has it"
        )
    if status == TOO_MANY:
        return ModelError(
            f"the hub allows no more requests of {repository} for now (429): run the same command "
            "again in some minutes; with HF_TOKEN it allows more, and a cache or mirror needs fewer"
        )
    return None

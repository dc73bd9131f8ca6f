"""Credentials in texts: recognised by value, looks or name, and masked before a text leaves."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable
from functools import cache
from types import TracebackType
from typing import Any

MASK = "***"
SECRET_NAMES = "LOCO_SWEEP_SECRETS"
"""Environment variable with the names of those whose values are secret whatever they are called, between commas."""

_WORDS = "SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL"
_NAME = re.compile(
    rf"(^|_)[A-Z0-9]*({_WORDS})(_|$)|(^|_)(SECRETS|CREDENTIALS|PASSWORDS)(_|$)|(^|_)(PAT|PASS|JWT|DSN|BEARER|COOKIE|NETRC)(_|$)"
    "|(ACCESS|API|PRIVATE|ACCOUNT|SIGNING|ENCRYPTION)_?KEY|_(KEY|PWD|AUTH)$|(^|_)(DATABASE|DB|REDIS|MONGO(DB)?|AMQP)_UR[IL]"
    "|CONNECTION_?STRING|(^|_)AUTHORIZATION$"
)
# Files that hold one, what tokenizers call their tokens, and keys and passes of other kinds.
_NO_NAME = re.compile(
    r"_(PATH|FILE)$|(^|_)(PAD|BOS|EOS|UNK|MASK|PLACEHOLDER|MAX|NUM|CLS|SEP)_TOKEN|(^|_)CACHE_KEY$|(FORWARD|BACKWARD)_PASS$"
)

_LOOKS = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)"
    r"|(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA|AROA|AIDA|AGPA|AIPA|ANPA|ANVA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Z0-9])"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|xox[a-z]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}"
    r"|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}|dckr_pat_[A-Za-z0-9_-]{20,}|nvapi-[A-Za-z0-9_-]{20,}"
    r")|(?<![A-Za-z0-9_-])(?:"
    r"sk-(?=[A-Za-z_-]*[0-9])(?=[a-z0-9_-]*[A-Z])[A-Za-z0-9_-]{16,}"
    r"|eyJ[A-Za-z0-9_-]{5,}+\.eyJ[A-Za-z0-9_-]{5,}+\.[A-Za-z0-9_-]*"
    r")",
    re.DOTALL,
)
# After a colon no port; a secret key of AWS may hold slashes. A user alone is no secret but to web servers. ${NAME}
# stands for one that is elsewhere.
_IN_ADDRESS = re.compile(
    r"(?<=://)[^/\s'\"@:?#]*:(?!\d+(?:[/?#\s]|$)|\$\{\w+\}@)(?:(?!://)[^\s'\"@])++@(?:[^/\s'\"@]*@)?"
    r"|(?:(?<=https://)|(?<=http://))(?!\$\{\w+\}@)[^/\s'\"@:?#]+@"
)
_HEADER = re.compile(
    r"(?i)(?<![a-z])(authorization\\*[\"']?\s*[:=]\s*b?\\*[\"']?(?:bearer|basic|token|digest|negotiate|api-?key)\s+)"
    r"[^\s\"'\\,;]{8,}"
)
# Elsewhere they are words as others; names of models have slashes, or no capital letters.
_BEARER = re.compile(
    r"\b([Bb]earer\s+(?=[A-Za-z._~+-]*[0-9])|[Bb]asic\s+(?=[A-Za-z._~+-]*[0-9])(?=[a-z0-9._~+-]*[A-Z]))"
    r"[A-Za-z0-9._~+-]{20,}+(?!/)=*"
)
# NAME=VALUE as in an environment or an address, 'NAME': 'VALUE' as in a dictionary or JSON (also of bytes, and in other
# JSON), NAME: VALUE as in YAML and headers.
_NAMED = re.compile(
    r"(?<![A-Za-z0-9_-])(?P<name>[A-Za-z0-9_-]++)(?:\s?=(?!=)\s?|\\*[\"']\s*:\s*|(?P<plain>:[ \t]+))"
    r"(?:[bBrRuU]{0,2}(?P<quote>\\*[\"']))?"
)
_QUOTED = re.compile(r"[^\"'\n]*[^\"'\n\\]")
_BARE = re.compile(r"[^\s\"',;&)\]}]+")
_LAST = re.compile(r"\\*[\"']?[ \t]*[,}]?[ \t]*(?:\n|\\n|\Z)")

SHORTEST = 8
"""Letters of a credential that is known by its name or value: words and numbers of our field are short."""
_PLAIN_VALUE = re.compile(
    r"(?i:none|null|true|false|yes|no|on|off|)|[-+]?\d{1,7}|[-+]?\d*\.\d+(?:[eE][-+]?\d+)?|\$\{\w+\}|\$\w+|<[^<>]*>"
)
_PATH = re.compile(r"(?:~|\.{1,2})?/[^+=\s]*")


_known: set[str] = set()


def hide(values: Iterable[str]) -> None:
    """Lets `masked` recognise values that this process knows to be secret, wherever they stand.

    Args:
        values: the secrets; of less than eight letters they are words, and left alone.
    """
    _known.update(value for value in values if len(value) >= SHORTEST)


def own_secrets() -> dict[str, str]:
    """Returns the environment variables that `SECRET_NAMES` names, as far as this process has them."""
    names = os.environ.get(SECRET_NAMES, "").split(",")
    return {name: os.environ[name] for name in names if name in os.environ}


def hide_environment() -> None:
    """Hides the values of environment variables that are called as credentials are, or named in `SECRET_NAMES`."""
    hide(own_secrets().values())
    hide(
        value
        for name, value in os.environ.items()
        # A word without a digit, such as a user's name, may stand in any sentence.
        if is_credential_name(name) and not is_plain_value(value) and re.search(r"\d", value)
    )


def masked(text: str) -> str:
    """Returns a text with three stars in place of every credential that is recognised.

    Args:
        text: text to be printed or stored.
    """
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, MASK)
    text = _LOOKS.sub(MASK, text)
    text = _IN_ADDRESS.sub(f"{MASK}@", text)
    text = _HEADER.sub(rf"\1{MASK}", text)
    text = _BEARER.sub(rf"\1{MASK}", text)
    return _without_named(text)


def _without_named(text: str) -> str:
    parts, done = [], 0
    for found in _NAMED.finditer(text):
        # What stands in the value of a name that is none is looked at as well.
        if found.start() < done or not is_credential_name(found["name"]):
            continue
        value = (_QUOTED if found["quote"] else _BARE).match(text, found.end())
        if value is None or len(value[0]) < SHORTEST or is_plain_value(value[0]):
            continue
        if found["plain"] and not _stands_alone(text, value):
            continue
        parts += [text[done : value.start()], MASK]
        done = value.end()
    return "".join([*parts, text[done:]])


def _stands_alone(text: str, value: re.Match[str]) -> bool:
    """Tells the value of a key from the sentence that goes on after a colon."""
    if any(each.isspace() for each in value[0]):
        return False
    return any(each.isdigit() for each in value[0]) or _LAST.match(text, value.end()) is not None


def is_plain_value(value: str) -> bool:
    """Tells whether a value is no credential whatever its name is: a truth, a number, a path, ``${NAME}``.

    Args:
        value: value of a variable.
    """
    if _PLAIN_VALUE.fullmatch(value):
        return True
    if not _PATH.fullmatch(value):
        return False
    # A key in base64 may begin with a slash.
    return bool(re.search(r"[._-]", value)) or not (re.search(r"[0-9]", value) and re.search(r"[A-Z]", value))


def has_password(address: str) -> bool:
    """Tells whether an address has a credential in it; names of folders are no names of variables.

    Args:
        address: such as ``s3://bucket/folder``.
    """
    return bool(_LOOKS.search(address) or _IN_ADDRESS.search(address))


def is_credential_name(name: str) -> bool:
    """Tells whether a variable is called as credentials are.

    Args:
        name: such as ``GITHUB_PAT``.
    """
    upper = re.sub(r"[^A-Z0-9]", "_", name.upper())
    return bool(_NAME.search(upper)) and not _NO_NAME.search(upper)


def holds_credential(text: str) -> bool:
    """Tells whether a text has a credential in it, as far as one can see."""
    return masked(text) != text


@cache
def mask_everything() -> None:
    """Masks what this process logs, its warnings, and tracebacks that end it or one of its threads."""
    hide_environment()
    make, write = logging.getLogRecordFactory(), warnings.formatwarning

    def masking(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            record.msg, record.args = masked(record.getMessage()), None
        except Exception:  # letters and arguments that do not fit: logging says so itself, and goes on
            return record
        if record.exc_info and record.exc_info[0]:
            # Formatters take this where it is there.
            record.exc_text = masked("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return record

    def written(*args: Any, **kwargs: Any) -> str:
        return masked(write(*args, **kwargs))

    logging.setLogRecordFactory(masking)
    warnings.formatwarning = written
    sys.excepthook = _print_masked
    threading.excepthook = _print_of_thread
    sys.unraisablehook = _print_unraisable


def _print_masked(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    print(masked("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _print_of_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_type is not SystemExit:
        print(f"Exception in thread {found.thread.name if found.thread else '?'}:", file=sys.stderr)
        _print_masked(found.exc_type, found.exc_value, found.exc_traceback)


def _print_unraisable(found: sys.UnraisableHookArgs) -> None:
    print(masked(f"{found.err_msg or 'Exception ignored in'}: {found.object!r}"), file=sys.stderr)
    _print_masked(found.exc_type, found.exc_value, found.exc_traceback)

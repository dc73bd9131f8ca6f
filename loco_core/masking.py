"""Credentials in texts: recognised by how they look and by what they are called, and masked before a text leaves."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from functools import cache
from types import TracebackType

MASK = "***"

_WORDS = "SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL"
_NAME = re.compile(
    rf"(^|_)[A-Z0-9]*({_WORDS})(_|$)|(^|_)(SECRETS|CREDENTIALS|PASSWORDS)(_|$)|(^|_)(PAT|PASS|JWT|DSN|BEARER|COOKIE|NETRC)(_|$)"
    "|(ACCESS|API|PRIVATE|ACCOUNT|SIGNING|ENCRYPTION)_?KEY|_(KEY|PWD|AUTH)$|(^|_)(DATABASE|DB|REDIS|MONGO(DB)?|AMQP)_UR[IL]"
    "|CONNECTION_?STRING"
)

_LOOKS = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)"
    r"|(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA|AROA|AIDA|AGPA|AIPA|ANPA|ANVA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Z0-9])"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|xox[a-z]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}"
    r"|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}|dckr_pat_[A-Za-z0-9_-]{20,}|nvapi-[A-Za-z0-9_-]{20,}"
    r"|eyJ[A-Za-z0-9_-]{5,}\.eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*"
    r")",
    re.DOTALL,
)
# After a colon no port; a secret key of AWS may hold slashes. A user alone is no secret but to web servers.
_IN_ADDRESS = re.compile(
    r"(?<=://)(?:[^/\s'\"@:]*:(?!\d+(?:[/\s]|$))[^\s'\"@]+@(?:[^/\s'\"@]*@)?)|(?<=https://)[^/\s'\"@:]+@|(?<=http://)[^/\s'\"@:]+@"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)(\s+)(?=[A-Za-z0-9._~+/-]*[0-9])[A-Za-z0-9._~+/-]{16,}=*")
# NAME=VALUE as in an environment or an address, 'NAME': 'VALUE' as in a dictionary or JSON.
_ASSIGNED = re.compile(
    r"(?P<name>[A-Za-z][A-Za-z0-9_-]*)(?P<sign>\s?=\s?|[\"']\s*:\s*)(?P<quote>[\"']?)(?P<value>(?(quote)[^\"'\n]+|[^\s\"',;&)\]}]+))"
)


def masked(text: str) -> str:
    """Returns a text with three stars in place of every credential that is recognised.

    Args:
        text: to be printed or stored.
    """
    text = _LOOKS.sub(MASK, text)
    text = _IN_ADDRESS.sub(f"{MASK}@", text)
    text = _BEARER.sub(rf"\1\2{MASK}", text)
    return _ASSIGNED.sub(_assigned, text)


def _assigned(found: re.Match[str]) -> str:
    if not is_credential_name(found["name"]):
        return found[0]
    return f"{found['name']}{found['sign']}{found['quote']}{MASK}"


def is_credential_name(name: str) -> bool:
    """Tells whether a variable is called as credentials are.

    Args:
        name: such as ``GITHUB_PAT``.
    """
    upper = re.sub(r"[^A-Z0-9]", "_", name.upper())
    return bool(_NAME.search(upper))


def holds_credential(text: str) -> bool:
    """Tells whether a text has a credential in it, as far as one can see."""
    return masked(text) != text


@cache
def mask_everything() -> None:
    """Masks what this process logs, and tracebacks that end it."""
    make = logging.getLogRecordFactory()

    def masking(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.msg, record.args = masked(record.getMessage()), None
        if record.exc_info and record.exc_info[0]:
            # Formatters take this where it is there.
            record.exc_text = masked("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return record

    logging.setLogRecordFactory(masking)
    sys.excepthook = _print_masked


def _print_masked(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(masked("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)

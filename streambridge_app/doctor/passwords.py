"""
Keep the passwords of the settings out of the report.

Services and drivers put addresses and whole connection strings into their errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

from django.conf import settings

from ..runtime import redact

HIDDEN: Final = "***"

_SECRET_NAME: Final = re.compile(r"passw|secret|token|encryption_key", re.IGNORECASE)
_IN_ADDRESS: Final = re.compile(r"(://[^\s/:@'\"]*:)([^\s/'\"]+)(?=@)")
_IN_CONNECTION_STRING: Final = re.compile(r"(\bpassword\s*=\s*)('[^']*'|[^\s'\"]+)", re.IGNORECASE)


def configured() -> set[str]:
    """Return the passwords and keys in the settings of databases and channel layers."""
    found: set[str] = set()
    for name in ("DATABASES", "CHANNEL_LAYERS"):
        found.update(_secrets(getattr(settings, name, None) or {}))
    found |= {quote(secret, safe="") for secret in found}
    return found - {""}


def without(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` without any of ``secrets``, nor what looks like a password or a token."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        text = text.replace(secret, HIDDEN)
    text = _IN_ADDRESS.sub(rf"\1{HIDDEN}", text)
    text = _IN_CONNECTION_STRING.sub(rf"\1{HIDDEN}", text)
    return redact(text)


def _secrets(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _secrets(inner, str(key))
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _secrets(inner, name)
    elif isinstance(value, str | bytes):
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        if _SECRET_NAME.search(name):
            yield text
        for match in _IN_ADDRESS.finditer(text):
            yield from (match[2], unquote(match[2]))

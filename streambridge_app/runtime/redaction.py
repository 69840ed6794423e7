"""
Keep the tokens of runs out of logs.

An EventSource can't send headers, so its token is part of an address, and servers write addresses
to their logs. This never changes what a request means, only what is written about it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Final

__all__ = ["RedactTokens", "install", "redact"]

LOGGERS: Final = (
    "daphne.server",
    "django.channels.server",
    "django.server",
    "gunicorn.access",
    "gunicorn.error",
    "uvicorn.access",
    "uvicorn.asgi",
    "uvicorn.error",
)
"""Those that write addresses with their query: Uvicorn's, Gunicorn's, ``runserver``'s with and
without ASGI, and Daphne's for an application that it kills. The access log of Daphne's command
line is no logger: :func:`streambridge_app.asgi.flow_control` takes care of it."""

# Any letter of a parameter's name may be written as its code, and still be that letter.
_NAME: Final = "".join(f"(?:{letter}|%(?i:{ord(letter):02x}))" for letter in "token")
_TOKEN: Final = re.compile(rf"""(?<![\w-])({_NAME}=)[^&#\s"']+""")


def redact(text: str) -> str:
    """Return ``text`` with the value of each query parameter ``token`` replaced by ``***``."""
    return _TOKEN.sub(r"\1***", text)


class RedactTokens(logging.Filter):
    """Take tokens out of log records: add it to other loggers or handlers that write addresses."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, Mapping):
            record.msg, record.args = redact(record.getMessage()), None
        else:
            # Message and arguments stay apart: Uvicorn's formatter wants its arguments.
            record.msg = _redacted(record.msg)
            record.args = record.args and tuple(map(_redacted, record.args))
        return True


_FILTER = RedactTokens()


def install() -> None:
    """Have every logger of :data:`LOGGERS` leave tokens out. Idempotent."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)


def _redacted(value: object) -> object:
    # A mapping is the scope of a request, in Uvicorn's trace.
    return redact(str(value)) if isinstance(value, str | Mapping) else value

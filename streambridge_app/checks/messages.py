"""The messages of the checks, and the options that they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.core.checks import Error, Warning
from django.core.exceptions import ImproperlyConfigured

from ..conf import OPTIONS, given

TAG: Final = "streambridge"


def error_of(number: str, message: str, hint: str) -> Error:
    return Error(message, hint=hint, id=f"{TAG}.{number}")


def warning_of(number: str, message: str, hint: str) -> Warning:
    return Warning(message, hint=hint, id=f"{TAG}.{number}")


def given_options() -> dict[str, Any]:
    """Return what the project has set; nothing if that is no dict."""
    try:
        return given()
    except ImproperlyConfigured:
        return {}  # E000 says so


def value(name: str) -> Any:
    """Return the value in force, or None if it is one that the checks of values report."""
    option = OPTIONS[name]
    value = given_options().get(name, option.default)
    return value if option.valid(value) else None


def listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(map(repr, sorted(names)))

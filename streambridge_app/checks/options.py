"""The values of ``STREAMBRIDGE``: those that other settings have nothing to do with."""

from __future__ import annotations

import difflib
from typing import Any

from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..access import Authorizer
from ..conf import NAME, OPTIONS, given
from ..contract import StreamBridge
from .messages import error_of, given_options, listed, value


def check_type(**kwargs: Any) -> list[CheckMessage]:
    """E000."""
    try:
        given()
    except ImproperlyConfigured as error:
        return [error_of("E000", str(error), f"For example: {NAME} = {{'HEARTBEAT_INTERVAL': 5}}.")]
    return []


def check_values(**kwargs: Any) -> list[CheckMessage]:
    """E001 and following: the numbers of the options."""
    options = given_options()
    return [
        error_of(
            f"E{option.number:03}",
            option.complaint(options[name]),
            f"{option.help} Default: {option.default!r}.",
        )
        for name, option in OPTIONS.items()
        if name in options and not option.valid(options[name])
    ]


def check_unknown(**kwargs: Any) -> list[CheckMessage]:
    """E100."""
    return [
        error_of("E100", f"{NAME} has no option {name!r}.", _hint_for_unknown(str(name)))
        for name in given_options()
        if name not in OPTIONS
    ]


def check_backend(**kwargs: Any) -> list[CheckMessage]:
    """E103."""
    return _check_class("E103", "BACKEND", StreamBridge)


def check_authorizer(**kwargs: Any) -> list[CheckMessage]:
    """E104."""
    return _check_class("E104", "AUTHORIZER", Authorizer)


def check_encoder(**kwargs: Any) -> list[CheckMessage]:
    """E150."""
    path = value("ENCODER")
    if path is None:
        return []
    try:
        if callable(import_string(path)):
            return []
    except ImportError as error:
        message = f"{NAME}['ENCODER'] can't be imported: {error}."
    else:
        message = f"{NAME}['ENCODER'] is {path!r}, which can't be called."
    hint = "Name a function: given a value, it returns what to publish, or raises TypeError."
    return [error_of("E150", message, hint)]


def _hint_for_unknown(name: str) -> str:
    close = difflib.get_close_matches(name.upper(), OPTIONS, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"The options are {listed(OPTIONS)}."


def _check_class(number: str, name: str, base: type) -> list[CheckMessage]:
    path = value(name)
    if path is None:
        return []
    try:
        found = import_string(path)
    except ImportError as error:
        message = f"{NAME}[{name!r}] can't be imported: {error}."
    else:
        if isinstance(found, type) and issubclass(found, base):
            return []
        message = f"{NAME}[{name!r}] is {path!r}, which is no subclass of {base.__name__}."
    return [error_of(number, message, f"Default: {OPTIONS[name].default!r}.")]

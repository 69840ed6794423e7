"""The settings: what ``manage.py check`` says about this app's."""

from __future__ import annotations

from django.core import checks as django_checks

from .. import checks
from .findings import FAIL, WARNING, Found, Problem


def check_settings() -> Found:
    """Run the system checks of this app, without those that the project silences."""
    messages = [
        message
        for message in django_checks.run_checks(tags=[checks.TAG])
        if not message.is_silenced() and message.level >= django_checks.WARNING
    ]
    problems = tuple(
        Problem(
            FAIL if message.level >= django_checks.ERROR else WARNING,
            f"{message.id}: {message.msg}",
            message.hint or "",
        )
        for message in messages
    )
    return Found(f"{len(checks.CHECKS)} system checks", problems)

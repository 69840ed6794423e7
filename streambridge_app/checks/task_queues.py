"""Where tasks run that are sent."""

from __future__ import annotations

import sys
from typing import Any, Final

from django.conf import settings
from django.core import mail
from django.core.checks import CheckMessage

from .messages import warning_of

_IMMEDIATE: Final = "django.tasks.backends.immediate.ImmediateBackend"


def check_tasks_run_elsewhere(**kwargs: Any) -> list[CheckMessage]:
    """W040."""
    if hasattr(mail, "outbox"):  # of a test run, where it is what one wants
        return []
    eager = []
    if getattr(settings, "CELERY_TASK_ALWAYS_EAGER", False):
        eager.append(("CELERY_TASK_ALWAYS_EAGER is set", "Unset it, and start a Celery worker."))
    if _has_immediate_tasks():
        eager.append(
            (
                "TASKS names ImmediateBackend",
                "Name a backend in TASKS that has workers, outside tests.",
            )
        )
    return [
        warning_of(
            "W040",
            f"{why}: a request that sends a task waits until the task has ended, and a page gets "
            "all events of its run at once.",
            hint,
        )
        for why, hint in eager
    ]


def _has_immediate_tasks() -> bool:
    """Return whether TASKS, or Django's default for it, lets streamed tasks run at once."""
    backends = getattr(settings, "TASKS", {})  # comes with Django 6.0
    if not any(one.get("BACKEND") == _IMMEDIATE for one in backends.values()):
        return False
    chosen = settings.is_overridden("TASKS")  # type: ignore[misc] # unknown to its stubs
    return chosen or "streambridge_app.contrib.tasks" in sys.modules

"""What the commands share: errors in one sentence, remarks apart from output, and async input."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from ..conf import streambridge_settings
from ..exceptions import StreamBridgeError
from ..log import committing
from ..runtime import background

T = TypeVar("T")


class BridgeCommand(BaseCommand):
    """A command whose expected failures are a sentence and an exit status, not a traceback."""

    # They start within a pipeline: the warnings of `manage.py check` would be in its way.
    requires_system_checks = ()
    verbosity = 1

    def execute(self, *args: Any, **options: Any) -> str | None:
        self.verbosity = options["verbosity"]
        try:
            using = streambridge_settings.DATABASE
            with committing(using) if using in connections else contextlib.nullcontext():
                return super().execute(*args, **options)
        except (StreamBridgeError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error

    def remark(self, text: str) -> None:
        """Write a line to standard error, unless the verbosity is 0."""
        if self.verbosity:
            self.stderr.write(text, style_func=str)


def awaited(items: AsyncIterator[T]) -> Iterator[T]:
    """Yield what comes over the process's background loop."""
    while True:
        try:
            yield background.run(anext(items))  # type: ignore[arg-type]
        except StopAsyncIteration:
            return

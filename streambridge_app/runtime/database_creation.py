"""
Let the bridge go before a test database is made, copied or taken down.

The bridge has threads with database connections of their own. PostgreSQL drops no database, and
copies none, that anybody is connected to; and a connection that was made before the test database
would go on writing to the real one. Neither Django's test runner nor pytest-django says when that
comes: no signal is sent. So the methods of ``BaseDatabaseCreation`` that both of them call are
wrapped, once, when the first bridge of a process is made. They are documented for authors of
database backends and are the same from Django 5.2 to 6.1; if a later one has others, nothing is
wrapped, and a test of ours fails.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

METHODS: Final = ("create_test_db", "clone_test_db", "destroy_test_db", "setup_worker_connection")

_wrapped = False


def before_test_databases(let_go: Callable[[], None]) -> None:
    """Have ``let_go`` called before each change of the test databases; once per process."""
    global _wrapped
    if _wrapped:
        return
    _wrapped = True
    try:
        from django.db.backends.base.creation import BaseDatabaseCreation
    except ImportError:
        return
    for name in METHODS:
        method = getattr(BaseDatabaseCreation, name, None)
        if method is not None:
            setattr(BaseDatabaseCreation, name, _after(let_go, method))


def _after(let_go: Callable[[], None], method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        let_go()
        return method(*args, **kwargs)

    return wrapper

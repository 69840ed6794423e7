"""Give events their numbers and insert them: for several runs at once, on either database."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence

from django.db.backends.base.base import BaseDatabaseWrapper

from .sql import postgresql, sqlite
from .writes import Write, Written


def advance(
    connection: BaseDatabaseWrapper, writes: Sequence[Write], at: datetime.datetime
) -> Iterable[Written]:
    """
    Append to those of the runs that are there and running; at most one write for each.

    Inside the caller's transaction or in one of its own. Rows are locked in the order of their
    primary keys. The events, and an end, are of the time ``at``.
    """
    if connection.vendor == "postgresql":
        return postgresql.advance(connection, writes, at)
    return sqlite.advance(connection, writes, at)

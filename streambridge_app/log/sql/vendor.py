"""What PostgreSQL and SQLite say in words of their own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

NOW: Final = {
    "postgresql": "(date_part('epoch', clock_timestamp()) * 1000)::bigint",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
}
"""
Milliseconds since 1970, by vendor.

The database's clock is the clock of all leases: all processes share it.
"""

LONGEST_WAIT: Final = 86_400_000
"""Milliseconds beside a lease that an append leaves to a released run: a day, for slow queues."""

RENEWAL: Final = 5_000
"""
Milliseconds from one renewal of a lease to the next, or a third of a shorter one.

So that a worker which is gone is known to be silent long before its lease is over.
"""

_LEFT_WHEN_DUE: Final = (
    f"CASE WHEN lease_ms < {3 * RENEWAL} THEN lease_ms * 2 / 3 ELSE lease_ms - {RENEWAL} END"
)

LEASE_IS_FRESH: Final = {
    vendor: f"(lease_expires - {now} BETWEEN {_LEFT_WHEN_DUE} AND lease_ms)"
    for vendor, now in NOW.items()
}
"""
Whether a renewal may wait: an unchanged column leaves PostgreSQL's index alone. Null: no lease.

More than a lease is left after the clock has jumped back.
"""

LEASE_WILL_DO: Final = {
    vendor: f"(lease_expires - {now} BETWEEN {_LEFT_WHEN_DUE} AND lease_ms + {LONGEST_WAIT})"
    for vendor, now in NOW.items()
}
"""
The same to who appends: more than a lease is left as well while a released run waits.

A clock that has jumped back by less is for the keeper of the run's handle to notice.
"""


def among(vendor: str) -> str:
    """Return the SQL to compare a value with a list that :func:`listed` has made."""
    return "= ANY(%s)" if vendor == "postgresql" else "IN (SELECT value FROM json_each(%s))"


def listed(values: Iterable[int | str], vendor: str) -> Any:
    """Return the parameter for :func:`among`."""
    return list(values) if vendor == "postgresql" else json.dumps(list(values))

"""The clock of all leases, as SQL: the database's own, which all processes share."""

from __future__ import annotations

from typing import Final

NOW: Final = {
    "postgresql": "(date_part('epoch', clock_timestamp()) * 1000)::bigint",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
}
"""Milliseconds since 1970, by vendor."""

LEASE_IS_FRESH: Final = {
    vendor: f"(lease_expires - {now} BETWEEN lease_ms * 2 / 3 AND lease_ms)"
    for vendor, now in NOW.items()
}
"""
Whether a renewal may wait: an unchanged column leaves PostgreSQL's index alone. Null: no lease.

More than a lease is left after the clock has jumped back.
"""

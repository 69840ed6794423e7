"""
Events and keys whose run is gone, which nobody would ever read or delete.

We leave none; earlier versions did where runs were deleted by the ORM, and hands may. Such rows are
given a run again, one whose deletion was begun, so that the sweeper deletes them like any other's.

All functions are synchronous and work on the caller's connection to the database ``using``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from django.db import connections
from django.utils import timezone

from ..models import Event, EventKey, Run

RUNS_AT_ONCE: Final = 1_000
"""Runs that one query looks at, and that one transaction makes."""

# It steps from run to run in the index: of each, one event is looked at.
_NEXT_RUNS: Final = f"""
    WITH RECURSIVE found (run) AS (
        SELECT min(run_id) FROM {{table}} WHERE run_id > %s
        UNION ALL
        SELECT (SELECT min(run_id) FROM {{table}} WHERE run_id > run) FROM found
        WHERE run IS NOT NULL
    )
    SELECT run, EXISTS (SELECT 1 FROM {Run._meta.db_table} WHERE id = run) FROM found
    WHERE run IS NOT NULL LIMIT %s
"""


def find(using: str) -> list[int]:
    """
    Return the primary keys of runs that are gone, but have events or keys left.

    To find them is to look once at every run there is, in queries of :data:`RUNS_AT_ONCE`.
    That takes microseconds for each, which is too much for every sweep of a server.
    """
    found: set[int] = set()
    for model in (Event, EventKey):
        query = _NEXT_RUNS.format(table=model._meta.db_table)
        page: list[tuple[int, bool]] = [(0, True)]
        while page:
            with connections[using].cursor() as cursor:
                cursor.execute(query, (page[-1][0], RUNS_AT_ONCE))
                page = cursor.fetchall()
            found.update(key for key, is_there in page if not is_there)
    return sorted(found)


def adopt(orphaned: Sequence[int], using: str) -> None:
    """
    Give orphans a run again, one whose deletion was begun: the next sweep goes on with it.

    So what has no row to lock goes in bounded transactions all the same, and by one process.
    """
    now = timezone.now()
    for start in range(0, len(orphaned), RUNS_AT_ONCE):
        some = orphaned[start : start + RUNS_AT_ONCE]
        Run.objects.using(using).bulk_create(
            [Run(id=key, run_id=None, epoch=0, created_at=now) for key in some],
            ignore_conflicts=True,  # another process has adopted it
        )

"""The time in which a run that its producer has released waits for the next one."""

from __future__ import annotations

from django.db import connections

from ..contract import RUNNING
from ..models import Run
from .patience import condition
from .sql.vendor import NOW


def extend_lease(key: int, generation: int, wait_ms: int, using: str) -> None:
    """
    Let the lease of a run last longer this once, until somebody claims it.

    Its length stays what it is: the next producer's lease, and each renewal, have that.

    Changes nothing if the run has no lease, has ended or was taken over. Commits by itself.

    Args:
        key: primary key of the run.
        generation: the one that releases it.
        wait_ms: milliseconds that the lease gets beside its full length.
        using: alias of the database.
    """
    connection = connections[using]
    patient, timeout = condition(connection)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            UPDATE {Run._meta.db_table} SET
                lease_expires = {NOW[connection.vendor]} + lease_ms + %s
            WHERE {patient} AND id = %s AND generation = %s AND status = '{RUNNING}'
            """,
            (wait_ms, *timeout, key, generation),
        )

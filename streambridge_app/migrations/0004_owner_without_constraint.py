"""
Drop the constraint that runs made by earlier versions have on their owners.

It keeps the log from living in another database than the users.
"""

import copy
from typing import Any

from django.conf import settings
from django.db import migrations


def drop_constraint(apps: Any, schema_editor: Any) -> None:
    """Drop it where there is one. On SQLite that makes the table anew, with all that is in it."""
    run = apps.get_model("streambridge_app", "Run")
    connection = schema_editor.connection
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, run._meta.db_table)
        if not any(constraint["foreign_key"] for constraint in found.values()):
            return
        owner = run._meta.get_field("owner")
        constrained = copy.copy(owner)
        constrained.db_constraint = True
        # A number that was given must not be given again: SQLite counts with the table.
        last = _last_number(cursor, connection, run)
        schema_editor.alter_field(run, constrained, owner)
        if last is not None:
            cursor.execute(
                "UPDATE sqlite_sequence SET seq = max(seq, %s) WHERE name = %s",
                [last, run._meta.db_table],
            )
            cursor.execute(
                "INSERT INTO sqlite_sequence (name, seq) SELECT %s, %s "
                "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = %s)",
                [run._meta.db_table, last, run._meta.db_table],
            )


def _last_number(cursor: Any, connection: Any, run: Any) -> Any:
    if connection.vendor != "sqlite":
        return None
    cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = %s", [run._meta.db_table])
    row = cursor.fetchone()
    return row and row[0]


class Migration(migrations.Migration):
    dependencies = [
        ("streambridge_app", "0003_retention"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RunPython(drop_constraint, migrations.RunPython.noop),
    ]

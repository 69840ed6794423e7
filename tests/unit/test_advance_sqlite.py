"""What an append on SQLite says: the statements that insert many rows, and the time of them."""

import datetime
import re

import pytest
from django.db import connections
from django.db.backends.sqlite3.base import DatabaseWrapper

from streambridge_app.log.sql.sqlite import _INSERTED, _INSERTIONS, _adapted


@pytest.mark.parametrize("shared", _INSERTIONS)
def test_only_shared_values_have_a_number(shared: int) -> None:
    """Since Python 3.12 each value would cost a look at all that have one: ten times the commit."""
    for width, statement in _INSERTIONS[shared]:
        rows = width // (_INSERTED - shared)
        marks = re.findall(r"\?\d*", statement.partition("VALUES")[2])
        row = [*(f"?{number}" for number in range(1, shared + 1)), *["?"] * (_INSERTED - shared)]
        assert marks == row * rows


@pytest.mark.parametrize("time_zone", [None, "Asia/Tokyo"])
@pytest.mark.parametrize("microsecond", [0, 7, 999_999])
def test_a_time_is_what_django_stores(time_zone: str | None, microsecond: int) -> None:
    connection = DatabaseWrapper(
        {**connections["default"].settings_dict, "TIME_ZONE": time_zone}, "default"
    )
    at = datetime.datetime(2026, 11, 26, 23, 59, 58, microsecond, datetime.UTC)
    adapted = _adapted(at, connection)
    assert adapted == connection.ops.adapt_datetimefield_value(at)
    assert adapted is not None
    assert adapted.startswith("2026-11-26 23" if time_zone is None else "2026-11-27 08")

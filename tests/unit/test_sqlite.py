"""What is said about settings of SQLite."""

import pytest

from streambridge_app.doctor.sqlite import judge

GOOD = {"journal_mode": "wal", "transaction_mode": "IMMEDIATE", "busy_ms": 20_000, "writable": True}


def test_good_settings() -> None:
    found = judge(**GOOD, file="log.sqlite3")
    assert found.problems == ()
    assert found.text == "WAL, IMMEDIATE transactions, waits 20 s for a lock, writable"


@pytest.mark.parametrize(
    ("change", "status", "complaint"),
    [
        ({"journal_mode": "delete"}, "fail", "readers and the writer wait"),
        ({"transaction_mode": "DEFERRED"}, "fail", "database is locked"),
        ({"busy_ms": 100}, "warning", "waits 0.1 s"),
        ({"writable": False}, "fail", "may not write to log.sqlite3"),
    ],
)
def test_each_bad_setting(change: dict, status: str, complaint: str) -> None:
    (problem,) = judge(**{**GOOD, **change}, file="log.sqlite3").problems
    assert problem.status == status
    assert complaint in problem.text
    assert problem.hint

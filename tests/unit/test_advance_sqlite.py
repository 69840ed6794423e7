"""The statements that insert many rows on SQLite."""

import re

import pytest

from streambridge_app.advance_sqlite import _INSERTED, _INSERTIONS


@pytest.mark.parametrize("shared", _INSERTIONS)
def test_only_shared_values_have_a_number(shared: int) -> None:
    """Since Python 3.12 each value would cost a look at all that have one: ten times the commit."""
    for width, statement in _INSERTIONS[shared]:
        rows = width // (_INSERTED - shared)
        marks = re.findall(r"\?\d*", statement.partition("VALUES")[2])
        row = [*(f"?{number}" for number in range(1, shared + 1)), *["?"] * (_INSERTED - shared)]
        assert marks == row * rows

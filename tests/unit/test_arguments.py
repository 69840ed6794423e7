import pytest

from streambridge_app.arguments import (
    MAX_DELAY,
    check_delay,
    check_keep,
    check_subscription,
)
from streambridge_app.exceptions import InvalidCursor, InvalidRunId


def test_keep():
    assert check_keep(0) == 0
    with pytest.raises(ValueError, match="keep must be 0 or more events, not -1"):
        check_keep(-1)


def test_delay():
    assert check_delay(0).total_seconds() == 0
    assert check_delay(1.5).total_seconds() == 1.5
    assert check_delay(MAX_DELAY)
    for wrong in (-0.1, float("nan"), float("inf"), MAX_DELAY + 1):
        with pytest.raises(ValueError, match="delay must be 0 to"):
            check_delay(wrong)


def test_subscription():
    check_subscription("run", "now", 0.1)
    with pytest.raises(InvalidRunId):
        check_subscription("", None, 1)
    with pytest.raises(InvalidCursor):
        check_subscription("run", "x", 1)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="heartbeat_interval must be more than 0"):
            check_subscription("run", None, wrong)

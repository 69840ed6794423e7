"""A fault that lasts is said once, and again after a while."""

import pytest

from streambridge_app import complaints
from streambridge_app.complaints import Complaints
from streambridge_app.exceptions import LogOutdated, LogUnavailable


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("ERROR", logger="streambridge")
    return caplog


def test_each_kind_is_said_once(said: pytest.LogCaptureFixture) -> None:
    looking = Complaints("Looking failed.")
    for _ in range(3):
        looking.about(LogOutdated("Migrate."))
        looking.about(KeyError("other"))
        looking.about(LogUnavailable("an outage"))
    assert said.messages == ["Looking failed. Migrate.", "Looking failed."]
    assert said.records[0].exc_info is None
    assert said.records[1].exc_info is not None


def test_it_is_said_again_later(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(complaints, "COMPLAINT_INTERVAL", 0)
    looking = Complaints("Looking failed.")
    for _ in range(2):
        looking.about(LogOutdated("Migrate."))
    assert len(said.messages) == 2

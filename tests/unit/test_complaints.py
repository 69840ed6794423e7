"""A fault that lasts is said once, and again after a while."""

import pytest

from streambridge_app.exceptions import LogOutdated, LogUnavailable
from streambridge_app.runtime import complaints
from streambridge_app.runtime.complaints import Complaints


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("ERROR", logger="streambridge")
    return caplog


def test_each_kind_is_said_once(said: pytest.LogCaptureFixture) -> None:
    looking = Complaints("Looking failed.")
    for _ in range(3):
        looking.about(LogOutdated("Migrate."))
        looking.about(KeyError("other"))
        looking.about(LogUnavailable("an outage", transient=True))
        looking.about(LogUnavailable("a lock", locked=True))
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


def test_what_the_database_refuses_is_said(said: pytest.LogCaptureFixture) -> None:
    looking = Complaints("Sweeping failed.")
    for _ in range(2):
        looking.about(LogUnavailable("The disk is full."))
    assert said.messages == ["Sweeping failed. The disk is full."]


def test_subjects_that_are_due_again_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complaints, "COMPLAINT_INTERVAL", 0)
    monkeypatch.setattr(complaints, "REMEMBERED", 3)
    looking = Complaints("Looking failed.")
    assert all(looking.is_due(number) for number in range(10))
    assert len(looking._next) <= 3

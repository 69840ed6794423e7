import dataclasses
import datetime

import pytest

from streambridge_app.contract.runs import END_STATUSES, RUNNING, RunState

STATE = RunState(
    run_id="run",
    epoch=1700000000000,
    status=RUNNING,
    head=3,
    earliest=1,
    created_at=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    ended_at=None,
    owner_id=None,
    metadata={},
    cancel_requested=False,
)


def test_a_run_has_ended_with_each_status_but_running():
    assert not STATE.ended
    for status in END_STATUSES:
        assert dataclasses.replace(STATE, status=status).ended


def test_the_latest_id_is_that_of_the_newest_event():
    assert STATE.latest_id == "1700000000000-3"
    assert dataclasses.replace(STATE, head=0).latest_id is None


def test_a_state_is_one_moment_and_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        STATE.head = 4

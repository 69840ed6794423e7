"""What assertions on published events say, and what they take for equal."""

import datetime
import threading
import uuid
from unittest.mock import ANY

import pytest
from pytest_django import Settings

from streambridge_app import SyncStreamBridge, get_bridge, get_sync_bridge
from streambridge_app.testing import recorder
from tests.conftest import MEMORY


@pytest.fixture
def bridge(settings: Settings) -> SyncStreamBridge:
    settings.STREAMBRIDGE = {"BACKEND": MEMORY}
    return get_sync_bridge()


def test_events_of_more_than_a_page(bridge: SyncStreamBridge) -> None:
    with bridge.producer("run") as run:
        run.publish_all("number", range(2001))
    assert [event.data for event in recorder.events(run)] == list(range(2001))
    assert recorder.events("other") == []


def test_data_is_compared_as_it_comes_back(bridge: SyncStreamBridge) -> None:
    run_id = uuid.uuid4()
    when = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)
    bridge.publish(str(run_id), "page", {"when": when, "size": (1, 2)})
    found = recorder.assert_published(run_id, "page", {"when": when, "size": (1, 2)})
    assert found.data == {"when": "2026-11-29T00:00:00Z", "size": [1, 2]}
    recorder.assert_published(run_id, "page", {"when": ANY, "size": [1, 2]})
    recorder.assert_published(run_id, "page")
    recorder.assert_not_published(run_id, "page", {"when": when})
    recorder.assert_not_published(run_id, "token")


def test_failures_show_what_there_is(bridge: SyncStreamBridge) -> None:
    bridge.publish("run", "page", {"number": 1})
    with pytest.raises(AssertionError) as failed:
        recorder.assert_published("run", "page", {"number": 2})
    assert str(failed.value) == (
        "The run 'run' has no event 'page' with the data {'number': 2}. It has:\n"
        "  page {'number': 1}"
    )
    with pytest.raises(AssertionError, match="has event 'page': "):
        recorder.assert_not_published("run", "page")
    for number in range(30):
        bridge.publish("run", "token", number)
    with pytest.raises(AssertionError, match=r"It has:\n  11 more, and\n  token 10"):
        recorder.assert_published("run", "word")
    bridge.create_run("empty")
    with pytest.raises(AssertionError, match="It has none at all"):
        recorder.assert_published("empty", "word")


def test_trimmed_and_missing_runs(bridge: SyncStreamBridge) -> None:
    bridge.publish("run", "page", 1)
    bridge.trim("run", keep=0)
    assert recorder.events("run") == []
    recorder.assert_not_published("other", "page")
    with pytest.raises(AssertionError, match=r"'other' has no event 'page'\. It has none at all"):
        recorder.assert_published("other", "page")


def test_how_a_run_ended(bridge: SyncStreamBridge) -> None:
    bridge.create_run("run")
    with pytest.raises(AssertionError, match="'run' is 'running', not 'success'"):
        recorder.assert_ended("run")
    bridge.publish_end("run", error=ValueError("no paper"))
    assert recorder.assert_ended("run", "error").error["message"] == "no paper"
    with pytest.raises(AssertionError, match=r"'error' by .*no paper.*, not 'success'"):
        recorder.assert_ended("run")
    with pytest.raises(AssertionError, match="no run with the id 'other'"):
        recorder.assert_ended("other")


def test_waiting_for_another_thread(bridge: SyncStreamBridge) -> None:
    publishing = threading.Thread(target=bridge.publish, args=("run", "page", 2))
    bridge.publish("run", "page", 1)
    publishing.start()
    assert recorder.wait_for("run", "page", 2, timeout=60).id.endswith("-2")
    publishing.join()


def test_waiting_in_vain(bridge: SyncStreamBridge) -> None:
    bridge.publish("run", "page", 1)
    with pytest.raises(AssertionError, match=r"'run' got no event 'word' in 0.1 s. It has:\n"):
        recorder.wait_for("run", "word", timeout=0.1)
    bridge.publish_end("run")
    with pytest.raises(AssertionError, match=r"'run' has no event 'word'\. It has:\n  page 1"):
        recorder.wait_for("run", "word", timeout=60)


async def test_the_same_in_async_tests(settings: Settings) -> None:
    settings.STREAMBRIDGE = {"BACKEND": MEMORY}
    await get_bridge().publish("run", "page", 1)
    assert [event.data for event in await recorder.aevents("run")] == [1]
    await recorder.aassert_published("run", "page", 1)
    await recorder.aassert_not_published("run", "word")
    with pytest.raises(AssertionError, match="is 'running'"):
        await recorder.aassert_ended("run")
    assert (await recorder.await_for("run", "page", timeout=60)).data == 1
    with pytest.raises(AssertionError, match=r"in 0\.1 s"):
        await recorder.await_for("run", "word", timeout=0.1)
    await get_bridge().publish_end("run")
    with pytest.raises(AssertionError, match="'run' has no event"):
        await recorder.await_for("run", "word", timeout=60)

import asyncio
import threading

import pytest
from django.core.exceptions import ImproperlyConfigured

from streambridge_app import StreamBridge, SyncStreamBridge, get_bridge, get_sync_bridge, registry
from streambridge_app.backends.channel_layer import ChannelLayerBridge
from streambridge_app.backends.memory import MemoryBridge
from streambridge_app.backends.transactional import TransactionalBridge
from streambridge_app.exceptions import BridgeClosed
from streambridge_app.runtime import background
from tests.conftest import CHANNEL_LAYER, MEMORY
from tests.services import async_wait_until


@pytest.fixture(autouse=True)
def memory(settings):
    settings.STREAMBRIDGE = {"BACKEND": MEMORY}


def test_the_default_is_the_channel_layer_backend(settings):
    settings.STREAMBRIDGE = {}
    assert type(get_bridge()) is ChannelLayerBridge
    assert type(get_sync_bridge()) is TransactionalBridge


def test_there_is_one_bridge_per_process():
    assert type(get_bridge()) is MemoryBridge
    assert get_bridge() is get_bridge()
    assert type(get_sync_bridge()) is SyncStreamBridge


def test_the_sync_bridge_is_the_same_bridge():
    get_sync_bridge().publish("run", "number", 1)
    assert get_bridge().head("run").head == 1


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("no.such.module", "can't be imported"),
        ("streambridge_app.backends.memory.NoSuchClass", "can't be imported"),
        ("streambridge_app.contract.runs.RunState", "must name a StreamBridge class"),
        ("streambridge_app.contract.runs.RUNNING", "must name a StreamBridge class"),
    ],
)
def test_a_wrong_backend_is_refused(path, why, settings):
    settings.STREAMBRIDGE = {"BACKEND": path}
    with pytest.raises(ImproperlyConfigured, match=why):
        get_bridge()


def test_an_unknown_database_is_refused(settings):
    settings.STREAMBRIDGE = {"BACKEND": CHANNEL_LAYER, "DATABASE": "nowhere"}
    with pytest.raises(ImproperlyConfigured, match="an alias in DATABASES, not 'nowhere'"):
        get_bridge()


@pytest.mark.parametrize("setting", ["STREAMBRIDGE", "CHANNEL_LAYERS"])
def test_a_changed_setting_makes_a_new_bridge_and_closes_the_old_one(setting, settings):
    old = get_bridge()
    setattr(settings, setting, getattr(settings, setting))
    assert get_bridge() is not old
    with pytest.raises(BridgeClosed):
        asyncio.run(old.publish("run", "number", 1))


async def test_a_reset_on_a_running_loop_does_not_block_it():
    old = get_bridge()
    registry.reset()
    assert get_bridge() is not old
    await async_wait_until(lambda: old.closed, 5, "the old one to be closed")


def test_a_reset_without_a_bridge_is_nothing():
    registry.reset()
    registry.reset()


def test_a_closed_bridge_is_replaced():
    old = get_bridge()
    asyncio.run(old.close())
    assert get_bridge() is not old
    get_sync_bridge().publish("run", "number", 1)


def test_the_memory_bridge_forgets_its_runs_when_it_is_closed(settings):
    get_sync_bridge().publish_end("run")
    registry.reset()
    get_sync_bridge().publish_end("run")
    settings.STREAMBRIDGE = {"BACKEND": MEMORY}
    get_sync_bridge().publish("run", "number", 1)


def test_a_backend_that_knows_no_better_is_closed_on_the_background_loop(settings):
    settings.STREAMBRIDGE = {"BACKEND": f"{__name__}.Own"}
    own, running = get_bridge(), background.loop()
    get_sync_bridge().close()
    assert own.loops == [running]
    assert running.is_closed()
    assert get_bridge() is not own


class Own(MemoryBridge):
    """As somebody may write one: only with what the contract names."""

    def __init__(self):
        super().__init__()
        self.loops = []

    shut = StreamBridge.shut

    async def close(self):
        self.closed = True
        self.loops.append(asyncio.get_running_loop())


@pytest.mark.parametrize("module", ["publish.writer", "log.guard", "log.commit_times"])
def test_a_reset_in_the_middle_of_ours_does_not_wait_for_it(monkeypatch, module):
    old = get_bridge()
    release = threading.Event()
    monkeypatch.setattr(old, "shut", lambda: release.wait(20))
    inside = {"__name__": f"streambridge_app.{module}", "reset": registry.reset}
    exec("def publish(): reset()", inside)  # noqa: S102 - a caller with that module's name
    inside["publish"]()
    assert get_bridge() is not old
    release.set()

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest
from pytest_django import Settings

from streambridge_app.asgi import open_streams as streams
from streambridge_app.asgi import shutdown
from streambridge_app.asgi.open_streams import OpenConnection
from tests.services import async_wait_until

NUMBERS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a process has that was not told to stop yet, and no connection of other tests."""
    monkeypatch.setattr(shutdown, "_asked", False)
    monkeypatch.setattr(streams, "_draining", False)
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def received() -> list[int]:
    """The signals that the server's own handler got."""
    received: list[int] = []
    for number in NUMBERS:
        signal.signal(number, lambda number, frame: received.append(number))
    return received


class Client:
    """A connection that ends when its client reads on."""

    def __init__(self) -> None:
        self.told = 0
        self.reads = asyncio.Event()

    async def serve(self) -> None:
        connection = OpenConnection(self.leave)
        try:
            await self.reads.wait()
        finally:
            connection.close()

    def leave(self) -> None:
        self.told += 1


async def connected() -> tuple[Client, asyncio.Task[None]]:
    client = Client()
    task = asyncio.create_task(client.serve())
    await asyncio.sleep(0)
    return client, task


async def test_server_that_drops_connections_hears_of_it_when_they_are_over(
    received: list[int],
) -> None:
    shutdown.install(drops=True)
    client, task = await connected()
    signal.raise_signal(signal.SIGTERM)
    await async_wait_until(lambda: client.told, 5, "the client to be told")
    assert received == []
    client.reads.set()
    await task
    for _ in range(100):
        await asyncio.sleep(0)
    assert received == [], "what was sent last has to leave first"
    await async_wait_until(lambda: received, 5, "the server to be told")
    assert received == [signal.SIGTERM]
    assert client.told == 1


async def test_server_that_waits_hears_of_it_at_once(
    received: list[int], settings: Settings
) -> None:
    settings.STREAMBRIDGE = {"SHUTDOWN_SECONDS": 0.05}
    shutdown.install(drops=False)
    client, task = await connected()
    signal.raise_signal(signal.SIGINT)
    assert received == [signal.SIGINT]
    with pytest.raises(asyncio.CancelledError):
        await task  # cut, for its client doesn't read
    assert client.told == 1
    assert received == [signal.SIGINT]


async def test_time_is_limited(received: list[int], settings: Settings) -> None:
    settings.STREAMBRIDGE = {"SHUTDOWN_SECONDS": 0.05}
    shutdown.install(drops=True)
    client, task = await connected()
    signal.raise_signal(signal.SIGTERM)
    await async_wait_until(lambda: received, 5, "the server to be told")
    assert not task.done()
    client.reads.set()
    await task


@pytest.mark.parametrize("second", NUMBERS)
async def test_second_signal_is_the_servers_at_once_and_the_first_is_over(
    received: list[int], second: signal.Signals
) -> None:
    shutdown.install(drops=True)
    client, task = await connected()
    signal.raise_signal(signal.SIGTERM)
    await async_wait_until(lambda: client.told, 5, "the client to be told")
    signal.raise_signal(second)
    assert received == [second]
    draining = [one for one in asyncio.all_tasks() if "_drain" in repr(one)]
    client.reads.set()
    await asyncio.gather(task, *draining)
    assert len(draining) == 1
    assert received == [second]


async def test_server_without_connections_is_told_at_once(received: list[int]) -> None:
    shutdown.install(drops=True)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.sleep(0)  # the turn that asks
    await asyncio.sleep(0)  # the one that answers
    assert received == [signal.SIGTERM]


async def test_wrong_setting_keeps_no_server_from_stopping(
    received: list[int], settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.STREAMBRIDGE = {"SHUTDOWN_SECONDS": 0}
    shutdown.install(drops=True)
    client, task = await connected()
    signal.raise_signal(signal.SIGTERM)
    await async_wait_until(lambda: received, 5, "the server to be told")
    assert "SHUTDOWN_SECONDS" in caplog.text
    client.reads.set()
    await task


def test_signal_after_the_loop_is_the_servers(received: list[int]) -> None:
    async def serve() -> None:
        shutdown.install(drops=True)

    asyncio.run(serve())
    signal.raise_signal(signal.SIGTERM)
    assert received == [signal.SIGTERM]


async def test_process_that_no_server_stops_keeps_its_handlers() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    before = [signal.getsignal(number) for number in NUMBERS]
    shutdown.install(drops=False)
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_loop_in_another_thread_leaves_the_handlers(received: list[int]) -> None:
    async def serve() -> None:
        shutdown.install(drops=True)

    before = [signal.getsignal(number) for number in NUMBERS]
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number in NUMBERS] == before


async def test_handlers_are_installed_once(received: list[int]) -> None:
    shutdown.install(drops=True)
    installed = [signal.getsignal(number) for number in NUMBERS]
    shutdown.install(drops=True)
    assert [signal.getsignal(number) for number in NUMBERS] == installed

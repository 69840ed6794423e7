"""An open event stream holds no thread and no database connection, on a real Daphne and Uvicorn."""

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing, closing, contextmanager
from pathlib import Path

import psutil
import pytest
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.contrib.auth.models import Group
from django.db import connection, connections, transaction

from streambridge_app.asgi import open_streams as streams
from streambridge_app.serve.event_stream import (
    close_request_connections,
    event_stream_response,
    release_request_thread,
)
from tests.services import HOST, AsgiServer, wait_until

STREAMS = 200
APPLICATION = "tests.integration.apps.event_streams:application"


@pytest.fixture(params=["daphne", "uvicorn"], scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def database(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(kind) / "event_streams.sqlite3"


@pytest.fixture(scope="module")
def server(kind: str, database: Path) -> Iterator[AsgiServer]:
    with AsgiServer(kind, APPLICATION, env={"EVENT_STREAMS_DATABASE": str(database)}) as server:
        yield server


@contextmanager
def opened(server: AsgiServer, path: str) -> Iterator[http.client.HTTPResponse]:
    with closing(http.client.HTTPConnection(HOST, server.port, timeout=20)) as client:
        client.request("GET", path, headers={"Accept-Encoding": "gzip"})
        with client.getresponse() as response:
            yield response


def state(server: AsgiServer) -> dict[str, int]:
    with opened(server, "/") as response:
        answer: dict[str, int] = json.load(response)
    return answer


def database_files(server: AsgiServer, database: Path) -> int:
    names = [file.path for file in psutil.Process(server.pid).open_files()]
    return sum(name == str(database) for name in names)


def open_idle(server: AsgiServer, stack: ExitStack) -> None:
    response = stack.enter_context(opened(server, "/idle"))
    assert response.readline() == b"event: first\n"


def test_idle_streams_hold_no_thread_and_no_connection(server: AsgiServer, database: Path) -> None:
    def settled() -> bool:
        return server.threads() <= threads and database_files(server, database) == 0

    cancelled = state(server)["cancelled"]
    with ExitStack() as warm_up:
        for _ in range(5):
            open_idle(server, warm_up)
    wait_until(lambda: state(server)["open"] == 0, 10, "the first streams to end")
    # A request's thread outlives its answer by a moment: what stays is the server's own.
    threads = min(server.threads() for _ in range(200))

    with ExitStack() as streams:
        before = server.rss_kb()
        for _ in range(STREAMS):
            open_idle(server, streams)
        assert state(server)["open"] == STREAMS
        wait_until(settled, 10, f"{STREAMS} open streams to hold {threads} threads and no database")
        each = (server.rss_kb() - before) / STREAMS
        print(f"\n{server.name}: {STREAMS} idle streams, {each:.1f} KB each, {threads} threads")
    wait_until(lambda: state(server)["open"] == 0, 20, "the streams to end")
    wait_until(settled, 20, f"{STREAMS} closed streams to leave {threads} threads and no database")
    assert state(server)["cancelled"] == cancelled + 5 + STREAMS


def test_client_that_goes_while_stalled_ends_the_frames(server: AsgiServer) -> None:
    before = state(server)
    with opened(server, "/endless") as response:
        response.read(10)
        wait_until_stalled(server)
        assert state(server)["open"] == 1
    wait_until(lambda: state(server)["open"] == 0, 10, "the frames to be closed")
    # Which of the two depends on whether they wait for the server or the server for them.
    after = state(server)
    assert sum(after[how] - before[how] for how in ("closed", "cancelled")) == 1


def wait_until_stalled(server: AsgiServer) -> None:
    """Wait until the number of frames sent stands still for 30 polls."""
    last, same = -1, 0

    def stalled() -> bool:
        nonlocal last, same
        now = state(server)["sent"]
        last, same = now, same + 1 if now == last else 0
        return same >= 30

    wait_until(stalled, 20, "the stream to stall")


def test_gzip_middleware_holds_nothing_back(kind: str, database: Path) -> None:
    env = {"EVENT_STREAMS_DATABASE": str(database), "EVENT_STREAMS_GZIP": "1"}
    with AsgiServer(kind, APPLICATION, env=env) as server, opened(server, "/idle") as response:
        assert response.readline() == b"event: first\n"
        assert response.readline() == b"data: 1\n"
        assert response.headers["Content-Encoding"] == "identity"
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"


# What needs no server: whose thread and whose connection it is, and how frames are closed.


async def _frames(ended: list[type[BaseException]]) -> AsyncIterator[bytes]:
    try:
        yield b"1"
        await asyncio.Event().wait()
    except BaseException as error:
        ended.append(type(error))
        raise


async def test_closing_the_response_closes_suspended_frames_at_once() -> None:
    ended: list[type[BaseException]] = []
    async with aclosing(aiter(event_stream_response(_frames(ended)))) as content:  # type: ignore[type-var]
        assert await anext(content) == b"1"
    assert ended == [GeneratorExit]


async def test_cancellation_reaches_the_frames_and_goes_on_up() -> None:
    ended: list[type[BaseException]] = []

    async def consume() -> None:
        async for _ in event_stream_response(_frames(ended)):
            consuming.set()

    consuming = asyncio.Event()
    task = asyncio.create_task(consume())
    await consuming.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [asyncio.CancelledError]


async def until_told(content: AsyncIterator[bytes]) -> list[bytes]:
    return [part async for part in content]


async def test_server_that_stops_ends_waiting_frames_by_a_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "_draining", False)
    ended: list[type[BaseException]] = []
    task = asyncio.create_task(until_told(aiter(event_stream_response(_frames(ended)))))
    await asyncio.sleep(0)
    assert task in [connection.task for connection in streams.drain()]
    first, retry = await task
    assert first == b"1"
    assert retry.startswith(b"retry: ")
    assert ended == [asyncio.CancelledError]
    assert not task.cancelling()


async def test_server_that_stops_cuts_no_frame_that_is_being_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "_draining", False)
    ended: list[type[BaseException]] = []
    content = aiter(event_stream_response(_frames(ended)))
    assert await anext(content) == b"1"
    streams.drain()
    await asyncio.sleep(0)
    assert (await anext(content)).startswith(b"retry: ")
    with pytest.raises(StopAsyncIteration):
        await anext(content)
    assert ended == [GeneratorExit]


async def test_stream_that_comes_late_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_draining", True)
    (retry,) = await until_told(aiter(event_stream_response(_frames([]))))
    assert retry.startswith(b"retry: ")


async def test_timeout_of_the_frames_is_theirs() -> None:
    async def frames() -> AsyncIterator[bytes]:
        yield b"1"
        raise TimeoutError("theirs")

    with pytest.raises(TimeoutError, match="theirs"):
        await until_told(aiter(event_stream_response(frames())))


async def test_given_headers_win_whatever_their_case() -> None:
    response = event_stream_response(
        _frames([]), status=203, headers={"cache-control": "no-store", "Location": "runs/1"}
    )
    assert response.status_code == 203
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Location"] == "runs/1"
    assert response.headers["X-Accel-Buffering"] == "no"


async def test_nothing_to_release_is_harmless() -> None:
    await close_request_connections()
    release_request_thread()
    async with ThreadSensitiveContext():
        await close_request_connections()
        release_request_thread()


async def test_released_thread_ends_and_later_code_gets_another() -> None:
    async with ThreadSensitiveContext() as context:
        thread = await sync_to_async(psutil.Process().num_threads)()
        executor = SyncToAsync.context_to_thread_executor[context]
        release_request_thread()
        assert context not in SyncToAsync.context_to_thread_executor
        with pytest.raises(RuntimeError, match="shutdown"):
            executor.submit(print)
        assert await sync_to_async(lambda: thread)() == thread
    assert context not in SyncToAsync.context_to_thread_executor


async def test_executor_that_was_handed_in_stays() -> None:
    with ThreadPoolExecutor(max_workers=1) as executor:
        async with ThreadSensitiveContext(executor=executor):
            await sync_to_async(int)()
            await close_request_connections()
            release_request_thread()
            assert await sync_to_async(int)() == 0


@pytest.mark.django_db(transaction=True)
async def test_connections_of_the_request_close() -> None:
    async with ThreadSensitiveContext():
        await sync_to_async(lambda: connection.ensure_connection())()
        await close_request_connections()
        assert await sync_to_async(lambda: connection.connection)() is None


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
@pytest.mark.parametrize(
    ("busy", "idle"),
    [("default", "postgres"), ("postgres", "default")],
    ids=["default", "postgres"],
)
async def test_transaction_that_is_open_goes_on_beside_connections_that_close(
    busy: str, idle: str
) -> None:
    def begin() -> None:
        block.__enter__()
        Group.objects.using(busy).create(name="before")
        connections[idle].ensure_connection()

    def go_on() -> None:
        closed.append(connections[idle].connection is None)
        with transaction.atomic(using=busy):
            Group.objects.using(busy).create(name="after")
        block.__exit__(None, None, None)

    def names() -> set[str]:
        return set(Group.objects.using(busy).values_list("name", flat=True))

    closed: list[bool] = []
    async with ThreadSensitiveContext():
        block = transaction.atomic(using=busy)
        await sync_to_async(begin)()
        await close_request_connections()
        await sync_to_async(go_on)()
        assert closed == [True]
        await close_request_connections()
        assert await sync_to_async(lambda: connections[busy].connection)() is None
    assert await sync_to_async(names)() == {"before", "after"}


@pytest.mark.django_db(transaction=True)
async def test_connections_of_a_thread_that_others_use_stay_open() -> None:
    async def use_it() -> None:
        await sync_to_async(lambda: connection.ensure_connection())()
        await close_request_connections()
        assert await sync_to_async(lambda: connection.connection)() is not None
        await sync_to_async(connections.close_all)()

    await use_it()
    with ThreadPoolExecutor(max_workers=1) as executor:
        async with ThreadSensitiveContext(executor=executor):
            await use_it()

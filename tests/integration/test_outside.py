"""
What other people's projects do to the routes: their settings, middleware, patterns and servers.

On a real Daphne and Uvicorn, with a project whose settings come from the test (`apps/outside.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import websockets
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.db import connections
from django.test import AsyncClient
from django.urls import reverse
from django.utils.functional import SimpleLazyObject
from pytest_django import Settings

from streambridge_app import get_bridge
from streambridge_app.access import make_run_token
from streambridge_app.asgi.open_streams import open_streams
from streambridge_app.routing import checked_origin, websocket_urlpatterns
from tests.conftest import MEMORY
from tests.integration.conftest import OPEN_HOUSE, client_of, person
from tests.services import HOST, TIMEOUT_SCALE, AsgiServer, Server, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

RUN = "a run"
ROUTES = ["/runs/a%20run", "/tenants/acme/runs/a%20run", "/en-us/runs/a%20run"]
SOCKETS = ["/ws/runs/a%20run", "/tenants/acme/ws/runs/a%20run"]
DEADLINE = 20 * TIMEOUT_SCALE

MIDDLEWARE = "tests.integration.apps.middleware."
CACHE = "django.middleware.cache."
PROJECTS: dict[str, dict[str, Any]] = {
    "atomic requests on every database": {"ATOMIC": ["default", "postgres"]},
    "synchronous middleware first": {"FIRST": [MIDDLEWARE + "SyncOnly"]},
    "synchronous middleware last": {"LAST": [MIDDLEWARE + "SyncOnly"]},
    "a cache for the site": {
        "FIRST": [CACHE + "UpdateCacheMiddleware"],
        "LAST": [CACHE + "FetchFromCacheMiddleware"],
    },
    "what rewrites responses": {
        "FIRST": [
            "django.middleware.gzip.GZipMiddleware",
            "django.middleware.http.ConditionalGetMiddleware",
        ]
    },
    "login required": {"LAST": ["django.contrib.auth.middleware.LoginRequiredMiddleware"]},
    "a script name": {"FORCE_SCRIPT_NAME": "/app"},
    "naive times and small limits": {
        "USE_TZ": False,
        "DATA_UPLOAD_MAX_NUMBER_FIELDS": 1,
        "DATA_UPLOAD_MAX_MEMORY_SIZE": 1,
    },
}


@pytest.fixture(params=["daphne", "uvicorn"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@contextlib.contextmanager
def served(kind: Any, project: dict[str, Any]) -> Iterator[AsgiServer]:
    env = {"OUTSIDE": json.dumps(project)}
    with AsgiServer(kind, "tests.integration.apps.outside:application", env=env) as server:
        yield server
        assert "Traceback" not in server.log_text()


async def ended_run(run_id: str = RUN) -> str:
    """Make a run that has ended and return a token for it."""
    await get_bridge().publish(run_id, "step", run_id)
    await get_bridge().publish_end(run_id)
    return make_run_token(run_id)


async def heard(server: AsgiServer, path: str, **options: Any) -> tuple[list[Any], int | None]:
    """Return the frames of a WebSocket and the code that closes it."""
    frames = []
    async with (
        asyncio.timeout(DEADLINE),
        websockets.connect(server.ws_url + path, **options) as one,
    ):
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                frames.append(json.loads(await one.recv()))
    return frames, one.close_code


@pytest.mark.parametrize("project", PROJECTS.values(), ids=PROJECTS)
async def test_routes_work_whatever_the_settings_are(kind: Any, project: dict[str, Any]) -> None:
    token = {"token": await ended_run()}
    with served(kind, project) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:
            for route in ROUTES:
                for slash in ("", "/"):
                    stream = await client.get(f"{route}/stream{slash}", params=token)
                    assert stream.status_code == 200
                    assert f'data: "{RUN}"' in stream.text
                    for _ in range(2):
                        state = await client.get(route + slash, params=token)
                        assert (state.status_code, state.json()["run_id"]) == (200, RUN)
                    # What a cache has learnt from somebody else must not be told to strangers.
                    assert (await client.get(route + slash)).status_code == 401
                    cancel = await client.post(f"{route}/cancel{slash}", params=token)
                    assert (cancel.status_code, cancel.json()["code"]) == (403, "csrf_failed")
        for path in SOCKETS:
            frames, code = await heard(server, f"{path}?token={token['token']}")
            assert [frame["type"] for frame in frames] == ["subscribed", "event", "end"]
            assert code == 1000


async def test_a_database_that_comes_later_is_opted_out_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.STREAMBRIDGE = {"BACKEND": MEMORY, "AUTHORIZER": OPEN_HOUSE}
    later = {**connections.settings["default"], "ATOMIC_REQUESTS": True}
    monkeypatch.setitem(connections.settings, "later", later)
    await get_bridge().create_run(RUN)
    client = AsyncClient()
    assert (await client.get(reverse("streambridge:run", args=[RUN]))).status_code == 200
    assert (await client.post(reverse("streambridge:cancel", args=[RUN]))).status_code == 202


def test_reverse_gives_addresses_without_a_slash() -> None:
    assert [
        reverse(f"streambridge:{name}", args=["x"]) for name in ("stream", "cancel", "run")
    ] == [
        "/runs/x/stream",
        "/runs/x/cancel",
        "/runs/x",
    ]


# HEAD


async def test_head_is_get_without_body(kind: Any) -> None:
    token = await ended_run()
    epoch = (await get_bridge().get_run(RUN)).epoch
    await get_bridge().publish("going", "step", 1)
    going = make_run_token("going")
    with served(kind, {}) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:
            for path in [
                f"/runs/a%20run/stream?token={token}",
                f"/runs/a%20run?token={token}",
                "/runs/a%20run/stream",
                "/runs/a%20run",
                f"/runs/none?token={make_run_token('none')}",
                f"/runs/a%20run/stream?token={token}&last_event_id={epoch - 1}-0x",
            ]:
                get, head = await client.get(path), await client.head(path)
                assert head.status_code == get.status_code
                assert head.content == b""
                assert _lasting(head) == _lasting(get)
            head = await client.head(f"/runs/going/stream?token={going}")
            assert (head.status_code, head.headers["content-type"]) == (
                200,
                "text/event-stream; charset=utf-8",
            )
            assert (await client.get("/")).json() == {"open_streams": 0}


def _lasting(response: httpx.Response) -> dict[str, str]:
    passing = {"date", "transfer-encoding", "connection"}
    return {name: value for name, value in response.headers.items() if name not in passing}


async def test_head_opens_no_stream_but_says_when_there_is_no_room(settings: Settings) -> None:
    settings.STREAMBRIDGE = {"BACKEND": MEMORY, "AUTHORIZER": OPEN_HOUSE, "MAX_STREAMS": 1}
    client, path = AsyncClient(), reverse("streambridge:stream", args=[RUN])
    head = await client.head(path)
    assert (head.status_code, open_streams()) == (200, 0)
    response = await client.get(path)
    assert (await client.head(path)).status_code == 429
    await aiter(response).aclose()  # type: ignore[attr-defined]
    del response


async def test_204_has_no_content_type(kind: Any) -> None:
    token = await ended_run()
    with served(kind, {}) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:
            address = f"/runs/a%20run/stream?token={token}"
            last = (await client.get(address)).text.rpartition("id: ")[2].strip()
            response = await client.get(address, headers={"Last-Event-ID": last})
    assert response.status_code == 204
    assert "content-type" not in response.headers


# Whose request it is


@pytest.mark.parametrize("beside_djangos", [True, False])
@pytest.mark.parametrize("middleware", ["plain_user", "lazy_user", "async_user", "stateless_user"])
async def test_the_projects_user_wins(
    settings: Settings, middleware: str, beside_djangos: bool
) -> None:
    djangos = "django.contrib.auth.middleware.AuthenticationMiddleware"
    usual = [*settings.MIDDLEWARE] if beside_djangos else []
    assert (djangos in usual) is beside_djangos
    settings.MIDDLEWARE = [*usual, MIDDLEWARE + middleware]
    owner = await person("owner")
    await get_bridge().create_run(RUN, owner=owner)
    await person("stranger")
    path = reverse("streambridge:run", args=[RUN])
    # In the browser another person is logged in, whom the project impersonates.
    client = await client_of("stranger") if beside_djangos else AsyncClient()
    jwt = {"Authorization": "Bearer eyJhbGci.eyJzdWIi.SflKxwRJ"}
    for name, status in (("owner", 200), ("stranger", 404)):
        response = await client.get(path, headers={**jwt, "X-User": name})
        assert response.status_code == status, name
        stream = await client.head(path + "/stream", headers={**jwt, "X-User": name})
        assert stream.status_code == status, name
    if middleware != "stateless_user":
        response = await client.get(path, headers=jwt)
        assert (response.status_code, response.json()["code"]) == (401, "not_authenticated")


async def test_a_lazy_user_that_is_none_is_nobody(settings: Settings) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, MIDDLEWARE + "lazy_nobody"]
    response = await AsyncClient().get(reverse("streambridge:run", args=[RUN]))
    assert (response.status_code, response.json()["code"]) == (401, "not_authenticated")


async def test_a_lazy_user_leaves_no_thread_with_the_stream(kind: Any) -> None:
    owner = await User.objects.acreate(username="owner")
    await get_bridge().create_run(RUN, owner=owner)
    project = {"LAST": [MIDDLEWARE + "lazy_user"]}
    with served(kind, project) as server:
        async with contextlib.AsyncExitStack() as stack:

            async def open_some(count: int) -> None:
                for _ in range(count):
                    await stack.enter_async_context(_stream(server, {"X-User": "owner"}))

            await open_some(10)  # the readers of the log have started
            threads = server.threads()
            await open_some(30)
            wait_until(lambda: server.threads() <= threads + 3, 10, "the threads to end")


@contextlib.asynccontextmanager
async def _stream(server: AsgiServer, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client,
        client.stream("GET", "/runs/a%20run/stream", headers=headers) as response,
    ):
        assert response.status_code == 200
        await anext(response.aiter_raw())
        yield response


# WebSockets


async def test_socket_without_origin_is_in_by_token(kind: Any) -> None:
    token = await ended_run()
    with served(kind, {}) as server:
        for options in (
            {"path": f"{SOCKETS[0]}/?token={token}"},
            {"path": SOCKETS[0], "additional_headers": {"Authorization": f"Bearer {token}"}},
        ):
            frames, code = await heard(server, **options)
            assert [frame["type"] for frame in frames] == ["subscribed", "event", "end"]
            assert code == 1000
        frames, code = await heard(server, SOCKETS[0])
        assert ([frame["code"] for frame in frames], code) == (["not_authenticated"], 4401)
        stale = make_run_token(RUN, max_age=-1)
        frames, code = await heard(server, f"{SOCKETS[0]}?token={stale}")
        assert ([frame["code"] for frame in frames], code) == (["invalid_token"], 4401)


async def test_cookies_count_for_a_checked_origin_only(kind: Any) -> None:
    """No cross-site WebSocket hijacking: another site's page sends our cookies, and its origin."""
    await ended_run()
    superuser = await client_of("superuser")
    cookies = "; ".join(f"{name}={one.value}" for name, one in superuser.cookies.items())
    headers = {"Cookie": cookies}
    with served(kind, {}) as server:
        frames, code = await heard(
            server, SOCKETS[0], origin=server.url, additional_headers=headers
        )
        assert (frames[0]["type"], code) == ("subscribed", 1000)
        for origin in ("http://evil.example", "null", "http://127.0.0.1.evil.example"):
            for path in (*SOCKETS, "/ws/runs"):
                evil = {**headers, "Origin": origin}
                frames, code = await heard(server, path, additional_headers=evil)
                assert ([frame["code"] for frame in frames], code) == (["origin_refused"], 4403)
        for path in SOCKETS:
            frames, code = await heard(server, path, additional_headers=headers)
            assert ([frame["code"] for frame in frames], code) == (["not_authenticated"], 4401)
        many = f"{server.ws_url}/ws/runs"
        async with (
            asyncio.timeout(DEADLINE),
            websockets.connect(many, additional_headers=headers) as socket,
        ):
            await socket.send(json.dumps({"type": "subscribe", "run": RUN}))
            assert json.loads(await socket.recv())["code"] == "not_authenticated"


@pytest.mark.parametrize(
    "origin", ["", "http://[", "http://127.0.0.1:80.evil.example", "127.0.0.1"]
)
async def test_origin_that_is_none_is_refused(settings: Settings, origin: str) -> None:
    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    application: Any = checked_origin(URLRouter(websocket_urlpatterns))
    headers = [(b"origin", origin.encode())]
    communicator = WebsocketCommunicator(application, "/ws/runs/", headers=headers)
    await communicator.connect(DEADLINE)
    assert (await communicator.receive_json_from(DEADLINE))["code"] == "origin_refused"
    closed = await communicator.receive_output(DEADLINE)
    assert (closed["type"], closed["code"]) == ("websocket.close", 4403)


async def test_what_cookies_have_told_before_does_not_count_either() -> None:
    owner = await person("owner")
    await get_bridge().create_run(RUN, owner=owner)
    checked: Any = checked_origin(URLRouter(websocket_urlpatterns))

    async def around(scope: Any, receive: Any, send: Any) -> None:
        await checked({**scope, "user": owner, "session": {}, "cookies": {}}, receive, send)

    communicator = WebsocketCommunicator(around, SOCKETS[0])
    await communicator.connect(DEADLINE)
    assert (await communicator.receive_json_from(DEADLINE))["code"] == "not_authenticated"
    await communicator.disconnect(timeout=DEADLINE)


async def test_lazy_user_of_a_socket() -> None:
    owner = await person("owner")
    await get_bridge().create_run(RUN, owner=owner)
    routes: Any = URLRouter(websocket_urlpatterns)
    lazy = SimpleLazyObject(lambda: User.objects.get(username="owner"))

    async def around(scope: Any, receive: Any, send: Any) -> None:
        await routes({**scope, "user": lazy}, receive, send)

    communicator = WebsocketCommunicator(around, SOCKETS[0])
    await communicator.connect(DEADLINE)
    assert (await communicator.receive_json_from(DEADLINE))["type"] == "subscribed"
    await communicator.disconnect(timeout=DEADLINE)


async def test_addresses_below_ours_are_answered(kind: Any) -> None:
    with served(kind, {}) as server:
        for path in ("/ws/runs//", "/ws/runs///", "/ws/runs/x/stream", "/ws/runs/%2E%2E"):
            frames, code = await heard(server, path)
            assert ([frame["code"] for frame in frames], code) == (["invalid_run_id"], 4400)


async def test_first_subprotocol_is_chosen(kind: Any) -> None:
    token = await ended_run()
    offered: Any = ["one", "two"]
    with served(kind, {}) as server:
        async with (
            asyncio.timeout(DEADLINE),
            websockets.connect(
                f"{server.ws_url}{SOCKETS[0]}?token={token}", subprotocols=offered
            ) as socket,
        ):
            assert socket.subprotocol == "one"
            assert json.loads(await socket.recv())["type"] == "subscribed"


@pytest.mark.parametrize("offered", ["a%2Cb", "%61", "a%20,b"])
async def test_only_a_subprotocol_that_was_offered_to_the_letter_is_chosen(
    kind: Any, offered: str
) -> None:
    token = await ended_run()
    with served(kind, {}) as server:
        async with asyncio.timeout(DEADLINE):
            reader, writer = await asyncio.open_connection(HOST, server.port)
            writer.write(
                f"GET {SOCKETS[0]}?token={token} HTTP/1.1\r\nHost: {HOST}:{server.port}\r\n"
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                f"Sec-WebSocket-Protocol: {offered}\r\n\r\n".encode()
            )
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
            writer.close()
    assert answer.startswith("HTTP/1.1 101 ")
    chosen = re.findall(r"(?i)^sec-websocket-protocol: (.*?)\r$", answer, re.MULTILINE)
    assert set(chosen) <= set(offered.split(","))


# Run ids

ODD_IDS = [
    *["%", "%2F", "%252F", "?", "#", "a;b", "\\", "a\\b", "//a", "/a", "a//b"],
    *[
        "...",
        "a/...",
        "..%2F",
        "%2e%2e",
        "é",
        "e\u0301",
        "\u0301",
        "🎉",
        " a",
        "a ",
        "  ",
        "stream",
    ],
    *[
        "cancel",
        "a/stream/b",
        "/streams",
        "\U0001d4b3" * 200,
        "'",
        "<a>",
        "&amp;",
        "+",
        ":",
        "@",
        "{x}",
    ],
    *[
        "http://x",
        "\u2028",
        "\ufeff",
        "undefined",
        "runs/a/x",
        "%00",
        "a.",
        "\uff0e\uff0e",
        "{% x %}",
    ],
]


async def test_legal_ids_have_all_their_addresses(kind: Any) -> None:
    for run_id in ODD_IDS:
        await ended_run(run_id)
    with served(kind, {}) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:
            client.cookies["csrftoken"] = "s" * 32
            for number, run_id in enumerate(ODD_IDS):
                quoted, token = quote(run_id, safe=""), make_run_token(run_id)
                query, slash = f"?token={token}", "/" * (number % 2)
                state = await client.get(f"/runs/{quoted}{slash}{query}")
                assert state.json().get("run_id") == run_id
                stream = await client.get(f"/runs/{quoted}/stream{slash}{query}")
                assert f"data: {json.dumps(run_id, ensure_ascii=False)}\n" in stream.text or (
                    run_id == "\u2028" and stream.status_code == 200
                )
                cancel = await client.post(
                    f"/runs/{quoted}/cancel{slash}{query}", headers={"X-CSRFToken": "s" * 32}
                )
                assert cancel.json()["code"] == "forbidden"
                frames, _ = await heard(server, f"/ws/runs/{quoted}{slash}{query}")
                assert [frame["run"] for frame in frames] == [run_id] * 3


# WSGI


class WsgiServer(Server):
    """Gunicorn with one process, serving the WSGI application of the same project."""

    name = "gunicorn"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def _command(self) -> list[Any]:
        application = "tests.integration.apps.outside:wsgi_application"
        options = ["--bind", f"{HOST}:{self.port}", "--access-logfile", "-", "--no-control-socket"]
        return [sys.executable, "-m", "gunicorn", *options, application]

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(self.url).status_code == 200
        return False


async def test_wsgi_gets_a_sentence_instead_of_a_stream() -> None:
    token = await ended_run()
    await get_bridge().publish("going", "step", 1)
    with WsgiServer() as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:
            for method in ("GET", "HEAD"):
                query = {"token": make_run_token("going")}
                response = await client.request(method, "/runs/going/stream", params=query)
                assert response.status_code == 501
            response = await client.get("/runs/going/stream", params=query)
            assert response.json()["code"] == "needs_asgi"
            assert "Daphne or Uvicorn" in response.json()["message"]
            state = await client.get("/runs/a%20run", params={"token": token})
            assert (state.status_code, state.json()["run_id"]) == (200, RUN)
            client.cookies["csrftoken"] = "s" * 32
            headers = {"X-CSRFToken": "s" * 32}
            cancel = await client.post("/runs/a%20run/cancel", headers=headers)
            assert cancel.json()["code"] == "not_authenticated"
        wait_until(lambda: "POST /runs/a%20run/cancel" in server.log_text(), 10, "the access log")
        log = server.log_text()
    assert "/runs/a%20run?token=*** HTTP/1.1" in log
    assert token not in log
    assert query["token"] not in log
    assert django_settings.SECRET_KEY not in log

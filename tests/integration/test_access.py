"""Who may read and cancel a run, asked over HTTP and WebSocket; nobody else learns that it is."""

import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import pytest
from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.test import AsyncClient, AsyncRequestFactory
from django.utils.functional import SimpleLazyObject
from pytest_django import Settings

from streambridge_app import get_bridge
from streambridge_app.access import Access, Authorizer, Refusal, admit, make_run_token, token_admits
from streambridge_app.exceptions import InvalidRunId
from streambridge_app.routing import websocket_urlpatterns
from streambridge_app.serve.users import user_of_request
from tests.conftest import MEMORY
from tests.integration.conftest import PEOPLE, client_of, person
from tests.services import TIMEOUT_SCALE

with_database = pytest.mark.django_db(transaction=True)

RUN, NO_RUN = "a run", "no run"
DEADLINE = 10 * TIMEOUT_SCALE
BACKENDS = {
    "default": "django.contrib.auth.backends.ModelBackend",
    "lets inactive users log in": "django.contrib.auth.backends.AllowAllUsersModelBackend",
}

READERS = {"owner", "viewer", "viewer and changer", "superuser"}
CANCELLERS = {"owner", "viewer and changer", "superuser"}


Answer = tuple[int, bytes, dict[str, str]]
Conversation = list[Any]


async def run_of_the_owner() -> None:
    await get_bridge().create_run(RUN, owner=await person("owner"))
    await get_bridge().publish_end(RUN)


async def asked(client: AsyncClient, run_id: str, query: dict[str, str]) -> dict[str, Answer]:
    """Return what each route answers."""
    at_the_end = {"last_event_id": "1-1", **query}
    answers = {
        "stream": await client.get(f"/runs/{run_id}/stream", query),
        "reconnect": await client.get(f"/runs/{run_id}/stream", at_the_end),
        "state": await client.get(f"/runs/{run_id}", query),
        "cancel": await client.post(f"/runs/{run_id}/cancel", query_params=query),
    }
    return {
        route: (
            answer.status_code,
            b"" if answer.streaming else answer.content,
            dict(answer.headers),
        )
        for route, answer in answers.items()
    }


async def heard(client: AsyncClient, path: str, *messages: dict[str, Any]) -> Conversation:
    """Return the first frame of a WebSocket, after each message if there are any; or its end."""
    said: Conversation = []
    async with socket_of(client, path) as communicator:
        for message in messages or [None]:
            if message is not None:
                await communicator.send_json_to(message)
            frame = await communicator.receive_json_from(DEADLINE)
            said.append(frame)
            if message is None and frame["type"] == "error":
                said.append(await communicator.receive_output(DEADLINE))
    return said


@contextlib.asynccontextmanager
async def socket_of(client: AsyncClient, path: str) -> AsyncIterator[WebsocketCommunicator]:
    """Open a WebSocket in a client's browser."""
    cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
    communicator = WebsocketCommunicator(
        AuthMiddlewareStack(URLRouter(websocket_urlpatterns)),
        path,
        headers=[(b"cookie", cookies.encode())],
    )
    connected, _ = await communicator.connect(DEADLINE)
    assert connected
    yield communicator
    await communicator.disconnect(timeout=DEADLINE)


def sockets_of(run_id: str) -> list[tuple[str, list[dict[str, Any]]]]:
    subscribe = {"type": "subscribe", "run": run_id}
    return [
        (f"/ws/runs/{run_id}/", []),
        (f"/ws/runs/{run_id}/?last_event_id=1-1", []),
        ("/ws/runs/", [subscribe, {**subscribe, "last_event_id": "1-1"}]),
    ]


@with_database
async def test_by_user() -> None:
    await run_of_the_owner()
    for kind in [None, *PEOPLE]:
        client = await client_of(kind)
        logged_in = kind is not None and PEOPLE[kind].get("is_active", True)
        refused = 404 if logged_in else 401
        answers = await asked(client, RUN, {})
        statuses = {route: status for route, (status, *_) in answers.items()}
        may_read, may_cancel = kind in READERS, kind in CANCELLERS
        assert statuses == {
            "stream": 200 if may_read else refused,
            "reconnect": 200 if may_read else refused,
            "state": 200 if may_read else refused,
            "cancel": 409 if may_cancel else 403 if may_read else refused,
        }, kind
        for path, messages in sockets_of(RUN):
            frames = await heard(client, path, *messages)
            expected = "subscribed" if may_read else "error"
            assert frames[0]["type"] == expected, (kind, path)


async def log_out(client: AsyncClient, user: User) -> None:
    await client.alogout()


async def delete(client: AsyncClient, user: User) -> None:
    await user.adelete()


async def deactivate(client: AsyncClient, user: User) -> None:
    await User.objects.filter(pk=user.pk).aupdate(is_active=False)


async def change_password(client: AsyncClient, user: User) -> None:
    user.set_password("another")
    await user.asave()


async def take_the_permission(client: AsyncClient, user: User) -> None:
    await user.user_permissions.aclear()


@with_database
@pytest.mark.parametrize(
    "lose", [log_out, delete, deactivate, change_password, take_the_permission]
)
async def test_rights_that_were_lost_since_the_socket_came_are_lost(lose: Any) -> None:
    await run_of_the_owner()
    client = await client_of("viewer")
    async with socket_of(client, "/ws/runs/") as communicator:
        await communicator.send_json_to({"type": "subscribe", "run": RUN})
        for expected in ["subscribed", "end"]:
            assert (await communicator.receive_json_from(DEADLINE))["type"] == expected
        await lose(client, await person("viewer"))
        await communicator.send_json_to({"type": "subscribe", "run": RUN})
        assert (await communicator.receive_json_from(DEADLINE))["type"] == "error"


class OnlyTheScopesUser(Authorizer):
    """Lets those in whom the middleware of the test put into the scope."""

    async def can_read(self, access: Access) -> bool:
        return bool(access.user.username == "by another way")


@with_database
async def test_another_middlewares_user_stays(settings: Settings) -> None:
    settings.STREAMBRIDGE = {"AUTHORIZER": f"{__name__}.OnlyTheScopesUser"}
    routes = URLRouter(websocket_urlpatterns)

    async def other(scope: Any, receive: Any, send: Any) -> None:
        await routes({**scope, "user": User(username="by another way")}, receive, send)

    communicator = WebsocketCommunicator(AuthMiddlewareStack(other), "/ws/runs/")
    await communicator.connect(DEADLINE)
    await communicator.send_json_to({"type": "subscribe", "run": RUN})
    assert (await communicator.receive_json_from(DEADLINE))["type"] == "subscribed"
    await communicator.disconnect(timeout=DEADLINE)


@with_database
async def test_who_may_not_read_cannot_tell_a_run_from_none() -> None:
    await run_of_the_owner()
    for kind in [None, "stranger", "staff", "changer"]:
        client = await client_of(kind)
        for query in [{}, {"token": make_run_token("another")}]:
            assert await asked(client, RUN, query) == await asked(client, NO_RUN, query)
        for there, elsewhere in zip(sockets_of(RUN), sockets_of(NO_RUN), strict=True):
            seen = await heard(client, there[0], *there[1])
            unseen = await heard(client, elsewhere[0], *elsewhere[1])
            assert json.dumps(seen) == json.dumps(unseen).replace(NO_RUN, RUN)


@with_database
async def test_who_may_not_cancel_cannot_tell_either() -> None:
    """Who may read learns about the run by reading; cancel adds nothing to it."""
    await run_of_the_owner()
    client = await client_of("viewer")
    assert (await asked(client, RUN, {}))["cancel"] == (await asked(client, NO_RUN, {}))["cancel"]


@with_database
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
async def test_inactive_users_are_strangers(settings: Settings, backend: str) -> None:
    settings.AUTHENTICATION_BACKENDS = [backend]
    await get_bridge().create_run(RUN, owner=await person("inactive owner"))
    for kind in ["inactive owner", "inactive viewer"]:
        client = await client_of(kind)
        assert {status for status, *_ in (await asked(client, RUN, {})).values()} <= {401, 404}


@with_database
async def test_login_required_middleware_does_not_stand_in_for_the_rule(
    settings: Settings,
) -> None:
    required = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, required]
    await run_of_the_owner()
    answers = await asked(AsyncClient(), RUN, {"token": make_run_token(RUN)})
    statuses = {route: status for route, (status, *_) in answers.items()}
    assert statuses == {"stream": 200, "reconnect": 200, "state": 200, "cancel": 403}
    assert {status for status, *_ in (await asked(AsyncClient(), RUN, {})).values()} == {401}


# Tokens: they need no database


@pytest.fixture
def memory(settings: Settings) -> None:
    settings.STREAMBRIDGE = {"BACKEND": MEMORY}


def stale() -> str:
    return make_run_token(RUN, max_age=-1)


def tampered() -> str:
    payload, *signature = make_run_token("another").split(":")
    mine = make_run_token(RUN).partition(":")[0]
    return ":".join([mine if mine != payload else "", *signature])


def otherwise_signed() -> str:
    """What another part of the project signs with the same key is no token of ours."""
    return signing.dumps([RUN, time.time() + 60])


def otherwise_shaped() -> str:
    return signing.dumps({"run": RUN}, salt="streambridge_app.access.run_token")


FOREIGN_TOKENS = ["", "nonsense", ":::", "\x00", "ünï", "x" * 4000, "eyJhbGci.eyJzdWIi.SflKxwRJ"]
"""None of them has the form of a run token."""

BAD_TOKENS = [
    lambda: "a:b:c",
    lambda: make_run_token(RUN)[:-1],
    lambda: make_run_token(RUN) + "x",
    lambda: make_run_token("another"),
    lambda: make_run_token(RUN.upper()),
    stale,
    tampered,
    otherwise_signed,
    otherwise_shaped,
]


@pytest.mark.usefixtures("memory")
async def test_good_token_reads_and_does_not_cancel() -> None:
    await get_bridge().publish(RUN, "step", 1)
    query = {"token": make_run_token(RUN)}
    answers = await asked(AsyncClient(), RUN, query)
    statuses = {route: status for route, (status, *_) in answers.items()}
    assert statuses == {"stream": 200, "reconnect": 200, "state": 200, "cancel": 403}
    assert json.loads(answers["cancel"][1])["code"] == "forbidden"
    assert (await get_bridge().get_run(RUN)).cancel_requested is False


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("bad", BAD_TOKENS)
async def test_bad_token(bad: Any) -> None:
    await get_bridge().publish(RUN, "step", 1)
    token = bad()
    assert not token_admits(token, RUN)
    for status, content, headers in (await asked(AsyncClient(), RUN, {"token": token})).values():
        assert (status, json.loads(content)["code"]) == (401, "invalid_token")
        assert headers["WWW-Authenticate"] == 'Bearer realm="runs"'


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("token", FOREIGN_TOKENS)
async def test_token_of_another_form_is_not_ours(token: str) -> None:
    await get_bridge().publish(RUN, "step", 1)
    assert not token_admits(token, RUN)
    for status, content, _ in (await asked(AsyncClient(), RUN, {"token": token})).values():
        assert (status, json.loads(content)["code"]) == (401, "not_authenticated")
    for path, messages in sockets_of(RUN):
        frames = await heard(
            AsyncClient(),
            path + ("&" if "?" in path else "?") + urlencode({"token": token}),
            *messages,
        )
        assert frames[0]["code"] == "not_authenticated"


@pytest.mark.usefixtures("memory")
async def test_no_token_and_no_user() -> None:
    for status, content, headers in (await asked(AsyncClient(), RUN, {})).values():
        assert (status, json.loads(content)["code"]) == (401, "not_authenticated")
        assert headers["WWW-Authenticate"] == 'Bearer realm="runs"'


@pytest.mark.usefixtures("memory")
async def test_token_in_a_header() -> None:
    await get_bridge().create_run(RUN)
    for token, status, code in (
        (make_run_token(RUN), 200, None),
        (make_run_token("another"), 401, "invalid_token"),
        (stale(), 401, "invalid_token"),
        *[(token, 401, "not_authenticated") for token in FOREIGN_TOKENS if token.isprintable()],
    ):
        headers = {"Authorization": f"Bearer {token}"}
        response = await AsyncClient().get(f"/runs/{RUN}", headers=headers)
        assert (response.status_code, response.json().get("code")) == (status, code)


@pytest.mark.usefixtures("memory")
async def test_token_beside_one_of_the_projects_own() -> None:
    await get_bridge().create_run(RUN)
    ours, theirs = make_run_token(RUN), "eyJhbGci.eyJzdWIi.SflKxwRJ"
    for query, header in ((ours, theirs), (theirs, ours)):
        headers = {"Authorization": f"Bearer {header}"}
        response = await AsyncClient().get(f"/runs/{RUN}", {"token": query}, headers=headers)
        assert response.status_code == 200


@pytest.mark.usefixtures("memory")
async def test_token_in_the_header_of_a_socket() -> None:
    await get_bridge().create_run(RUN)
    for path, messages in sockets_of(RUN)[::2]:
        communicator = WebsocketCommunicator(
            URLRouter(websocket_urlpatterns),
            path,
            headers=[(b"authorization", f"bearer {make_run_token(RUN)}".encode())],
        )
        await communicator.connect(DEADLINE)
        for message in messages[:1]:
            await communicator.send_json_to(message)
        assert (await communicator.receive_json_from(DEADLINE))["type"] == "subscribed"
        await communicator.disconnect(timeout=DEADLINE)


@pytest.mark.usefixtures("memory")
async def test_token_of_a_run_to_come() -> None:
    """It may be followed already; there is no state to show."""
    answers = await asked(AsyncClient(), RUN, {"token": make_run_token(RUN)})
    statuses = {route: status for route, (status, *_) in answers.items()}
    assert statuses == {"stream": 200, "reconnect": 404, "state": 404, "cancel": 403}


def test_token_is_good_for_its_age(settings: Settings) -> None:
    settings.STREAMBRIDGE = {"TOKEN_MAX_AGE": 100}
    for age, given in [(100, {}), (7, {"max_age": 7})]:
        before = time.time()
        _, expires = signing.loads(
            make_run_token(RUN, **given), salt="streambridge_app.access.run_token"
        )
        assert before + age <= expires <= time.time() + age


def test_token_outlives_no_key(settings: Settings) -> None:
    token = make_run_token(RUN)
    settings.SECRET_KEY = "another"
    assert not token_admits(token, RUN)
    settings.SECRET_KEY_FALLBACKS = ["only for tests"]
    assert token_admits(token, RUN)


def test_token_names_a_run() -> None:
    with pytest.raises(InvalidRunId):
        make_run_token("")


def test_token_is_in_no_repr() -> None:
    access = Access(None, RUN, None, token="secret", scope={"query_string": b"token=secret"})
    assert "secret" not in repr(access)


# Other rules


class Whisperer(Authorizer):
    """Lets those in who know the word, and lets them cancel one run."""

    async def can_read(self, access: Access) -> bool:
        return b"word=friend" in dict(access.scope["headers"]).get(b"cookie", b"")

    async def can_cancel(self, access: Access) -> bool:
        return access.run_id == RUN


async def test_another_rule(settings: Settings) -> None:
    settings.STREAMBRIDGE = {"BACKEND": MEMORY, "AUTHORIZER": f"{__name__}.Whisperer"}
    friend, stranger = AsyncClient(), AsyncClient()
    friend.cookies["word"] = "friend"
    for client, run_id, expected in [
        (friend, RUN, 202),
        (friend, "another", 403),
        (stranger, RUN, 401),
    ]:
        await get_bridge().publish(run_id, "step", 1)
        answers = await asked(client, run_id, {"token": make_run_token(run_id)})
        assert answers["cancel"][0] == expected
    path = f"/ws/runs/{RUN}/"
    assert (await heard(friend, path))[0]["type"] == "subscribed"
    assert (await heard(stranger, path))[0]["code"] == "not_authenticated"


@dataclasses.dataclass
class PlainUser:
    """A user of a project whose own model knows neither staff nor permissions."""

    pk: int
    is_authenticated = True
    is_active = True


@pytest.mark.usefixtures("memory")
async def test_user_model_without_staff() -> None:
    await get_bridge().create_run(RUN, owner=3)
    run = await get_bridge().get_run(RUN)
    assert await admit(Access(PlainUser(3), RUN, run)) is run
    for user, state in [(PlainUser(4), run), (PlainUser(3), None)]:
        with pytest.raises(Refusal) as refused:
            await admit(Access(user, RUN, state))
        assert refused.value.status == 404


@pytest.mark.usefixtures("memory")
async def test_run_without_owner_is_not_of_a_user_without_key() -> None:
    await get_bridge().create_run(RUN)
    run = await get_bridge().get_run(RUN)
    with pytest.raises(Refusal):
        await admit(Access(User(), RUN, run))


# What the project says of its users


class Banning(ModelBackend):
    """Says that nobody is logged in, by the method that Django's async auth does not call."""

    def get_user(self, user_id: object) -> None:
        return None


class OnlyRequired:
    """Has the two methods that Django asks of a backend, and no more."""

    def authenticate(self, request: object, **credentials: object) -> None:
        return None

    def get_user(self, user_id: Any) -> User | None:
        return User.objects.filter(pk=user_id).first()


class Denying(OnlyRequired):
    def has_perm(self, user: object, permission: str, obj: object = None) -> bool:
        raise PermissionDenied


async def state_as(who: str, *backends: type) -> int:
    """Return how the state route answers one of PEOPLE, logged in by the last of the backends."""
    client = AsyncClient()
    path = f"{backends[-1].__module__}.{backends[-1].__qualname__}"
    await client.aforce_login(await person(who), backend=path)
    return (await client.get(f"/runs/{RUN}")).status_code


@with_database
@pytest.mark.parametrize(
    ("who", "backends", "status"),
    [
        ("owner", (Banning,), 401),
        ("owner", (OnlyRequired,), 200),
        ("viewer", (ModelBackend,), 200),
        ("viewer", (Denying, ModelBackend), 404),
        ("superuser", (Denying, OnlyRequired), 200),  # is_superuser is asked of no backend
    ],
)
async def test_backends_are_asked_as_by_other_views(
    settings: Settings, who: str, backends: tuple[type, ...], status: int
) -> None:
    settings.AUTHENTICATION_BACKENDS = [f"{one.__module__}.{one.__qualname__}" for one in backends]
    await run_of_the_owner()
    assert await state_as(who, *backends) == status


async def test_overridden_permission_counts() -> None:
    class Careful(User):
        class Meta:
            proxy = True
            app_label = "streambridge_app"

        def has_perm(self, perm: str, obj: object = None) -> bool:
            return False

    user = Careful(username="careful", is_staff=True, is_superuser=True)
    assert not await Authorizer().can_cancel(Access(user=user, run_id=RUN, run=None))


async def test_async_user_that_is_none_is_nobody() -> None:
    async def auser() -> None:
        return None

    request = AsyncRequestFactory().get("/")
    request.auser = auser  # type: ignore[attr-defined]
    assert (await user_of_request(request)).is_anonymous
    request.user = SimpleLazyObject(lambda: None)
    assert (await user_of_request(request)).is_anonymous

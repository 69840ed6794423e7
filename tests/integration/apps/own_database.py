"""What a project does whose log has a database of its own; each function in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterator

import django
import pytest
from django.core.management import call_command
from django.db import connections, transaction

django.setup()

from django.contrib.auth.models import User  # noqa: E402 - models, after the setup
from django.test import AsyncClient, Client  # noqa: E402
from django.test.utils import setup_test_environment  # noqa: E402
from django.urls import reverse  # noqa: E402

from streambridge_app import get_bridge, get_sync_bridge  # noqa: E402
from streambridge_app.contract.runs import RunState  # noqa: E402
from streambridge_app.contrib.enqueue import enqueue  # noqa: E402
from streambridge_app.exceptions import LogOutdated, RunNotFound  # noqa: E402
from streambridge_app.models import Event, EventKey, Run  # noqa: E402
from tests.integration.apps.customers.models import Customer  # noqa: E402
from tests.services import async_wait_until  # noqa: E402


class Undo(Exception):
    """Rolls a transaction back."""


@contextlib.contextmanager
def undone(using: str) -> Iterator[None]:
    with contextlib.suppress(Undo), transaction.atomic(using=using):
        yield
        raise Undo


def migrate() -> None:
    call_command("migrate", verbosity=0)
    call_command("migrate", database="log", verbosity=0)


def owner_of(run_id: str) -> object:
    return get_sync_bridge().get_run(run_id).owner_id


def owners() -> None:
    """Whoever deletes a user disowns the user's runs, at the commit."""
    bridge = get_sync_bridge()
    for name in ("one", "two", "three", "proxy", "raw", "kept"):
        user = User.objects.create(username=name)
        bridge.create_run(name, owner=user)
        bridge.publish(name, "update", 1)
        assert owner_of(name) == user.pk
        assert Run.objects.get(run_id=name).owner == user

    User.objects.get(username="one").delete()
    assert owner_of("one") is None
    User.objects.filter(username__in=["two", "three"]).delete()
    assert (owner_of("two"), owner_of("three")) == (None, None)
    Customer.objects.get(username="proxy").delete()
    assert owner_of("proxy") is None

    kept = User.objects.get(username="kept")
    with undone("default"):
        User.objects.get(username="kept").delete()
    assert owner_of("kept") == kept.pk
    with transaction.atomic():
        User.objects.get(username="kept").delete()
        assert owner_of("kept") == kept.pk
    assert owner_of("kept") is None

    raw = User.objects.get(username="raw").pk
    User.objects.filter(pk=raw)._raw_delete("default")
    assert owner_of("raw") == raw
    run = Run.objects.get(run_id="raw")
    assert run.owner is None
    assert [run.owner for run in Run.objects.prefetch_related("owner")] == [None] * 6
    Run.objects.all().delete()
    assert not Event.objects.exists()


def admin() -> None:
    """No page of the admin joins across the databases."""
    bridge = get_sync_bridge()
    olga = User.objects.create_superuser("olga", password="x")
    client = Client()
    client.force_login(olga)
    for run_id in ("owned", "ended", "deleted", "dangling"):
        bridge.create_run(run_id, owner=olga)
        bridge.publish(run_id, "update", {"text": run_id})
    bridge.create_run("nobody's")
    Run.objects.filter(run_id="dangling").update(owner_id=4711)

    listed = reverse("admin:streambridge_app_run_changelist")

    def shown(query: str) -> set[str]:
        response = client.get(listed + query)
        assert response.status_code == 200
        return {run.run_id for run in response.context["cl"].result_list}

    everything = {"owned", "ended", "deleted", "dangling", "nobody's"}
    assert shown("") == everything
    assert b"olga</td>" in client.get(listed).content
    assert shown("?q=olga") == {"owned", "ended", "deleted"}
    assert shown("?q=own") == {"owned"}
    assert shown("?status__exact=running") == everything

    def page(run_id: str) -> str:
        key = Run.objects.get(run_id=run_id).pk
        return reverse("admin:streambridge_app_run_change", args=[key])

    for run_id in everything:
        assert client.get(page(run_id)).status_code == 200
    assert "olga" in client.get(page("owned")).content.decode()
    assert client.get(page("owned") + "?after=0").status_code == 200
    assert client.post(page("owned"), {"action": "ask_to_cancel"}).status_code == 302
    assert bridge.get_run("owned").cancel_requested
    assert client.post(page("ended"), {"action": "end"}).status_code == 302
    assert bridge.get_run("ended").status == "cancelled"
    found = client.get(
        reverse("admin:autocomplete"),
        {
            "term": "own",
            "app_label": "streambridge_app",
            "model_name": "event",
            "field_name": "run",
        },
    )
    assert found.status_code in (200, 403)  # no admin of ours refers to a run
    history = page("owned").replace("change/", "history/")
    assert client.get(history).status_code == 200
    delete = page("deleted").replace("change/", "delete/")
    assert client.post(delete, {"post": "yes"}).status_code == 302
    keys = list(Run.objects.filter(run_id__in=["owned", "ended"]).values_list("pk", flat=True))
    action = {"action": "delete_selected", "_selected_action": keys, "post": "yes"}
    assert client.post(listed, action).status_code == 302
    assert shown("") == {"dangling", "nobody's"}
    # Users are deleted in the admin as well, many at once.
    more = [User.objects.create(username=f"user {n}") for n in range(3)]
    for user in more:
        bridge.create_run(user.username, owner=user)
    users = reverse("admin:auth_user_changelist")
    action = {
        "action": "delete_selected",
        "_selected_action": [user.pk for user in more],
        "post": "yes",
    }
    assert client.post(users, action).status_code == 302
    assert {owner_of(user.username) for user in more} == {None}


def tasks() -> None:
    """A task is sent after the commit of all that its sender has open."""
    sent: list[str] = []

    def send() -> str:
        return enqueue(sent.append, 0, {"lease": None})

    assert sent == [send()]
    sent.clear()
    with transaction.atomic():
        one = send()
        assert sent == []
    assert sent == [one]
    with transaction.atomic(), transaction.atomic(using="log"):
        two = send()
        assert sent == [one]
    assert sent == [one, two]
    with transaction.atomic(using="log"), transaction.atomic():
        three = send()
    assert sent == [one, two, three]
    for using in ("default", "log"):
        with undone(using), transaction.atomic(using="log"), transaction.atomic():
            send()
    assert sent == [one, two, three]


async def outdated() -> None:
    """A log without tables is no outage: whoever needs it is told what to do."""
    bridge = get_bridge()
    command = r"manage.py migrate --database log\.$"
    for attempt in (
        bridge.publish("run", "update", 1),
        bridge.get_run("run"),
        anext(aiter(bridge.subscribe("run"))),
        asyncio.to_thread(get_sync_bridge().publish, "run", "update", 1),
        asyncio.to_thread(get_sync_bridge().get_run, "run"),
    ):
        with pytest.raises(LogOutdated, match=command) as raised:
            await attempt
        assert "Trying again" not in str(raised.value)
    await asyncio.to_thread(call_command, "migrate", verbosity=0)  # of the users
    client = AsyncClient()
    for path in ("/runs/run", "/runs/run/stream"):
        response = await client.get(path)
        assert response.status_code == 500
        assert response.json()["code"] == "log_outdated"
        assert "log_run" not in response.json()["message"]


async def vanishing() -> None:
    """A table that goes while a client follows is complained of, once a minute."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logging.getLogger("streambridge").addHandler(Listener())
    bridge = get_bridge()
    await bridge.publish("run", "update", 1)
    events = bridge.subscribe("run", heartbeat_interval=0.1)
    assert (await anext(events)).data == 1

    def rename(old: str, new: str) -> None:
        with connections["log"].cursor() as cursor:
            cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")
        connections["log"].close()

    table = Run._meta.db_table
    await asyncio.to_thread(rename, table, "elsewhere")
    await async_wait_until(
        lambda: any(line.startswith("Looking at the log failed.") for line in said), 20, "a word"
    )
    for _ in range(20):
        await anext(events)
    looks = [line for line in said if line.startswith("Looking at the log failed.")]
    assert len(looks) == 1
    assert "Run manage.py migrate --database log." in looks[0]
    await asyncio.to_thread(rename, "elsewhere", table)
    await bridge.publish_end("run")
    async with asyncio.timeout(20):
        assert [event.event async for event in events][-1] == "__end__"


def commands() -> None:
    """Commands and the beat task commit, also where transactions are manual by the settings."""
    for alias in connections:
        connections.settings[alias]["AUTOCOMMIT"] = False
    connections.close_all()
    call_command("streambridge_publish", "run", command=["echo", "one"], verbosity=0)
    state = asyncio.run(_state("run"))
    assert (state.status, state.head) == ("success", 1)
    call_command("streambridge_prune", "--older-than", "0", verbosity=0)
    with pytest.raises(RunNotFound):
        asyncio.run(_state("run"))


async def _state(run_id: str) -> RunState:
    return await get_bridge().get_run(run_id)


def deleting() -> None:
    """Without a router as well, ``Run.objects`` are the runs of the log."""
    bridge = get_sync_bridge()
    for run_id in ("one", "two"):
        bridge.publish(run_id, "update", 1, key="a")
    Run.objects.get(run_id="one").delete()
    assert Run.objects.filter(run_id="two").delete()[0] == 1
    assert not Event.objects.exists()
    assert not EventKey.objects.exists()
    with pytest.raises(RunNotFound):
        bridge.get_run("one")


if __name__ == "__main__":
    setup_test_environment()
    for name in sys.argv[1:]:
        function = globals()[name]
        if asyncio.iscoroutinefunction(function):
            asyncio.run(function())
        else:
            function()

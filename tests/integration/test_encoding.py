"""PostgreSQL that isn't UTF-8: refused with a sentence, and nobody suffers by another."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator

import psycopg
import pytest
from django.core.checks import Tags, run_checks
from django.core.management import call_command
from django.db import connections
from pytest_django import Settings

from streambridge_app import checks, get_bridge, get_sync_bridge, registry
from streambridge_app.doctor import postgresql
from streambridge_app.exceptions import InvalidEvent, InvalidRunId
from streambridge_app.log.connections import own_connection
from streambridge_app.serve.http_errors import refusal_of
from tests.contract.clients import client, data, deadline, replay
from tests.services import PostgresServer

pytestmark = pytest.mark.django_db(transaction=True, databases=["postgres"])

ALIAS = "postgres"
SNOWMAN = "\N{SNOWMAN}"

Make = Callable[[str], None]


@pytest.fixture
def log_in(postgres_server: PostgresServer, settings: Settings) -> Iterator[Make]:
    """Return a function that puts a new database with an encoding in the place of the log's."""
    settings.STREAMBRIDGE = {"DATABASE": ALIAS}
    usual = connections.settings[ALIAS]["NAME"]

    def make(encoding: str) -> None:
        name = f"encoded_{secrets.token_hex(4)}"
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(
                f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0".encode()
            )
        connections.settings[ALIAS]["NAME"] = name
        connections[ALIAS].close()
        try:
            call_command("migrate", database=ALIAS, verbosity=0, skip_checks=True)
        finally:
            connections[ALIAS].close()

    yield make
    registry.reset()
    connections[ALIAS].close()
    connections.settings[ALIAS]["NAME"] = usual


async def test_what_the_encoding_lacks_is_refused_with_a_sentence(log_in: Make) -> None:
    await asyncio.to_thread(log_in, "LATIN1")
    bridge, sync_bridge = get_bridge(), get_sync_bridge()

    def refusals() -> None:
        try:
            for write in (
                lambda: sync_bridge.publish("run", "update", SNOWMAN),
                lambda: sync_bridge.publish("run", SNOWMAN, 1),
                lambda: sync_bridge.publish("run", "update", 1, key=SNOWMAN),
                lambda: sync_bridge.create_run("run", metadata={"a": SNOWMAN}),
                lambda: sync_bridge.publish_end("run", error=SNOWMAN),
            ):
                with pytest.raises(InvalidEvent, match="with the encoding UTF8"):
                    write()
            with sync_bridge.producer("by handle") as run:
                run.publish("update", 1)
                run.publish("update", SNOWMAN)
        finally:
            connections.close_all()

    with pytest.raises(InvalidEvent, match="with the encoding UTF8"):
        await asyncio.to_thread(refusals)
    assert (await bridge.get_run("by handle")).status == "error"
    assert data(await replay(bridge, "by handle"))[0] == 1
    with pytest.raises(InvalidEvent, match="with the encoding UTF8"):
        await bridge.publish("run", "update", SNOWMAN)
    for call in (
        bridge.get_run(SNOWMAN),
        bridge.publish(SNOWMAN, "update", 1),
        bridge.publish_end(SNOWMAN),
        bridge.create_run(SNOWMAN),
        bridge.request_cancel(SNOWMAN),
        bridge.cleanup(SNOWMAN),
    ):
        with pytest.raises(InvalidRunId, match="with the encoding UTF8") as refused:
            await call
        assert refusal_of(refused.value).message == "The server's log can't hold this."
    await bridge.publish("run", "café", "\u0000 and é")
    await bridge.publish_end("run")
    (event,) = await replay(bridge, "run")
    assert (event.event, event.data) == ("café", "\u0000 and é")


async def test_others_of_the_commit_do_not_fail_with_it(log_in: Make) -> None:
    await asyncio.to_thread(log_in, "LATIN1")
    bridge = get_bridge()
    await bridge.publish("a", "update", 0)
    texts = [SNOWMAN if number in {3, 7} else number for number in range(1, 11)]
    outcomes = await asyncio.gather(
        *(bridge.publish("a", "update", text) for text in texts),
        bridge.publish("a", "update", "keyed", key="k"),
        *(bridge.publish(run, "update", 1) for run in ("b", "c")),
        bridge.publish_end("a"),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes[:10]] == [
        InvalidEvent if text == SNOWMAN else type(None) for text in texts
    ]
    assert outcomes[10:] == [None] * 4
    expected = [0, *(text for text in texts if text != SNOWMAN), "keyed"]
    assert data(await replay(bridge, "a")) == expected
    assert (await bridge.get_run("c")).head == 1


async def test_a_subscription_to_an_id_that_cannot_be_harms_no_other(log_in: Make) -> None:
    await asyncio.to_thread(log_in, "LATIN1")
    bridge = get_bridge()
    async with client(bridge, SNOWMAN, heartbeat=0.1) as none, client(bridge, "run") as live:
        await none.attached()
        await bridge.publish("run", "update", 1)
        async with deadline():
            assert data(await live.take(1)) == [1]
        await none.attached()


async def test_sql_ascii_keeps_all_bytes(log_in: Make) -> None:
    await asyncio.to_thread(log_in, "SQL_ASCII")
    bridge = get_bridge()
    await bridge.publish(SNOWMAN, "café", ["\u0000", SNOWMAN])
    await bridge.publish_end(SNOWMAN)
    (event,) = await replay(bridge, SNOWMAN)
    assert (event.event, event.data) == ("café", ["\u0000", SNOWMAN])


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_check_and_doctor_say_what_is_needed(log_in: Make, encoding: str) -> None:
    log_in(encoding)
    found = run_checks(tags=[Tags.database], databases=[ALIAS])
    assert [one.id for one in found if "W02" in str(one.id)] == ["streambridge.W020"]
    assert [one.id for one in run_checks(tags=[checks.TAG]) if "W02" in str(one.id)] == []
    connection = own_connection(ALIAS)
    try:
        (problem,) = postgresql.check_settings(connection).problems
    finally:
        connection.close()
    assert problem.text.startswith(f"the encoding is {encoding}")
    assert "ENCODING 'UTF8'" in problem.hint


def test_utf8_is_not_complained_of(log_in: Make) -> None:
    log_in("UTF8")
    found = run_checks(tags=[Tags.database], databases=[ALIAS])
    assert [one.id for one in found if "W02" in str(one.id)] == []

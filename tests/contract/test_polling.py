"""Looking at the log for many runs at once: a few events of each come by one query."""

import asyncio
import contextlib

import pytest
from django.db import connections

from streambridge_app import get_bridge
from streambridge_app.follow import poller
from streambridge_app.log import read
from streambridge_app.log.read import FEW, FEW_BYTES, Place, read_few
from streambridge_app.models import Event, Run
from tests.contract.clients import client, data, publish, seqs
from tests.contract.conftest import DATABASE_STACKS

on_databases = pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)

LARGE = "x" * (FEW_BYTES + 1)


@pytest.fixture
async def polling(stack, settings):
    """A bridge that no message reaches, and all calls of read_few."""
    settings.CHANNEL_LAYERS = {
        **settings.CHANNEL_LAYERS,
        stack.channel_layer: {"BACKEND": "tests.contract.layers.DeafLayer"},
    }
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "POLL_INTERVAL": 0.2}
    bridge = get_bridge()
    yield bridge
    await bridge.close()


@pytest.fixture
def calls(monkeypatch):
    """The places of each query."""
    found = []

    def recorded(places, using):
        found.append(list(places))
        return read_few(places, using)

    monkeypatch.setattr(read, "read_few", recorded)
    return found


@pytest.fixture
def few(stack, in_thread):
    async def call(*places):
        return await in_thread(read_few, list(places), stack.database)

    return call


@pytest.fixture
def place_of(stack, in_thread):
    """Return the place before a run's first event."""

    async def call(run_id):
        (head,) = (await in_thread(read.heads, [run_id], stack.database)).values()
        return Place(head.key, head.epoch, 0)

    return call


@on_databases
async def test_clients_of_many_runs_see_exactly_all_events(polling, calls):
    sent = {f"run-{number}": [[number, n] for n in range(number)] for number in range(1, 30)}
    sent["large"] = [1, LARGE, 2, LARGE, LARGE, 3]
    sent["many"] = list(range(3 * FEW))
    for run_id in sent:
        await polling.create_run(run_id)
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            run_id: await stack.enter_async_context(client(polling, run_id, heartbeat=0.1))
            for run_id in sent
        }
        await asyncio.gather(*(one.attached() for one in clients.values()))
        calls.clear()

        async def produce(run_id):
            async with polling.producer(run_id) as run:
                for item in sent[run_id]:
                    await run.publish("item", item)

        await asyncio.gather(*map(produce, sent))
        for run_id, one in clients.items():
            events = await one.rest()
            assert data(events) == sent[run_id]
            assert seqs(events) == list(range(1, len(events) + 1))
    assert any(len(places) > 5 for places in calls)


@on_databases
async def test_the_next_events_of_each_run_and_nothing_else(bridge, few, place_of):
    for run_id, count in (("one", 3), ("two", 2 * FEW), ("other", 5)):
        await publish(bridge, run_id, count)
    one, two = [await place_of(run_id) for run_id in ("one", "two")]
    found = await few(one._replace(seq=1), two, Place(0, 1, 0))
    assert {place.key: (batch.first, list(batch.data)) for place, batch in found.items()} == {
        one.key: (2, ["2", "3"]),
        two.key: (1, [str(number) for number in range(1, FEW + 1)]),
    }
    assert {batch.epoch for batch in found.values()} <= {one.epoch, two.epoch}
    assert await few(one._replace(seq=3)) == {}


@on_databases
async def test_large_events_leave_no_hole(bridge, few, place_of):
    async with bridge.producer("run") as run:
        for item in (1, LARGE, 2, "é" * (FEW_BYTES // 2), 3):
            await run.publish("item", item)
    place = await place_of("run")
    numbers = {}
    for seq in range(5):
        batch = (await few(place._replace(seq=seq))).values()
        numbers[seq] = [number for one in batch for number in range(one.first, one.last + 1)]
    assert numbers == {0: [1], 1: [], 2: [3, 4], 3: [4], 4: [5]}


@on_databases
async def test_what_was_trimmed_shows_as_a_gap(bridge, few, place_of):
    await publish(bridge, "run", 5)
    await bridge.trim("run", keep=2)
    place = await place_of("run")
    assert (await few(place))[place].first == 4


@pytest.mark.parametrize("stack", DATABASE_STACKS[1:2], indirect=True)
async def test_postgresql_goes_from_the_places_to_the_events(bridge, stack, in_thread):
    """With few long runs it would rather read all events, if it might choose."""
    for number in range(3):
        await publish(bridge, f"run-{number}", 1)

    def plan():
        with connections[stack.database].cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {Event._meta.db_table} "  # noqa: S608 - names of our tables
                "(run_id, seq, byte_offset, event, data, created_at) "
                "SELECT id, seq, seq * 100, 'item', repeat('x', 100), now() "
                f"FROM {Run._meta.db_table}, generate_series(2, 20000) AS seq"
            )
            cursor.execute(f"ANALYZE {Event._meta.db_table}")
            keys = list(Run.objects.using(stack.database).values_list("id", flat=True)) * 70
            places = (keys, [19_990] * len(keys))
            cursor.execute(f"EXPLAIN {read._FEW_POSTGRESQL}", places)
            return "\n".join(line for (line,) in cursor.fetchall())

    assert f"Seq Scan on {Event._meta.db_table}" not in await in_thread(plan)


@on_databases
async def test_more_runs_than_one_query_takes(bridge, few, place_of, monkeypatch):
    monkeypatch.setattr(read, "RUNS_PER_QUERY", 2)
    for number in range(5):
        await publish(bridge, f"run-{number}", 1, first=number)
    places = [await place_of(f"run-{number}") for number in range(5)]
    found = await few(*places)
    assert [list(found[place].data) for place in places] == [[str(n)] for n in range(5)]


@pytest.fixture
async def many(stack, settings, monkeypatch):
    """A bridge without a layer that follows ten runs, which are many, and their clients."""
    settings.CHANNEL_LAYERS = {}
    monkeypatch.setattr(poller, "MANY", 3)
    bridge = get_bridge()
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for number in range(10):
            if number:
                await bridge.create_run(f"run-{number}")
            one = client(bridge, f"run-{number}", heartbeat=0.1)
            clients.append(await stack.enter_async_context(one))
            await clients[-1].attached()
        yield bridge, clients
    await bridge.close()


on_sqlite = pytest.mark.parametrize("stack", DATABASE_STACKS[:1], indirect=True)


@on_sqlite
async def test_of_many_runs_those_without_news_are_left_alone(many, monkeypatch):
    monkeypatch.setattr(poller, "ALL_SHARE", 1e-9)
    bridge, clients = many
    await bridge.publish("another", "number", 0)
    await bridge.publish("run-1", "number", 0)
    assert data(await clients[1].take(1)) == [0]
    asked = []
    heads = read.heads

    def recorded(run_ids, using):
        asked.append(set(run_ids))
        return heads(run_ids, using)

    monkeypatch.setattr(read, "heads", recorded)
    for number in range(1, 10):
        await publish(bridge, "another", 5)
        await bridge.publish("run-2", "number", number)
        assert data(await clients[2].take(1)) == [number]
    assert asked
    # All may have been looked at once more, by a look that had begun before.
    assert len([runs for runs in asked if not runs <= {"run-1", "run-2"}]) <= 1


@on_sqlite
async def test_of_many_runs_each_kind_of_news_is_found(many):
    bridge, clients = many
    await bridge.publish("run-0", "number", 0)  # it is not there yet
    assert data(await clients[0].take(1)) == [0]
    await bridge.publish_end("run-1")  # without an event
    assert await clients[1].rest() == []
    await bridge.cleanup("run-2")
    assert await clients[2].rest() == []
    await publish(bridge, "run-3", 500)
    await bridge.publish_end("run-3", error="failed")
    assert len(await clients[3].rest()) == 501
    await publish(bridge, "run-4", 5)
    await bridge.trim("run-4", keep=1)
    assert len(await clients[4].take(1)) == 1


@on_sqlite
async def test_rows_that_are_numbered_anew_hide_no_news(many, in_thread):
    bridge, clients = many
    await publish(bridge, "another", 50)
    await bridge.publish("run-5", "number", 0)
    assert data(await clients[5].take(1)) == [0]
    await bridge.cleanup("another")
    await bridge.cleanup("run-5")
    await in_thread(_vacuum)
    await bridge.publish("run-6", "number", 0)
    assert data(await clients[6].take(1)) == [0]


def _vacuum():
    with connections["default"].cursor() as cursor:
        cursor.execute("VACUUM")

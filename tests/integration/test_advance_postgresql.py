"""How PostgreSQL goes about an append, whatever else is in the table of runs."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import pytest
from django.db import connections, transaction
from django.utils import timezone

from streambridge_app.log.sql import postgresql
from streambridge_app.log.writes import Write
from streambridge_app.models import Event, Run
from tests.services import wait_until

pytestmark = pytest.mark.django_db(transaction=True, databases=["postgres"])

OTHERS = 2_000
"""Runs that are running, so many that to read all of them is not the quickest way to a few."""


def runs(number: int) -> list[str]:
    ids = [uuid.uuid4().hex for _ in range(number)]
    now = timezone.now()
    Run.objects.using("postgres").bulk_create(
        Run(run_id=run_id, epoch=epoch, created_at=now) for epoch, run_id in enumerate(ids, 1)
    )
    return ids


def writes(run_ids: list[str], events: int) -> list[Write]:
    return [Write(run_id, ["n"] * events, ["1"] * events) for run_id in run_ids]


CASES = pytest.mark.parametrize(("number", "events"), [(1, 1), (1, 3), (3, 1), (3, 3)])


@CASES
def test_an_append_does_not_read_the_other_runs_that_are_running(number, events):
    run_ids = runs(OTHERS)[:number]
    statement, parameters = postgresql.statement_for(writes(run_ids, events), timezone.now(), "200")
    with connections["postgres"].cursor() as cursor:
        cursor.execute("EXPLAIN " + statement.text, parameters)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Index Cond: ((run_id)::text =" in plan  # by its id, as it should be
    assert "streambridge_run_status" not in plan
    assert "Seq Scan on streambridge_app_run" not in plan


@CASES
def test_the_plan_of_an_append_is_made_once(own, number, events):
    run_ids = runs(number)
    appends = 20
    for _ in range(appends):
        outcomes = postgresql.advance(own, writes(run_ids, events), timezone.now())
        assert len(list(outcomes)) == number
    with own.cursor() as cursor:
        cursor.execute(
            "SELECT custom_plans, generic_plans FROM pg_prepared_statements "
            "WHERE name LIKE 'streambridge_advance%%'"
        )
        ((custom, generic),) = cursor.fetchall()
    # PostgreSQL compares the plans for the first five with one that is made for all.
    assert (custom, generic) == (5, appends - 5)


@CASES
def test_each_event_knows_how_many_bytes_are_before_it(own, number, events):
    run_ids = runs(number)
    for data in ("1", '"größer"', '""'):
        appended = postgresql.advance(
            own,
            [
                Write(run_id, ["n"] * events, [data, str(10**place), data][:events])
                for place, run_id in enumerate(run_ids)
            ],
            timezone.now(),
        )
        assert len(list(appended)) == number
    for run in Run.objects.using("postgres"):
        assert offsets_are_right(run) == 3 * events


def offsets_are_right(run: Run) -> int:
    """Check the offsets of a run's events, and return how many it has."""
    rows = Event.objects.using("postgres").filter(run_id=run.id).order_by("seq")
    sizes = [len(row.data.encode()) for row in rows]
    assert [row.byte_offset for row in rows] == [*accumulate(sizes, initial=0)][:-1]
    assert run.size == sum(sizes)
    return len(sizes)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_runs_of_one_append_have_offsets_of_their_own(own, place):
    run_ids = runs(3)
    appended = [
        Write(run_ids[0], ["n"] * 3, ["1", '"größer"', "22"]),
        Write(run_ids[1], ["n"] * 2, ["333", "4"]),
    ]
    appended.insert(place, Write(run_ids[2], [], [], end="success"))
    for writes_of_one in (appended, [write for write in appended if write.end is None]):
        list(postgresql.advance(own, writes_of_one, timezone.now()))
    found = [
        offsets_are_right(Run.objects.using("postgres").get(run_id=run_id)) for run_id in run_ids
    ]
    assert found == [6, 4, 0]


def test_an_end_goes_with_the_events_of_other_runs(own):
    first, second, third = runs(3)
    appended = postgresql.advance(
        own,
        [*writes([first], 1), Write(second, [], [], end="success"), *writes([third], 2)],
        timezone.now(),
    )
    assert {one.run_id: (len(one.batch), one.status) for one in appended} == {
        first: (1, "running"),
        second: (0, "success"),
        third: (2, "running"),
    }


def waits_for_a_lock() -> bool:
    with connections["postgres"].cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(cursor.fetchone()[0])


@pytest.mark.parametrize("events", [1, 2])
@pytest.mark.parametrize("number", [1, 3])
def test_a_run_that_is_deleted_while_an_append_waits_for_it_gets_nothing(own, number, events):
    run_ids = runs(number)
    deleted = Run.objects.using("postgres").get(run_id=run_ids[0])
    with ThreadPoolExecutor(1) as executor:
        with transaction.atomic(using="postgres"):
            Run.objects.using("postgres").filter(id=deleted.id).update(run_id=None)
            appending = executor.submit(
                lambda: list(postgresql.advance(own, writes(run_ids, events), timezone.now()))
            )
            wait_until(waits_for_a_lock, 10, "the append to wait for the deletion")
        outcomes = appending.result(10)
    assert {outcome.run_id for outcome in outcomes} == set(run_ids[1:])
    counts = [
        Event.objects.using("postgres").filter(run_id=run.id).count()
        for run in Run.objects.using("postgres").order_by("id")
    ]
    assert sorted(counts) == [0, *[events] * (number - 1)]

"""Streamed Celery tasks that run where they are sent: whole, or ended with a reason."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from celery.exceptions import Retry
from django.db import connections, transaction

from project.celery import app
from streambridge_app import get_bridge, get_sync_bridge
from streambridge_app.contract.sync import SyncProducer
from streambridge_app.contrib.celery import StreamedTask, stream, streamed_task
from streambridge_app.exceptions import InsideTransaction
from streambridge_app.models import Run
from tests.contract.clients import data, replay

pytestmark = pytest.mark.django_db(transaction=True)


@streamed_task
def count(run: SyncProducer, last: int) -> None:
    for number in range(last):
        run.publish("number", number)


@streamed_task(bind=True, max_retries=2)
def try_again(self: Any, run: SyncProducer) -> None:
    run.publish("number", self.request.retries)
    if self.request.retries < 2:
        raise self.retry(countdown=0)


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


async def test_events_are_there_when_the_task_was_sent() -> None:
    run_id = await _in_thread(stream, count, [3])
    assert data(await replay(get_bridge(), run_id)) == [0, 1, 2]
    assert (await get_bridge().get_run(run_id)).status == "success"


async def test_signature_brings_its_arguments() -> None:
    run_id = await _in_thread(stream, count.s(3))
    assert data(await replay(get_bridge(), run_id)) == [0, 1, 2]
    assert (await get_bridge().get_run(run_id)).status == "success"


async def test_options_are_parted_between_the_run_and_celery() -> None:
    class Asked(StreamedTask[..., None]):
        def apply_async(self, *args: Any, **options: Any) -> Any:
            asked.append(options)
            return super().apply_async(*args, **options)

    asked: list[dict[str, Any]] = []
    counted = streamed_task(base=Asked, name="counted")(count.run.__wrapped__)
    run_id = await _in_thread(
        partial(stream, counted, [3], metadata={"a": 1}, queue="slow", customer=7)
    )
    assert asked == [{"task_id": run_id, "queue": "slow", "customer": 7}]
    assert (await get_bridge().get_run(run_id)).metadata == {"a": 1}


async def test_attempts_are_one_run() -> None:
    def send() -> str:
        try:
            return stream(try_again)
        except Retry:  # of the first attempt, if Celery hands it on
            return str(Run.objects.get().run_id)

    run_id = await _in_thread(send)
    assert data(await replay(get_bridge(), run_id)) == [0, 1, 2]
    assert (await get_bridge().get_run(run_id)).status == "success"


async def test_task_sent_in_a_transaction_runs_after_it() -> None:
    def send() -> str:
        with transaction.atomic():
            run_id = stream(count, [3])
            assert get_sync_bridge().get_run(run_id).head == 0
        return run_id

    run_id = await _in_thread(send)
    assert data(await replay(get_bridge(), run_id)) == [0, 1, 2]


async def test_task_that_runs_inside_a_transaction_ends_its_run_with_the_reason() -> None:
    def send() -> str:
        with transaction.atomic():
            run_id = get_sync_bridge().create_run()
            sent = count.apply_async([3], task_id=run_id)
            assert isinstance(sent.result, InsideTransaction)
        return run_id

    run_id = await _in_thread(send)
    (error,) = await replay(get_bridge(), run_id)
    assert error.data["error"] == "InsideTransaction"
    assert "atomic()" in error.data["message"]
    assert (await get_bridge().get_run(run_id)).status == "error"


async def test_that_end_goes_with_the_transaction() -> None:
    def send() -> str:
        run_id = get_sync_bridge().create_run()
        with transaction.atomic():
            count.apply_async([3], task_id=run_id)
            transaction.set_rollback(True)
        return run_id

    run_id = await _in_thread(send)
    run = await get_bridge().get_run(run_id)
    assert (run.status, run.head) == ("running", 0)


async def _in_thread(function: Callable[..., str], *args: Any) -> str:
    def call() -> str:
        try:
            return function(*args)
        finally:
            connections.close_all()

    return await asyncio.to_thread(call)

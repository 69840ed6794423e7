"""Calls for type checkers, which let each line through but those that end in `# refused`."""

import uuid
from contextlib import aclosing
from typing import Unpack, assert_type

from django.tasks import TaskContext

from streambridge_app import (
    Producer,
    RunOptions,
    StreamEvent,
    SyncProducer,
    get_bridge,
    get_sync_bridge,
)
from streambridge_app.access import make_run_token
from streambridge_app.backends.memory import MemoryBridge
from streambridge_app.contrib import celery, tasks


def without_handle(number: int) -> None: ...


def with_handle(run: SyncProducer, number: int, *, name: str = "") -> int: ...  # type: ignore[empty-body]


async def runs_are_named_by_text_and_by_uuids(run_id: uuid.UUID) -> None:
    bridge = get_bridge()
    assert_type(await bridge.create_run(run_id), str)
    await bridge.create_run(owner=7, metadata={"a": 1}, lease=60, cancel_after=0.5, keep=None)
    await bridge.create_run(max_event=7)  # refused
    await bridge.create_run(max_events="7")  # refused
    await MemoryBridge().create_run(max_event=7)  # refused
    await bridge.publish(run_id, "step")
    await bridge.publish(7, "step")  # refused
    async with aclosing(bridge.subscribe(run_id, last_event_id="now")) as events:
        async for event in events:
            assert_type(event, StreamEvent)
    async with bridge.producer(run_id) as run:
        assert_type(run.run_id, str)
    await MemoryBridge().trim(run_id, keep=1)
    make_run_token(run_id)


def and_so_in_the_sync_api(run_id: uuid.UUID) -> None:
    bridge = get_sync_bridge()
    assert_type(bridge.create_run(run_id), str)
    bridge.create_run(max_event=7)  # refused
    bridge.create_run(metadata=[7])  # refused
    bridge.get_run(b"run")  # refused
    with bridge.producer(run_id) as run:
        run.publish("step", key="step-7")
        run.publish(7)  # refused
    for event in bridge.subscribe(run_id):
        assert_type(event, StreamEvent)


def own_run(title: str, **options: Unpack[RunOptions]) -> str:
    return get_sync_bridge().create_run(title, **options)


def options_are_handed_on() -> None:
    own_run("seven", owner=7, max_events=7)
    own_run("seven", max_event=7)  # refused
    own_run("seven", lease="long")  # refused


@celery.streamed_task
def plain(run: SyncProducer, number: int, *, name: str = "") -> int:
    run.publish("number", number)
    return number


@celery.streamed_task(bind=True, max_retries=3)
def bound(self: celery.StreamedTask[..., None], run: SyncProducer, number: int) -> None:
    raise self.retry(countdown=1)


def celery_tasks_have_the_arguments_after_the_handle() -> None:
    assert_type(plain(7, name="seven"), int)
    plain.delay(7, name="seven")
    plain.apply_async([7], countdown=5)
    bound.delay(7)
    plain("seven")  # refused
    plain.delay()  # refused
    plain.delay(7, title="seven")  # refused
    bound.delay(bound, 7)  # refused
    celery.streamed_task(with_handle, acks_late=True).delay(7)
    celery.streamed_task(with_handle).delay("seven")  # refused
    celery.streamed_task(acks_late=True)(with_handle).delay("seven")  # refused
    celery.streamed_task(without_handle)  # refused
    celery.streamed_task(acks_late=True)(without_handle)  # refused
    celery.streamed_task(bind=True)(with_handle)  # refused
    celery.streamed_task(with_handle, bind=True)  # refused


def celery_tasks_are_streamed() -> None:
    assert_type(celery.stream(plain, [7], {"name": "seven"}, queue="slow"), str)
    celery.stream(plain.s(7, name="seven"), owner=1)
    celery.stream(bound.si(7), lease=None)
    celery.stream(plain.s(7).set(MessageGroupId="seven"), countdown=5, max_events=7)
    celery.stream(plain.s("seven"))  # refused
    celery.stream(bound.si())  # refused
    celery.stream(with_handle, [7])  # refused
    celery.stream(plain, 7)  # refused
    celery.stream(plain, [7], max_event=7)  # refused
    celery.stream(plain, [7], max_events="many")  # refused
    celery.stream(plain, [7], countdown="soon")  # refused


@tasks.streamed_task
def blocking(run: SyncProducer, number: int, *, name: str = "") -> None: ...


@tasks.streamed_task(priority=1)
async def awaiting(run: Producer, number: int) -> None: ...


@tasks.streamed_task(takes_context=True)
def in_context(context: TaskContext[..., None], run: SyncProducer, number: int) -> None: ...


def django_tasks_have_the_arguments_after_the_run_id() -> None:
    blocking.enqueue("run", 7, name="seven")
    awaiting.using(priority=2).enqueue("run", 7)
    in_context.enqueue("run", 7)
    blocking.enqueue("run", "seven")  # refused
    blocking.enqueue(7)  # refused
    awaiting.enqueue("run")  # refused
    in_context.enqueue("run", 7, 8)  # refused
    tasks.streamed_task(without_handle)  # refused
    tasks.streamed_task(priority=1)(without_handle)  # refused
    tasks.streamed_task(takes_context=True)(with_handle)  # refused


def django_tasks_are_streamed() -> None:
    assert_type(tasks.stream(blocking, [7], {"name": "seven"}), str)
    tasks.stream(awaiting.using(priority=2), [7], keep=60)
    tasks.stream(with_handle, [7])  # refused
    tasks.stream(blocking, [7], max_events="many")  # refused
    tasks.stream(blocking, [7], max_event=7)  # refused

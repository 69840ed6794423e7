"""Streamed tasks of django.tasks end their runs; a Django without them is told so at the import."""

import asyncio
import importlib
import re
from datetime import timedelta
from functools import partial

import django
import pytest
from django.db import connections, transaction
from django.utils import timezone

from streambridge_app import get_bridge, get_sync_bridge
from streambridge_app.exceptions import CancelRequested
from streambridge_app.models import Run
from tests.contract.clients import data, replay

pytestmark = pytest.mark.django_db(transaction=True)

MODULE = "streambridge_app.contrib.tasks"

if django.VERSION < (6, 0):

    def test_older_django_is_told_what_is_missing():
        with pytest.raises(ImportError, match=re.escape("comes with Django 6.0")):
            importlib.import_module(MODULE)

else:
    from streambridge_app.contrib.tasks import stream, streamed_task

    @streamed_task
    def count(run, last, *, step=1):
        for number in range(0, last, step):
            run.publish("number", number)

    @streamed_task
    async def count_async(run, last):
        for number in range(last):
            await run.publish("number", number)

    @streamed_task(takes_context=True)
    def name_itself(context, run):
        run.publish("task", context.task_result.task.name)

    @streamed_task
    def fail(run):
        raise ValueError("it went wrong")

    @streamed_task
    def be_cancelled(run):
        get_sync_bridge().request_cancel(run.run_id)
        while True:
            run.publish("number", 1)

    @pytest.fixture
    def streamed():
        """Return a function that streams a task in a thread and returns its run and events."""

        async def call(task, *args, function=stream, **kwargs):
            run_id = await asyncio.to_thread(_closing, function, task, args, kwargs)
            events = await replay(get_bridge(), run_id)
            return await get_bridge().get_run(run_id), events

        return call

    def _closing(function, task, args, kwargs):
        try:
            return function(task, args, kwargs)
        finally:
            connections.close_all()

    async def test_task_that_runs_inside_a_transaction_ends_its_run_with_the_reason(streamed):
        def send(task, args, kwargs):
            with transaction.atomic():
                run_id = get_sync_bridge().create_run()
                task.enqueue(run_id, *args)
            return run_id

        run, (error,) = await streamed(count, 10, function=send)
        assert run.status == "error"
        assert error.data["error"] == "InsideTransaction"

    async def test_task_that_returns_ends_its_run_success(streamed):
        run, events = await streamed(count, 10, step=3)
        assert run.status == "success"
        assert data(events) == [0, 3, 6, 9]

    async def test_coroutine_publishes_with_await(streamed):
        run, events = await streamed(count_async, 3)
        assert run.status == "success"
        assert data(events) == [0, 1, 2]

    async def test_context_comes_first(streamed):
        _, events = await streamed(name_itself)
        assert data(events) == ["name_itself"]

    async def test_task_that_fails_ends_its_run_with_the_error(streamed):
        run, (error,) = await streamed(fail)
        assert run.status == "error"
        assert error.data == {"error": "ValueError", "message": "it went wrong"}

    async def test_task_that_is_asked_to_stop_ends_its_run_cancelled(streamed):
        run, _ = await streamed(be_cancelled)
        assert run.status == "cancelled"

    async def test_task_that_was_asked_to_stop_before_it_began_does_not_run(streamed):
        def cancelled_first(task, args, kwargs):
            run_id = get_sync_bridge().create_run()
            get_sync_bridge().request_cancel(run_id)
            result = task.enqueue(run_id, *args)
            assert result.errors[0].exception_class is CancelRequested
            return run_id

        for task in (count, count_async):
            run, events = await streamed(task, 3, function=cancelled_first)
            assert (run.status, events) == ("cancelled", [])

    async def test_task_is_enqueued_with_the_transaction(streamed):
        def in_transaction(task, args, kwargs):
            with transaction.atomic():
                run_id = stream(task, args, kwargs)
                assert get_sync_bridge().get_run(run_id).status == "running"
            return run_id

        run, events = await streamed(count, 3, function=in_transaction)
        assert run.status == "success"
        assert data(events) == [0, 1, 2]

    async def test_run_of_a_task_that_never_starts_is_lost(streamed, settings):
        settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}}
        run, (error,) = await streamed(count, 3, function=partial(stream, lease=0.2))
        assert run.status == "lost"
        assert error.data["error"] == "ProducerLost"

    @pytest.mark.parametrize("wrong", [{"max_event": 1}, {"wait": 1}, {"run_id": "run"}])
    def test_unknown_option_is_named_and_makes_no_run(wrong):
        with pytest.raises(TypeError, match=f"'{next(iter(wrong))}'"):
            stream(count, [3], **wrong)
        assert not Run.objects.exists()

    @pytest.mark.parametrize(("days", "options"), [(1, {}), (3, {"run_after": 2})])
    def test_task_has_a_day_to_start_once_it_is_due(settings, days, options):
        settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}}
        due = {name: timezone.now() + timedelta(days) for name, days in options.items()}
        run = Run.objects.get(run_id=stream(count.using(**due), [3]))
        assert run.lease_ms == pytest.approx(days * 86_400_000, rel=0.01)

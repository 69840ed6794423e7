"""`docs/testing.md` says only what works: its files are a project, and its tests run."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django
import pytest
from django.test import TestCase, TransactionTestCase

from streambridge_app.testing import StreamBridgeTestMixin
from tests.services import HOST, ROOT, TIMEOUT_SCALE, PostgresServer, spawn

PAGE = (ROOT / "docs" / "testing.md").read_text()
FILES = dict(re.findall(r"`(reports/\w+\.py)`.*?```python\n(.*?)^```", PAGE, re.DOTALL | re.M))
TASKS = "reports/test_django_tasks.py"

SETTINGS = """
INSTALLED_APPS = ["daphne", *INSTALLED_APPS, "streambridge_app", "reports"]
ASGI_APPLICATION = "mysite.asgi.application"
CELERY_TASK_ALWAYS_EAGER = True
SILENCED_SYSTEM_CHECKS = ["streambridge.W002", "streambridge.W006"]
"""

URLS = """
from django.urls import include, path
from reports.views import start
urlpatterns = [path("reports/", start), path("", include("streambridge_app.urls"))]
"""

CELERY = """
from celery import Celery
app = Celery("mysite")
app.config_from_object("django.conf:settings", namespace="CELERY")
"""

# What the page says of other tests, by names that tell which run they belong to.
MORE = """
import io
import threading
from unittest import mock

from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test import TestCase, TransactionTestCase

from streambridge_app import get_bridge, get_sync_bridge
from streambridge_app.contrib.celery import stream
from streambridge_app.exceptions import InsideTransaction, LogUnavailable
from streambridge_app.testing import StreamBridgeTestMixin
from .tasks import write_report

class BlockTests(StreamBridgeTestMixin, TestCase):
    def test_task_waits_for_the_commit(self):
        with self.captureOnCommitCallbacks(execute=True):
            with transaction.atomic():
                run_id = stream(write_report, [1])
            self.assertEqual(self.recorder.events(run_id), [])
        self.recorder.assert_published(run_id, "page")
        with transaction.atomic(), self.assertRaises(InsideTransaction):
            get_sync_bridge().producer("run")

    def test_each_test_is_empty(self):
        self.assertFalse(get_sync_bridge().run_exists("run"))
        get_sync_bridge().publish("run", "page", 1)

    test_and_this_one = test_each_test_is_empty

    def test_commands(self):
        with mock.patch("sys.stdin", io.StringIO("one\\ntwo\\n")):
            call_command("streambridge_publish", "lines", verbosity=0)
        out = io.StringIO()
        call_command("streambridge_tail", "lines", stdout=out, verbosity=0)
        self.assertIn('{"line":"two"}', out.getvalue())
        call_command("streambridge_prune", "--dry-run", stdout=out)
        self.assertIn("Would delete 0 runs", out.getvalue())

    def test_thread_is_told_why_it_waits(self):
        get_sync_bridge().publish("run", "page", 1)
        errors = []
        def work():
            try:
                get_sync_bridge().publish("run", "page", 2)
            except LogUnavailable as error:
                errors.append(error)
            connections.close_all()
        if connection.vendor == "sqlite":
            with mock.patch.dict(connection.settings_dict["OPTIONS"], timeout=0.1):
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
            self.assertIn("belongs to its thread", errors[0].__notes__[0])

    async def test_async_test(self):
        async with get_bridge().producer("run") as run:
            await run.publish("page", 1)
        self.assertEqual((await self.recorder.await_for("run", "page")).data, 1)

class CommittingTests(StreamBridgeTestMixin, TransactionTestCase):
    def test_other_thread(self):
        def work():
            with get_sync_bridge().producer("thread") as run:
                run.publish("page", 1)
        thread = threading.Thread(target=work)
        thread.start()
        self.assertEqual(self.recorder.wait_for("thread", "page", timeout=30).data, 1)
        thread.join()

    def test_same_thread(self):
        with get_sync_bridge().producer("run") as run:
            run.publish("page", 1)
        self.assertEqual([e.data for e in get_sync_bridge().subscribe("run")], [1, None])
"""

WITHOUT_MIXIN = """
from asgiref.sync import async_to_sync
from django.test import TestCase

from streambridge_app import get_bridge, get_sync_bridge
from streambridge_app.exceptions import InsideTransaction, LogUnavailable, RunNotFound

class Tests(TestCase):
    def check(self, call, *arguments):
        with self.assertRaises((InsideTransaction, LogUnavailable, RunNotFound)) as failed:
            call(*arguments)
        self.assertIn("StreamBridgeTestMixin", failed.exception.__notes__[0])

    def test_errors_name_the_mixin(self):
        bridge = get_sync_bridge()
        bridge.publish("run", "page", 1)
        self.check(bridge.producer, "run")
        self.check(bridge.events, "run")
        self.check(async_to_sync(get_bridge().publish), "run", "page", 2)
"""

PYTEST_ONLY = """
import pytest
from django.test import TestCase

from streambridge_app import get_bridge, get_sync_bridge
from streambridge_app.models import Run

@pytest.mark.parametrize("again", [1, 2])
def test_each_test_is_empty(db, again):
    assert not get_sync_bridge().run_exists("run")
    get_sync_bridge().publish("run", "page", 1)
    assert Run.objects.count() == 1

@pytest.mark.asyncio
@pytest.mark.django_db
async def test_async_test_in_a_transaction(recorder):
    async with get_bridge().producer("run") as run:
        await run.publish("page", 1)
    assert [event.data async for event in get_bridge().subscribe("run")] == [1, None]
    await recorder.aassert_published("run", "page", 1)

def test_nothing_is_left_of_it(db):
    assert not get_sync_bridge().run_exists("run")

@pytest.mark.asyncio
@pytest.mark.django_db(transaction=True)
async def test_async_test_that_commits(recorder):
    async with get_bridge().producer("run") as run:
        await run.publish("page", 1)
    assert (await recorder.await_for("run", "page", timeout=30)).data == 1

def test_without_a_database(settings, recorder):
    settings.STREAMBRIDGE = {"BACKEND": "streambridge_app.backends.memory.MemoryBridge"}
    get_sync_bridge().publish("run", "page", 1)
    recorder.assert_published("run", "page", 1)

class TestWithoutMixin(TestCase):
    def test_has_a_clean_bridge_as_well(self):
        get_sync_bridge().publish("run", "page", 1)
        self.assertEqual([e.data for e in get_sync_bridge().events("run")], [1])
"""

Run = Callable[..., str]


@pytest.fixture(params=["sqlite", "postgres"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Return a function that runs Python in a project made from the page, and its tests pass."""
    startproject = [sys.executable, "-m", "django", "startproject", "mysite", tmp_path]
    assert spawn(startproject).wait(60 * TIMEOUT_SCALE) == 0
    settings = SETTINGS
    if request.param == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        settings += f"""
DATABASES = {{"default": {{
    "ENGINE": "django.db.backends.postgresql", "NAME": "postgres",
    "HOST": "{HOST}", "PORT": {postgres.port}, "USER": "postgres",
    "TEST": {{"NAME": "reports_{tmp_path.name[-20:].lower()}"}},
}}}}
"""
    write(tmp_path, "mysite/settings.py", settings)
    write(tmp_path, "mysite/urls.py", URLS)
    write(tmp_path, "mysite/__init__.py", CELERY)
    write(tmp_path, "pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = mysite.settings\n")
    write(tmp_path, "reports/__init__.py", "")
    write(tmp_path, "reports/tests_more.py", MORE)
    write(tmp_path, "reports/tests_without_mixin.py", WITHOUT_MIXIN)
    write(tmp_path, "reports/test_pytest_only.py", PYTEST_ONLY)
    for name, code in FILES.items():
        if name != TASKS or django.VERSION >= (6,):
            write(tmp_path, name, code)
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [f"{name} = {target}" for name, target in entry_points["pytest11"].items()]
    installed = "streambridge_django-0.dist-info"  # as pip leaves it
    write(tmp_path, f"{installed}/METADATA", "Metadata-Version: 2.1\nName: streambridge-django\n")
    write(tmp_path, f"{installed}/entry_points.txt", "\n".join(["[pytest11]", *lines]))

    def run(*arguments: str) -> str:
        process = spawn(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        out, _ = process.output(timeout=120)
        assert process.returncode == 0, out
        return str(out)

    return run


def write(directory: Path, name: str, text: str) -> None:
    (directory / name).parent.mkdir(exist_ok=True)
    with (directory / name).open("a") as file:
        file.write(text)


def test_the_page_with_djangos_test_runner(run: Run) -> None:
    modules = ["reports.tests", "reports.tests_more", "reports.tests_without_mixin"]
    if django.VERSION >= (6,):
        modules.append("reports.test_django_tasks")
    out = run("manage.py", "test", "--noinput", *modules)
    assert f"Ran {12 + (django.VERSION >= (6,))} tests" in out, out


def test_the_page_with_pytest(run: Run) -> None:
    files = ["reports/tests.py", "reports/tests_more.py", "reports/test_reports.py"]
    files += ["reports/test_pytest_only.py"]
    if django.VERSION >= (6,):
        files.append(TASKS)
    out = run("-m", "pytest", "-p", "no:cacheprovider", "-q", *files)
    assert f"{21 + (django.VERSION >= (6,))} passed" in out, out


@pytest.mark.parametrize("case", [TestCase, TransactionTestCase])
def test_mixin_in_the_wrong_place_is_refused(case: Any) -> None:
    with pytest.raises(TypeError, match="must come before"):
        type("Tests", (case, StreamBridgeTestMixin), {})

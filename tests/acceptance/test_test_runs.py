"""The tests of somebody's project end in silence, although they use the bridge, on PostgreSQL."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.services import HOST, ROOT, TIMEOUT_SCALE, PostgresServer, RedisServer, spawn

SETTINGS = """
INSTALLED_APPS += ["streambridge_app", "shop"]
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "{host}", "PORT": "{port}", "USER": "postgres", "NAME": "{name}",
        "CONN_MAX_AGE": None,
    }},
}}
if {two}:
    DATABASES["log"] = {{**DATABASES["default"], "NAME": "{name}_log"}}
    STREAMBRIDGE = {{"DATABASE": "log"}}
CHANNEL_LAYERS = {{"default": {layer}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""

APP = """
import os

from django.apps import AppConfig
from django.conf import settings

class ShopConfig(AppConfig):
    name = "shop"

    def ready(self):
        if getattr(settings, "SHOP_OPENS_EARLY", False):
            import asyncio, warnings
            from streambridge_app import get_bridge
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Django discourages it
                asyncio.run(get_bridge().publish(f"opened-{os.getpid()}", "door", 1))
"""

TESTS = """
import asyncio
from django.conf import settings
from django.dispatch import receiver
from django.test import TransactionTestCase
from streambridge_app import get_bridge, get_sync_bridge
from streambridge_app.models import Run
from streambridge_app.signals import run_ended

@receiver(run_ended)
def count(sender, **kwargs):
    Run.objects.count()

async def stay():
    await get_bridge().publish("coroutine", "number", 1)
    return await anext(get_bridge().subscribe("coroutine"))

class Uses(TransactionTestCase):
    databases = set(settings.DATABASES)

    def test_async(self):
        self.assertEqual(asyncio.run(stay()).data, 1)

    async def test_on_the_loop_of_the_test(self):
        self.assertEqual((await stay()).data, 1)

class UsesHandles(TransactionTestCase):
    databases = set(settings.DATABASES)

    def test_handle(self):
        with get_sync_bridge().producer("handle") as run:
            run.publish("number", 1)
        self.assertEqual([e.data for e in get_sync_bridge().subscribe("handle")], [1, None])

    def test_handle_that_stays_open_and_a_stream_that_does(self):
        global run, events
        run = get_sync_bridge().producer("open")
        run.__enter__()
        run.publish("number", 1)
        run.flush()
        events = get_sync_bridge().subscribe("open")
        self.assertEqual(next(events).data, 1)
"""

DJANGO = ("manage.py", "test", "--noinput")
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio")

Project = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path, postgres_server: PostgresServer, redis_server: RedisServer) -> Project:
    redis = (
        '{"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", '
        f'"CONFIG": {{"hosts": ["{redis_server.url}"]}}}}'
    )

    def make(*, two: bool = False) -> Path:
        name = re.sub(r"\W", "_", f"shop_{tmp_path.name}").lower()[:40]
        startproject = [sys.executable, "-m", "django", "startproject", "mysite", tmp_path]
        assert spawn(startproject).wait(60 * TIMEOUT_SCALE) == 0
        options = {"host": HOST, "port": postgres_server.port, "name": name, "layer": redis}
        with (tmp_path / "mysite" / "settings.py").open("a") as settings:
            settings.write(SETTINGS.format(**options, two=two))
        shop = tmp_path / "shop"
        shop.mkdir()
        for file, content in {"__init__": "", "apps": APP, "tests": TESTS}.items():
            (shop / f"{file}.py").write_text(content)
        ini = "[pytest]\nDJANGO_SETTINGS_MODULE = mysite.settings\npython_files = tests.py\n"
        (tmp_path / "pytest.ini").write_text(ini)
        for database in [name, *([f"{name}_log"] if two else [])]:
            postgres_server.create_database(database)
        return tmp_path

    return make


def run(project: Path, *arguments: str) -> str:
    process = spawn(
        [sys.executable, *arguments],
        cwd=project,
        env={"PYTHONPATH": f"{ROOT}:{project}", "PYTHONWARNINGS": "default::RuntimeWarning"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    out, _ = process.output(timeout=120)
    assert process.returncode == 0, out
    return str(out)


def check(out: str, told: str) -> None:
    """Check that the tests have passed and that nobody complained."""
    assert told in out
    for complaint in ("rror", "Warning", "Exception", "being accessed", "never awaited", "pending"):
        assert complaint not in out, out


def test_databases(server: PostgresServer) -> list[str]:
    with psycopg.connect(server.url) as connection:
        found = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'test%'")
        return [name for (name,) in found]


test_databases.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options",
    [(), ("--parallel", "2"), ("--keepdb",), ("--parallel", "2", "--keepdb")],
    ids=lambda options: " ".join(options) or "plain",
)
def test_djangos_runner_takes_the_databases_down(
    project: Project, postgres_server: PostgresServer, options: tuple[str, ...]
) -> None:
    directory = project()
    before = test_databases(postgres_server)
    check(run(directory, *DJANGO, *options), "Ran 4 tests")
    check(run(directory, *DJANGO, *options), "Ran 4 tests")
    if "--keepdb" not in options:
        assert test_databases(postgres_server) == before


def test_pytest_takes_the_database_down(project: Project, postgres_server: PostgresServer) -> None:
    directory = project()
    before = test_databases(postgres_server)
    check(run(directory, *PYTEST), "4 passed")
    check(run(directory, *PYTEST, "--reuse-db"), "4 passed")
    check(run(directory, *PYTEST, "--create-db"), "4 passed")
    assert test_databases(postgres_server) == before


@pytest.mark.parametrize("command", [DJANGO, PYTEST], ids=["django", "pytest"])
def test_a_log_in_a_database_of_its_own_goes_as_well(
    project: Project, postgres_server: PostgresServer, command: tuple[str, ...]
) -> None:
    directory = project(two=True)
    before = test_databases(postgres_server)
    check(run(directory, *command), "4")
    assert test_databases(postgres_server) == before


@pytest.mark.parametrize("options", [DJANGO, (*DJANGO, "--parallel", "2"), PYTEST])
def test_a_bridge_that_is_older_than_the_test_database_writes_nothing_to_the_real_one(
    project: Project, postgres_server: PostgresServer, options: tuple[str, ...]
) -> None:
    directory = project()
    run(directory, "manage.py", "migrate", "-v0")
    with (directory / "mysite" / "settings.py").open("a") as settings:
        settings.write("\nSHOP_OPENS_EARLY = True\n")
    check(run(directory, *options), "4")
    name = re.search(r'"NAME": "(shop_\w+)"', (directory / "mysite" / "settings.py").read_text())
    assert name
    with psycopg.connect(postgres_server.database_url(name[1])) as connection:
        found = connection.execute("SELECT run_id FROM streambridge_app_run").fetchall()
    assert found
    assert [run_id for (run_id,) in found if not run_id.startswith("opened-")] == []

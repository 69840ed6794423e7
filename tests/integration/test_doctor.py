"""The doctor as a process, at deployments that are well and at some that are not."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.services import (
    HOST,
    TIMEOUT_SCALE,
    Child,
    PostgresServer,
    RedisServer,
    free_port,
    spawn,
    wait_until,
)

SECONDS = 60 * TIMEOUT_SCALE
PATIENT = ["--timeout", str(20 * TIMEOUT_SCALE)]
SHORT = "4"
"""Seconds for a check that comes to no end; the others must come to theirs within them."""
CHECKS = [
    *["settings", "database", "migrations", "database settings", "clock", "second process"],
    *["channel layer", "server", "flow control", "garbage", "routes", "round trip"],
    "requests",
]
COUNTS = (
    "SELECT (SELECT count(*) FROM streambridge_app_run), "
    "(SELECT count(*) FROM streambridge_app_event)"
)


class Report:
    """What a doctor has printed as JSON."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.exit = status
        self.out = out
        self.err = err
        self.checks = {check["check"]: check for check in json.loads(out)["checks"]}

    def of(self, status: str) -> list[str]:
        return [name for name, check in self.checks.items() if check["status"] == status]

    def problem(self, name: str) -> tuple[str, str]:
        """Return the one problem of a check, and what to do about it."""
        (problem,) = self.checks[name]["problems"]
        return problem["text"], problem["hint"]


class Deployment:
    """The demo project with an environment and settings of its own."""

    def __init__(self, directory: Path, database_url: str, redis_url: str = "") -> None:
        self.directory = directory
        self.database_url = database_url
        self.settings("")
        self.env = {
            "DATABASE_URL": database_url,
            "DJANGO_SETTINGS_MODULE": "deployed",
            "PYTHONPATH": str(directory),
        }
        if redis_url:
            self.env["REDIS_URL"] = redis_url

    def settings(self, code: str) -> None:
        """Add to the project's settings."""
        file = self.directory / "deployed.py"
        file.write_text(f"from project.settings import *\n{code}\n")

    def start(self, *arguments: str) -> Child:
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        argv = [sys.executable, "manage.py", *arguments]
        return spawn(argv, env=self.env, stdin=subprocess.DEVNULL, text=True, **pipes)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.output()
        return process.returncode, out, err

    def migrate(self) -> None:
        status, _, err = self.run("migrate", "-v0")
        assert status == 0, err

    def examine(self, timeout: Sequence[str] = PATIENT) -> Report:
        return Report(*self.run("streambridge_doctor", "--json", *timeout))

    def rows(self) -> tuple[int, int]:
        """Return how many runs and events there are."""
        return tuple(self.query(COUNTS))  # type: ignore[return-value]

    def query(self, sql: str) -> Any:
        if self.database_url.startswith("sqlite"):
            file = self.database_url.removeprefix("sqlite:///")
            with contextlib.closing(sqlite3.connect(file)) as connection:
                return connection.execute(sql).fetchone()
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(sql).fetchone()


@pytest.fixture
def in_sqlite(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path, f"sqlite:///{tmp_path}/log.sqlite3")


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that is stopped, and starts for the next test."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def in_postgres(tmp_path: Path, own_postgres: PostgresServer, own_redis: RedisServer) -> Deployment:
    """A migrated deployment with a database of its own."""
    for server in (own_postgres, own_redis):
        if not server.running:
            server.start()
    url = own_postgres.create_database(f"doctor_{secrets.token_hex(4)}")
    deployment = Deployment(tmp_path, url, own_redis.url)
    deployment.migrate()
    return deployment


# all is well


def test_sqlite_and_the_layer_in_memory(in_sqlite: Deployment) -> None:
    in_sqlite.migrate()
    report = in_sqlite.examine()
    assert (report.exit, report.err) == (0, "")
    assert report.of("ok") == CHECKS
    assert "in memory" in report.checks["channel layer"]["text"]
    assert in_sqlite.rows() == (0, 0)


def test_postgres_and_redis(in_postgres: Deployment) -> None:
    report = in_postgres.examine()
    assert (report.exit, report.err) == (0, "")
    assert report.of("ok") == CHECKS
    assert report.checks["channel layer"]["text"].startswith("5 messages from another process: ")
    assert report.checks["round trip"]["text"].startswith("20 events and the end: median")
    assert in_postgres.rows() == (0, 0)


def test_the_core_layer(in_postgres: Deployment) -> None:
    path = "channels_redis.core.RedisChannelLayer"
    in_postgres.settings(f"CHANNEL_LAYERS['default']['BACKEND'] = {path!r}")
    assert in_postgres.examine().of("ok") == CHECKS


def test_report_for_people(in_sqlite: Deployment) -> None:
    status, out, err = in_sqlite.run("streambridge_doctor", *PATIENT)
    assert status == 1
    assert err == f"CommandError: 1 of {len(CHECKS)} checks failed.\n"
    lines = out.splitlines()
    assert max(map(len, lines)) <= 96
    assert [line[9:28].strip() for line in lines if not line.startswith(" ")] == CHECKS
    (failed,) = [line for line in lines if line.startswith("FAIL")]
    assert failed.split(maxsplit=2)[:2] == ["FAIL", "migrations"]
    assert "-> Run manage.py migrate." in out
    assert "skipped  round trip         needs migrations" in lines


def test_from_python(in_sqlite: Deployment) -> None:
    in_sqlite.migrate()
    code = "from django.core.management import call_command\n"
    code += f"call_command('streambridge_doctor', timeout={PATIENT[1]})"
    status, out, err = in_sqlite.run("shell", "-c", code)
    assert (status, err) == (0, "")
    assert "ok       round trip" in out


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_bad_timeout(in_sqlite: Deployment, seconds: str) -> None:
    status, _, err = in_sqlite.run("streambridge_doctor", f"--timeout={seconds}")
    assert status == 2
    assert f"{seconds!r} is not a number of seconds above 0." in err


# the channel layer


def test_redis_stopped(in_postgres: Deployment, own_redis: RedisServer) -> None:
    own_redis.stop()
    report = in_postgres.examine()
    assert report.exit == 1
    assert report.of("fail") == ["channel layer"]
    assert report.of("ok") == [name for name in CHECKS if name != "channel layer"]
    text, hint = report.problem("channel layer")
    assert str(own_redis.port) in text
    assert hint.startswith("Start Redis")


def test_wrong_port_of_redis(in_postgres: Deployment) -> None:
    port = free_port()
    in_postgres.env["REDIS_URL"] = f"redis://{HOST}:{port}/0"
    report = in_postgres.examine()
    assert report.exit == 1
    text, hint = report.problem("channel layer")
    assert str(port) in text
    assert "correct the address in CHANNEL_LAYERS" in hint


def test_redis_hangs(in_postgres: Deployment, own_redis: RedisServer) -> None:
    own_redis.pause()
    try:
        report = in_postgres.examine(["--timeout", SHORT])
    finally:
        own_redis.resume()
    assert report.exit == 1
    assert report.of("fail") == ["channel layer"]
    text, hint = report.problem("channel layer")
    assert "Timeout" in text or "no answer" in text
    assert hint.startswith("Start Redis")


def test_layer_in_memory_outside_debug(in_sqlite: Deployment) -> None:
    in_sqlite.migrate()
    in_sqlite.settings("DEBUG = False")
    report = in_sqlite.examine()
    assert report.exit == 0
    assert report.of("warning") == ["settings", "channel layer"]
    assert "RedisPubSubChannelLayer" in report.problem("channel layer")[1]


# the database


def test_unmigrated_postgres(in_postgres: Deployment, own_postgres: PostgresServer) -> None:
    in_postgres.env["DATABASE_URL"] = own_postgres.create_database(f"new_{secrets.token_hex(4)}")
    report = in_postgres.examine()
    assert report.exit == 1
    assert report.of("fail") == ["migrations"]
    assert report.of("skipped") == ["round trip", "requests"]
    text, hint = report.problem("migrations")
    assert text.startswith("not applied: 0001_initial")
    assert hint == "Run manage.py migrate."


def test_router_that_keeps_the_tables_out(in_sqlite: Deployment) -> None:
    router = """
class Router:
    def allow_migrate(self, db, app_label, **hints):
        return app_label != "streambridge_app"
DATABASE_ROUTERS = [Router()]
"""
    in_sqlite.settings(router)
    in_sqlite.migrate()
    report = in_sqlite.examine()
    assert report.of("fail") == ["migrations"]
    text, hint = report.problem("migrations")
    assert text.startswith("applied, but there is no table streambridge_app_epochfloor, ")
    assert "allow_migrate()" in hint


def test_sqlite_without_wal_and_immediate(in_sqlite: Deployment) -> None:
    in_sqlite.settings("DATABASES['default']['OPTIONS'] = {'timeout': 1}")
    in_sqlite.migrate()
    report = in_sqlite.examine()
    assert report.exit == 1
    assert report.of("fail") == ["database settings"]
    problems = report.checks["database settings"]["problems"]
    assert [problem["status"] for problem in problems] == ["fail", "fail", "warning"]
    assert "journal_mode=WAL" in problems[0]["hint"]
    assert "'transaction_mode': 'IMMEDIATE'" in problems[1]["hint"]
    assert in_sqlite.rows() == (0, 0)


def test_sqlite_held_by_another_writer(in_sqlite: Deployment, tmp_path: Path) -> None:
    in_sqlite.migrate()
    other = sqlite3.connect(tmp_path / "log.sqlite3", isolation_level=None)
    with contextlib.closing(other):
        other.execute("BEGIN IMMEDIATE")
        report = in_sqlite.examine(["--timeout", SHORT])
    assert report.exit == 1
    assert report.of("fail") == ["database settings", "round trip"]
    text, hint = report.problem("database settings")
    assert text == f"no answer within {SHORT} s"
    assert "long transaction" in hint


def test_postgres_stopped(in_postgres: Deployment, own_postgres: PostgresServer) -> None:
    own_postgres.stop()
    report = in_postgres.examine()
    assert report.exit == 1
    assert report.of("fail") == ["database"]
    assert report.of("skipped") == [
        *("migrations", "database settings", "clock", "round trip", "requests")
    ]
    text, hint = report.problem("database")
    assert "OperationalError" in text
    assert hint.startswith("Start the database")


def test_postgres_hangs(in_postgres: Deployment, own_postgres: PostgresServer) -> None:
    own_postgres.pause()
    try:
        report = in_postgres.examine(["--timeout", SHORT])
    finally:
        own_postgres.resume()
    assert report.exit == 1
    assert report.problem("database")[0] == f"no answer within {SHORT} s"


def test_settings_of_postgres(in_postgres: Deployment) -> None:
    database = in_postgres.database_url.rpartition("/")[2]
    with psycopg.connect(in_postgres.database_url, autocommit=True) as connection:
        for setting in (
            "default_transaction_isolation = 'repeatable read'",
            "synchronous_commit = off",
            "statement_timeout = 1000",
        ):
            connection.execute(f"ALTER DATABASE {database} SET {setting}".encode())
    report = in_postgres.examine()
    assert report.exit == 1
    problems = report.checks["database settings"]["problems"]
    assert [problem["status"] for problem in problems] == ["fail", "warning", "warning"]
    assert "Set default_transaction_isolation" in problems[0]["hint"]


# the application


def test_application_without_flow_control(in_sqlite: Deployment) -> None:
    in_sqlite.migrate()
    code = "from django.core.asgi import get_asgi_application\napplication = get_asgi_application()"
    (in_sqlite.directory / "plain.py").write_text(code)
    in_sqlite.settings("ASGI_APPLICATION = 'plain.application'")
    report = in_sqlite.examine()
    assert report.exit == 1
    assert report.of("fail") == ["flow control"]
    assert "flow_control(application)" in report.problem("flow control")[1]
    assert report.of("warning") == ["routes"]
    text, hint = report.problem("routes")
    assert "/ws/runs/" in text
    assert "websocket_urlpatterns" in hint


def test_application_that_cannot_be_imported(in_sqlite: Deployment) -> None:
    in_sqlite.migrate()
    in_sqlite.settings("ASGI_APPLICATION = 'nowhere.application'")
    report = in_sqlite.examine()
    assert report.exit == 1
    assert report.of("fail") == ["settings", "server"]
    assert report.of("skipped") == ["flow control", "garbage", "routes", "round trip", "requests"]
    assert "streambridge.E110" in report.problem("settings")[0]
    assert "No module named 'nowhere'" in report.problem("server")[0]


def test_no_application(in_sqlite: Deployment) -> None:
    in_sqlite.migrate()
    in_sqlite.settings("ASGI_APPLICATION = None")
    report = in_sqlite.examine()
    assert report.exit == 1
    assert report.problem("server")[1].startswith("Set ASGI_APPLICATION")


def test_routes_are_not_included(in_sqlite: Deployment) -> None:
    in_sqlite.migrate()
    (in_sqlite.directory / "no_urls.py").write_text("urlpatterns = []")
    in_sqlite.settings("ROOT_URLCONF = 'no_urls'")
    report = in_sqlite.examine()
    assert report.exit == 0
    assert 'include("streambridge_app.urls")' in report.problem("routes")[1]
    assert report.checks["routes"]["text"] == "WebSocket /ws/runs/"


def test_no_routes_at_all(in_sqlite: Deployment) -> None:
    in_sqlite.migrate()
    urls = "from django.urls import path\nfrom project.views import demo\n"
    urls += "urlpatterns = [path('<path:any>', demo)]"  # before ours
    urls += "\nfrom django.urls import include\n"
    urls += "urlpatterns += [path('', include('streambridge_app.urls'))]"
    (in_sqlite.directory / "other_urls.py").write_text(urls)
    asgi = "from channels.routing import ProtocolTypeRouter, URLRouter\n"
    asgi += "from streambridge_app.asgi import flow_control\n"
    asgi += "application = flow_control(ProtocolTypeRouter({'websocket': URLRouter([])}))"
    (in_sqlite.directory / "no_sockets.py").write_text(asgi)
    in_sqlite.settings("ROOT_URLCONF = 'other_urls'; ASGI_APPLICATION = 'no_sockets.application'")
    report = in_sqlite.examine()
    assert report.exit == 1
    assert report.of("fail") == ["routes"]
    assert len(report.checks["routes"]["problems"]) == 2


# requests


def serve(deployment: Deployment, urls: str = "", middleware: str = "") -> None:
    """Let the project have other patterns around the routes, or middleware of its own."""
    deployment.migrate()
    head = "from django.urls import include, path, re_path, register_converter\n"
    (deployment.directory / "own_urls.py").write_text(f"{head}{urls}")
    head = "from django.http import HttpResponseRedirect\n"
    (deployment.directory / "own.py").write_text(f"{head}{middleware}")
    code = "ROOT_URLCONF = 'own_urls'\n" if urls else ""
    code += "MIDDLEWARE = [*MIDDLEWARE, 'own.middleware']\n" if middleware else ""
    deployment.settings(code)


def test_requests_go_the_whole_way(in_sqlite: Deployment) -> None:
    in_sqlite.migrate()
    in_sqlite.settings(
        "DATABASES['default']['ATOMIC_REQUESTS'] = True\n"
        "SECURE_SSL_REDIRECT = True; DEBUG = False; FORCE_SCRIPT_NAME = '/app'\n"
        "MIDDLEWARE = ['django.middleware.gzip.GZipMiddleware', *MIDDLEWARE]"
    )
    report = in_sqlite.examine()
    assert report.exit == 0
    assert report.checks["requests"]["text"] == (
        "GET /runs/<run_id:run_id>/stream 200, GET /runs/<run_id:run_id> 200, "
        "POST /runs/<run_id:run_id>/cancel 403, WebSocket /ws/runs/<run_id:run_id>/ follows"
    )
    assert in_sqlite.rows() == (0, 0)


def test_middleware_that_fails(in_sqlite: Deployment) -> None:
    code = "def middleware(get_response):\n"
    code += " def call(request): raise LookupError('in the way')\n"
    code += " return call"
    serve(in_sqlite, middleware=code)
    report = in_sqlite.examine()
    assert report.exit == 1
    assert report.of("fail") == ["requests"]
    problems = report.checks["requests"]["problems"]
    assert len(problems) == 3
    expected = "GET /runs/<run_id:run_id>/stream is answered by 500 (LookupError: in the way)"
    assert problems[0]["text"] == expected
    assert in_sqlite.rows() == (0, 0)


def test_middleware_that_redirects(in_sqlite: Deployment) -> None:
    code = "def middleware(get_response):\n"
    code += " return lambda request: HttpResponseRedirect('/welcome?to=here')"
    serve(in_sqlite, middleware=code)
    report = in_sqlite.examine()
    assert report.of("fail") == ["requests"]
    problems = report.checks["requests"]["problems"]
    assert "is answered by 302 to /welcome (" in problems[0]["text"]


def test_routes_below_captured_parts(in_sqlite: Deployment) -> None:
    code = "urlpatterns = [path('<slug:tenant>/<int:year>/', include('streambridge_app.urls'))]"
    serve(in_sqlite, code)
    report = in_sqlite.examine()
    assert report.exit == 0
    route = "/<slug:tenant>/<int:year>/runs/<run_id:run_id>"
    assert f"GET {route}/stream 200, GET {route} 200" in report.checks["requests"]["text"]
    assert report.checks["routes"]["status"] == "ok"


def test_routes_below_a_part_that_nobody_knows(in_sqlite: Deployment) -> None:
    code = "urlpatterns = [re_path(r'^(?P<tenant>t[0-9]+)/', include('streambridge_app.urls'))]"
    serve(in_sqlite, code)
    report = in_sqlite.examine()
    assert report.exit == 0
    text = report.checks["requests"]["text"]
    assert "/stream not asked: no value is known for a part of it" in text
    assert report.checks["routes"]["status"] == "ok"


def test_guess_that_does_not_fit(in_sqlite: Deployment) -> None:
    urls = "urlpatterns = [path('<slug:tenant>/', include('streambridge_app.urls'))]"
    code = "from django.http import Http404\n"
    code += "def middleware(get_response):\n"
    code += " def call(request): raise Http404('no such tenant')\n"
    code += " return call"
    serve(in_sqlite, urls, code)
    report = in_sqlite.examine()
    assert report.exit == 0
    assert report.of("warning") == ["requests"]
    problems = report.checks["requests"]["problems"]
    assert "asked as /doctor/runs/streambridge-doctor-" in problems[0]["text"]


def test_sockets_below_a_captured_part(in_sqlite: Deployment) -> None:
    in_sqlite.migrate()
    asgi = "from django.core.asgi import get_asgi_application\n"
    asgi += "http = get_asgi_application()\n"
    asgi += "from channels.auth import AuthMiddlewareStack\n"
    asgi += "from channels.routing import ProtocolTypeRouter, URLRouter\n"
    asgi += "from django.urls import path\n"
    asgi += "from streambridge_app.asgi import flow_control\n"
    asgi += "from streambridge_app.routing import checked_origin, websocket_urlpatterns\n"
    asgi += "ours = URLRouter(websocket_urlpatterns)\n"
    asgi += "routes = URLRouter([path('t/<slug:tenant>/', ours)])\n"
    asgi += "sockets = checked_origin(AuthMiddlewareStack(routes))\n"
    asgi += "application = flow_control(ProtocolTypeRouter({'http': http, 'websocket': sockets}))"
    (in_sqlite.directory / "below.py").write_text(asgi)
    in_sqlite.settings("ASGI_APPLICATION = 'below.application'")
    report = in_sqlite.examine()
    assert report.of("ok") == CHECKS
    assert "WebSocket /t/<slug:tenant>/ws/runs/" in report.checks["routes"]["text"]
    route = "/t/<slug:tenant>/ws/runs/<run_id:run_id>/"
    assert f"WebSocket {route} follows" in report.checks["requests"]["text"]


# the settings and the second process


def test_wrong_setting(in_sqlite: Deployment) -> None:
    in_sqlite.migrate()
    in_sqlite.settings("STREAMBRIDGE['PAGE_EVENTS'] = 0")
    report = in_sqlite.examine()
    assert report.exit == 1
    assert report.of("fail") == ["settings"]
    assert report.of("skipped") == ["round trip", "requests"]
    assert "streambridge.E008" in report.problem("settings")[0]


def test_second_process_that_does_not_start(in_sqlite: Deployment) -> None:
    in_sqlite.migrate()
    in_sqlite.settings("import sys\nif '--partner' in sys.argv: raise LookupError('not twice')")
    report = in_sqlite.examine()
    assert report.exit == 1
    assert report.of("fail") == ["second process"]
    assert report.of("skipped") == ["channel layer", "round trip", "requests"]
    assert "LookupError: not twice" in report.problem("second process")[0]


def test_second_process_that_prints(in_sqlite: Deployment) -> None:
    in_sqlite.migrate()
    in_sqlite.settings("import sys\nif '--partner' in sys.argv: print('hello'); print('[1]')")
    assert in_sqlite.examine().of("ok") == CHECKS


def test_memory_backend(in_sqlite: Deployment) -> None:
    in_sqlite.migrate()
    backend = "streambridge_app.backends.memory.MemoryBridge"
    in_sqlite.settings(f"STREAMBRIDGE['BACKEND'] = {backend!r}")
    report = in_sqlite.examine()
    assert report.exit == 1
    assert "MemoryBridge" in report.problem("round trip")[0]


def test_no_password_is_printed(in_postgres: Deployment) -> None:
    code = """
class Leaky:
    async def new_channel(self):
        raise ConnectionError("can't reach redis://:hush%2Fhush@cache:1/0 with hush/hush")

DATABASES["default"]["OPTIONS"]["sslcert"] = "/sesame"
DATABASES["default"]["OPTIONS"]["sslmode"] = "sesame"
DATABASES["default"]["PASSWORD"] = "sesame"
CHANNEL_LAYERS = {"default": {"BACKEND": "deployed.Leaky"}, "other": {"password": "hush/hush"}}
"""
    in_postgres.settings(code)
    for options in ([], ["--json"]):
        status, out, err = in_postgres.run("streambridge_doctor", *options, *PATIENT)
        assert status == 1
        assert "***" in out
        for secret in ("sesame", "hush"):
            assert secret not in out + err


# nothing is left


def run_is_there(deployment: Deployment) -> bool:
    return bool(deployment.rows()[0])


def partner_of(doctor: subprocess.Popen[str]) -> psutil.Process:
    (partner,) = psutil.Process(doctor.pid).children()
    return partner


@pytest.fixture
def no_event(in_postgres: Deployment) -> Iterator[psycopg.Connection[Any]]:
    """Let nobody write an event, as long as this connection is in its transaction."""
    with psycopg.connect(in_postgres.database_url) as connection:
        connection.execute("LOCK TABLE streambridge_app_event IN EXCLUSIVE MODE")
        yield connection


def test_round_trip_that_hangs(in_postgres: Deployment, no_event: psycopg.Connection[Any]) -> None:
    report = in_postgres.examine(["--timeout", SHORT])
    assert report.of("fail") == ["round trip"]
    no_event.rollback()
    # What waited for the lock was of processes that are gone: it comes to nothing.
    wait_until(lambda: in_postgres.rows()[1] == 0, 20, "events to be gone")
    (deadlines,) = in_postgres.query("SELECT count(delete_at) FROM streambridge_app_run")
    assert deadlines == in_postgres.rows()[0]


def test_log_that_is_locked(in_postgres: Deployment) -> None:
    with psycopg.connect(in_postgres.database_url) as connection:
        connection.execute("LOCK TABLE streambridge_app_run")
        # The process ends, though a thread of its bridge waits for the lock.
        report = in_postgres.examine(["--timeout", SHORT])
    assert report.of("fail") == ["round trip"]
    assert "holds the log's tables" in report.problem("round trip")[1]
    wait_until(lambda: in_postgres.rows() == (0, 0), 20, "nothing to be left")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_doctor_that_is_ended(
    in_postgres: Deployment, no_event: psycopg.Connection[Any], signum: signal.Signals
) -> None:
    doctor = in_postgres.start("streambridge_doctor", "--timeout", str(SECONDS))
    with doctor:
        try:
            wait_until(lambda: run_is_there(in_postgres), 40, "the run of the doctor")
            partner = partner_of(doctor)
            os.kill(doctor.pid, signum)
            doctor.communicate(timeout=SECONDS)
            assert doctor.returncode == (130 if signum == signal.SIGINT else -signum)
            psutil.wait_procs([partner], timeout=SECONDS)
            assert not partner.is_running()
        finally:
            doctor.kill()
    no_event.rollback()
    runs, deadlines = in_postgres.query(
        "SELECT count(*), count(delete_at) FROM streambridge_app_run"
    )
    assert runs == deadlines

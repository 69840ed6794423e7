"""The README says only what works: its snippets are run, its tables compared with the code."""

import asyncio
import json
import re
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.management import get_commands
from django.db import connections
from django.test import RequestFactory
from pytest_django import Settings

from project.celery import app
from streambridge_app import get_bridge, get_sync_bridge
from streambridge_app.access import Access
from streambridge_app.conf import OPTIONS
from tests.acceptance.clients import SseClient
from tests.acceptance.readme import README, Project, snippets, the_snippet
from tests.services import ROOT, AsgiServer


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("mysite"))


async def test_five_steps_lead_to_a_run_in_the_browser(project: Project) -> None:
    project.run("migrate", "--verbosity", "0")
    checked = project.run("check")
    assert "no issues" in checked, checked

    project.run("streambridge_publish", "my-run", stdin="1\n2\n3\n")
    tail = project.run("streambridge_tail", "my-run")
    assert [line.split()[1:3] for line in tail.splitlines()[:3]] == [
        ["line", f'{{"line":"{n}"}}'] for n in (1, 2, 3)
    ]

    code = "from streambridge_app import *; import sys; b = get_sync_bridge()\n"
    code += "b.create_run('public', metadata={'public': True})\n"
    code += "with b.producer('public') as run: run.publish('token', 'hello')"
    project.run("shell", "-c", code)
    with AsgiServer("daphne", "mysite.asgi:application", env=project.env) as server:
        client = SseClient(server, "public")
        await client.follow()
    assert [frame.data for frame in client.frames] == ["hello"]
    assert client.ended == "success"


def test_the_doctor_finds_the_project_well(project: Project) -> None:
    project.run("migrate", "--verbosity", "0")
    report = json.loads(project.run("streambridge_doctor", "--json", "--timeout", "30"))
    assert {check["status"] for check in report["checks"]} == {"ok"}
    shown = re.findall(r"^(?:ok|FAIL) +(\S+(?: \S+)?)  ", the_snippet("text", "FAIL"), re.MULTILINE)
    assert shown == [check["check"] for check in report["checks"]]


@pytest.mark.django_db(transaction=True)
async def test_the_screen_of_the_api(capsys: pytest.CaptureFixture[str]) -> None:
    api: dict[str, Any] = {}
    exec(the_snippet("python", "async def work("), api)  # noqa: S102 - our own README
    user = await User.objects.acreate(username="ada")

    run_id = await api["work"](user)
    await api["step_by_step"]("by hand")
    await api["watch"](run_id)
    await api["watch"]("by hand")
    await asyncio.to_thread(_in_thread, api["celery_task"], "a task")

    bridge = get_bridge()
    assert (await bridge.get_run(run_id)).owner_id == user.pk
    assert (await bridge.get_run("a task")).status == "success"
    assert "token {'text': 'Hello'}" in capsys.readouterr().out
    for name in ("get_run", "request_cancel", "trim", "cleanup", "close"):
        assert f"`{name}(" in README
        assert callable(getattr(bridge, name))
        assert callable(getattr(get_sync_bridge(), name))


@pytest.mark.django_db(transaction=True)
async def test_streamed_task(settings: Settings) -> None:
    example: dict[str, Any] = {"__name__": "example"}
    exec(the_snippet("python", "streamed_task"), example)  # noqa: S102 - our own README
    stream, task = example["stream"], example["summarize"]
    started: list[str] = []
    example["stream"] = lambda *args, **kwargs: started.append(stream(*args, **kwargs))
    user = await User.objects.acreate(username="ada")
    request = RequestFactory().get("/")
    request.user = user
    app.conf.task_always_eager = True
    try:
        await asyncio.to_thread(_in_thread, example["summarize_view"], request)
    finally:
        app.conf.task_always_eager = False

    run = await get_bridge().get_run(started[0])
    assert (run.status, run.head, run.owner_id) == ("success", 3, user.pk)
    assert task.max_retries == 3


def _in_thread(function: Any, *args: Any) -> None:
    try:
        function(*args)
    finally:
        connections.close_all()


async def test_rule_of_its_own(settings: Settings) -> None:
    rule: dict[str, Any] = {}
    exec(the_snippet("python", "TeamAuthorizer"), rule)  # noqa: S102 - our own README
    assert not await rule["TeamAuthorizer"]().can_read(Access(AnonymousUser(), "run", None))


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| `(.+?)` \| (.+) \|$", README, re.MULTILINE)
    assert {name: (default.replace('"', "'"), text) for name, default, text in rows} == {
        name: (repr(option.default), option.help) for name, option in OPTIONS.items()
    }


def test_every_command_is_in_the_table() -> None:
    ours = {name for name, app in get_commands().items() if app == "streambridge_app"}
    assert set(re.findall(r"^\| `(streambridge_\w+)", README, re.MULTILINE)) == ours


def test_the_two_commands_are_targets_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in snippets("console")[0].splitlines():
        assert re.search(rf"^{command.removeprefix('make ')}:", makefile, re.MULTILINE)

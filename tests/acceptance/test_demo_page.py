"""The demo page in a real browser, served by a real Daphne, fed by real worker processes."""

import re
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from pytest_django import Settings

from project import workers as workers_module
from project.jobs import JOBS
from project.workers import MAX_WORKERS
from streambridge_app import get_sync_bridge
from streambridge_app.exceptions import RunNotFound
from tests.conftest import MEMORY
from tests.services import TIMEOUT_SCALE, AsgiServer, chromium, spawn, wait_until

SECOND = 1000 * TIMEOUT_SCALE
FEW, LONG, MANY = "packages", "compile", "checksum"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An empty database of the demo's own, whatever this process's environment says."""
    environment = {"DATABASE_URL": f"sqlite:///{tmp_path_factory.mktemp('demo')}/demo.sqlite3"}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("REDIS_URL", "DEBUG", "SECRET_KEY", "ALLOWED_HOSTS"):
            patch.delenv(name, raising=False)
        migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        assert spawn(migrate, env=environment).wait() == 0
        yield environment


@pytest.fixture(scope="module")
def server(environment: dict[str, str]) -> Iterator[AsgiServer]:
    with AsgiServer("daphne", env=environment) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(),
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, server: AsgiServer) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=server.url)
    context.set_default_timeout(20 * SECOND)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, server: AsgiServer) -> Iterator[Page]:
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    page = context.new_page()
    page.goto("/")
    yield page
    print(server.log_text()[-8000:])  # for the report of a failure
    assert errors == []


class Panel:
    """One of the two views of the run, as a person reads it."""

    def __init__(self, page: Page, kind: str) -> None:
        self._page = page
        self._selector = f"[data-panel={kind}]"
        self._root = page.locator(self._selector)

    @property
    def count(self) -> int:
        return int(self._root.locator("[data-count]").inner_text())

    def wait_for_count(self, least: int) -> None:
        self._page.wait_for_function(
            "([count, least]) => Number(document.querySelector(count).textContent) >= least",
            arg=[f"{self._selector} [data-count]", least],
            timeout=30 * SECOND,
        )

    def press(self, button: str) -> None:
        self._root.get_by_role("button", name=button).click()

    def expect_status(self, text: str, seconds: float = 60) -> None:
        expect(self._root.locator("[data-status]")).to_have_text(text, timeout=seconds * SECOND)

    def expect_whole(self, total: int) -> None:
        check = self._root.locator("[data-check]")
        expect(check).to_have_text(
            f"complete: 1…{total}, no gap, no duplicate", timeout=20 * SECOND
        )
        assert self.count == total

    def rows(self) -> list[str]:
        """The ids of the rows, newest first."""
        return self._root.locator("[data-events] li span:first-child").all_inner_texts()


def panels(page: Page) -> tuple[Panel, Panel]:
    return Panel(page, "sse"), Panel(page, "websocket")


def start(page: Page, job: str) -> str:
    """Press the start button of a job, and return the id of its run."""
    page.get_by_role("button", name="Start", description=JOBS[job].title, exact=True).click()
    page.wait_for_url(re.compile(r"\?run="))
    run_id = page.locator("#run").get_attribute("data-run")
    assert run_id
    return run_id


def state(page: Page, run_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = page.request.get(f"/runs/{run_id}").json()
    return answer


def csrf(page: Page) -> dict[str, str]:
    token = page.locator("[name=csrfmiddlewaretoken]").get_attribute("value")
    return {"X-CSRFToken": token or ""}


def workers(server: AsgiServer) -> list[psutil.Process]:
    """The worker processes of the page, and not what they run."""
    return psutil.Process(server.pid).children()


def test_both_panels_show_a_run_from_its_first_event_to_its_end(page: Page) -> None:
    run_id = start(page, FEW)
    for panel in panels(page):
        panel.expect_status("live")
        panel.wait_for_count(1)
    assert state(page, run_id)["status"] == "running"

    for panel in panels(page):
        panel.expect_status("ended: success")
    run = state(page, run_id)
    for panel in panels(page):
        panel.expect_whole(run["head"])
        epoch = run["last_event_id"].split("-")[0]
        assert panel.rows() == [f"{epoch}-{seq}" for seq in range(run["head"], 0, -1)]
    expect(page.get_by_role("button", name="Cancel the run")).to_be_disabled()
    expect(page.locator(f'[data-badge="{run_id}"]')).to_have_text("success")


def test_drop_resume_reload_and_a_second_tab_lose_nothing(
    page: Page, context: BrowserContext
) -> None:
    run_id = start(page, LONG)
    sse, websocket = panels(page)
    for dropped, other in ((sse, websocket), (websocket, sse)):
        dropped.wait_for_count(10)
        dropped.press("Drop")
        dropped.expect_status("dropped")
        count = dropped.count
        other.wait_for_count(count + 20)
        assert dropped.count == count
        dropped.press("Resume")
        dropped.expect_status("live")
    page.reload()
    second = context.new_page()
    second.goto(page.url)
    assert state(page, run_id)["status"] == "running"

    for panel in (*panels(page), *panels(second)):
        panel.expect_status("ended: success", 120)
        panel.expect_whole(state(page, run_id)["head"])


def test_cancel_button_ends_the_run(page: Page, server: AsgiServer) -> None:
    run_id = start(page, LONG)
    for panel in panels(page):
        panel.wait_for_count(5)
    page.get_by_role("button", name="Cancel the run").click()
    for panel in panels(page):
        panel.expect_status("ended: cancelled")
    run = state(page, run_id)
    assert run["status"] == "cancelled"
    for panel in panels(page):
        panel.expect_whole(run["head"])
    wait_until(lambda: not workers(server), 20, "the worker to end")


def test_server_that_restarts_loses_nothing(page: Page, server: AsgiServer) -> None:
    run_id = start(page, LONG)
    for panel in panels(page):
        panel.wait_for_count(10)
    server.stop()
    for panel in panels(page):
        panel.expect_status("connection lost, trying again")
    server.start()
    assert state(page, run_id)["status"] == "running"
    for panel in panels(page):
        panel.expect_status("ended: success", 120)
        panel.expect_whole(state(page, run_id)["head"])


def test_worker_that_is_killed_leaves_the_run_lost(page: Page, server: AsgiServer) -> None:
    start(page, LONG)
    for panel in panels(page):
        panel.wait_for_count(5)
    (worker,) = workers(server)
    worker.kill()
    for panel in panels(page):
        panel.expect_status("ended: lost")
    wait_until(lambda: not workers(server), 20, "the worker to be reaped")


def test_page_bounds_its_rows_and_a_reconnect_after_the_end_is_told_so(page: Page) -> None:
    run_id = start(page, MANY)
    for panel in panels(page):
        panel.expect_status("ended: success")
        panel.expect_whole(state(page, run_id)["head"])
        assert panel.count > 500
        assert len(panel.rows()) == 500

    told = page.evaluate(
        """async ([feed, lastId]) => {
            const feeds = await import("/static/project/feeds.js");
            const data = document.getElementById("run").dataset;
            const run = { stateUrl: data.stateUrl, streamUrl: data.streamUrl, eventNames: [],
                          socketUrl: `ws://${location.host}/ws/runs/${data.run}/` };
            return await new Promise((resolve) => {
                const listener = { lastId, ended: resolve, refused: resolve };
                for (const other of ["connecting", "live", "waiting", "event", "gap"]) {
                    listener[other] = () => {};
                }
                new feeds[feed](run, listener).open();
            });
        }""",
        ["SseFeed", state(page, run_id)["last_event_id"]],
    )
    assert told == "success"


VERDICTS = [
    ([], None, "no event so far"),
    (["7-1", "7-2"], None, "1…2 so far, no gap, no duplicate"),
    (["7-1", "7-2"], 2, "complete: 1…2, no gap, no duplicate"),
    ([], 0, "complete: no event, no gap, no duplicate"),
    (["7-1", "7-3"], None, "not complete: 1 missing"),
    (["7-2"], None, "not complete: 1 missing"),
    (["7-1", "7-2"], 4, "not complete: 2 missing"),
    (["7-1", "7-1", "7-2"], 2, "not complete: 1 duplicate"),
    (["7-2", "7-1"], 2, "not complete: 1 missing, 1 duplicate"),
    (["7-1", "8-2"], None, "not complete: 1 foreign"),
    (["7-1", "7-2"], 1, "not complete: 1 foreign"),
]


def test_the_pages_own_check_finds_faults(page: Page) -> None:
    found = page.evaluate(
        """async (cases) => {
            const { Ledger } = await import("/static/project/ledger.js");
            return cases.map(([ids, total]) => {
                const ledger = new Ledger();
                ids.forEach((id) => ledger.accept(id));
                return [ids, total, ledger.verdict(total).text];
            });
        }""",
        [case[:2] for case in VERDICTS],
    )
    assert found == [list(case) for case in VERDICTS]


def test_more_workers_than_allowed_are_refused(page: Page, server: AsgiServer) -> None:
    wait_until(lambda: not workers(server), 20, "earlier workers to end")
    run_ids = []
    for _ in range(MAX_WORKERS):
        run_ids.append(start(page, LONG))
        page.goto("/")
    with page.expect_response("**/demo/start") as answer:
        page.get_by_role("button", name="Start", exact=True).first.click()
    assert answer.value.status == HTTPStatus.TOO_MANY_REQUESTS
    expect(page.get_by_role("alert")).to_contain_text("4 jobs are running")

    for run_id in run_ids:
        assert page.request.post(f"/runs/{run_id}/cancel", headers=csrf(page)).status == 202
    wait_until(lambda: not workers(server), 20, "the workers to end")


def test_unknown_run_job_and_missing_csrf_token_are_refused(page: Page) -> None:
    assert page.request.get("/?run=unknown").status == HTTPStatus.NOT_FOUND
    assert page.request.post("/demo/start").status == HTTPStatus.FORBIDDEN
    unknown = page.request.post("/demo/start", form={"job": "rm"}, headers=csrf(page))
    assert unknown.status == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize("hosts", ["*", "localhost,example.org", ".localhost"])
def test_the_demos_key_is_for_this_machine_only(environment: dict[str, str], hosts: str) -> None:
    check = [sys.executable, "manage.py", "check"]
    elsewhere = {**environment, "ALLOWED_HOSTS": hosts}
    refused = spawn(check, env=elsewhere, stderr=subprocess.PIPE, text=True)
    assert (
        "to answer to other hosts than this machine's, the environment must set SECRET_KEY"
        in (refused.output()[1])
    )
    assert refused.returncode
    for allowed in ({"ALLOWED_HOSTS": "127.0.0.1"}, {**elsewhere, "SECRET_KEY": "only for tests"}):
        assert spawn(check, env={**environment, **allowed}).wait() == 0


@pytest.mark.parametrize("deleted", [False, True])
def test_worker_that_is_over_does_not_make_a_deleted_run_again(
    settings: Settings, deleted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # Playwright has a loop in this thread
    settings.STREAMBRIDGE = {"BACKEND": MEMORY}
    bridge = get_sync_bridge()
    bridge.create_run("run")
    if deleted:
        bridge.cleanup("run")
    assert workers_module._slots.acquire(blocking=False)
    workers_module._reap(spawn([sys.executable, "-c", ""]), "run")
    if deleted:
        with pytest.raises(RunNotFound):
            bridge.get_run("run")
    else:
        assert bridge.get_run("run").status == "lost"


def test_without_debug_a_key_is_needed_and_the_static_files_are_served(
    environment: dict[str, str], browser: Browser
) -> None:
    production = {**environment, "DEBUG": "0"}
    check = spawn(
        [sys.executable, "manage.py", "check"], env=production, stderr=subprocess.PIPE, text=True
    )
    assert "the environment must set SECRET_KEY" in check.output()[1]
    assert check.returncode

    with AsgiServer("daphne", env={**production, "SECRET_KEY": "only for tests"}) as server:
        page = browser.new_page(base_url=server.url)
        page.goto("/")
        for file in ("project/demo.css", "project/demo.js", "admin/css/base.css"):
            assert page.request.get(f"/static/{file}").ok
        page.close()

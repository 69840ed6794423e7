"""The admin's pages of runs: bounded work, nothing to edit, actions that clients hear of."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from streambridge_app import admin as module
from streambridge_app import get_sync_bridge
from streambridge_app.admin import LISTED_RUNS, PAGE_EVENTS, PREVIEW_CHARACTERS
from streambridge_app.models import Event, Run

pytestmark = pytest.mark.django_db(transaction=True)

LIST = reverse("admin:streambridge_app_run_changelist")
MILLION = 1_000_000

Staff = Callable[..., Client]


@pytest.fixture
def admin(admin_client: Client) -> Client:
    return admin_client


@pytest.fixture
def staff() -> Staff:
    """Return a maker of clients whose user is staff with some permissions on runs."""

    def make(*codenames: str) -> Client:
        user = User.objects.create(username="staff", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        client = Client()
        client.force_login(user)
        return client

    return make


def make_run(run_id: str = "run", *events: Any, ended: str | None = None) -> Run:
    bridge = get_sync_bridge()
    bridge.create_run(run_id)
    for data in events:
        bridge.publish(run_id, "update", data)
    if ended:
        bridge.publish_end(run_id, status=ended)
    return Run.objects.get(run_id=run_id)


def make_numbered(count: int, run_id: str = "numbered", floor: int = 0) -> Run:
    """Make a run with `count` numbered events in one statement."""
    run = make_run(run_id)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH RECURSIVE n (seq) AS (SELECT %s UNION ALL SELECT seq + 1 FROM n WHERE seq < %s)
            INSERT INTO streambridge_app_event (run_id, seq, byte_offset, event, data, created_at)
            SELECT %s, seq, seq * 10, 'update', '{"n":' || seq || '}', %s FROM n
            """,
            (floor + 1, count, run.pk, timezone.now()),
        )
    Run.objects.filter(pk=run.pk).update(head=count, floor=floor)
    return run


def page_of(run: Run, query: str = "") -> str:
    return reverse("admin:streambridge_app_run_change", args=[run.pk]) + query


def text(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200
    return response.content.decode()


def shown(html: str) -> list[int]:
    """Return the numbers of the events on a page."""
    return [int(seq) for seq in re.findall(r'<th scope="row"><a href="\?event=(\d+)#', html)]


def links(html: str) -> dict[str, str]:
    """Return the queries that the first row of links leads to, by their text."""
    (row, *_) = re.findall(r'<p class="paginator streambridge-links">(.*?)</p>', html, re.DOTALL)
    return {label: query for query, label in re.findall(r'href="(\?[^"#]*)#events">([^<]*)<', row)}


# The list


def test_list_shows_status_owner_events_duration_and_age(admin: Client) -> None:
    owner = User.objects.create(username="olga")
    get_sync_bridge().create_run("owned", owner=owner)
    get_sync_bridge().publish("owned", "update", 1)
    get_sync_bridge().publish_end("owned")
    hour_ago = timezone.now() - datetime.timedelta(hours=1)
    Run.objects.update(created_at=hour_ago, ended_at=hour_ago + datetime.timedelta(seconds=90))
    html = text(admin, LIST)
    assert '<span class="streambridge-status streambridge-success">success</span>' in html
    assert "olga" in html
    assert 'class="field-event_count">1</td>' in html
    assert 'class="field-duration">0:01:30</td>' in html
    assert "1\xa0hour</time>" in html


def test_list_is_searched_by_run_id_and_filtered(admin: Client) -> None:
    make_run("build-17")
    make_run("build-18", ended="error")
    make_run("deploy-17")
    assert [run.run_id for run in found(admin, "?q=build")] == ["build-18", "build-17"]
    assert [run.run_id for run in found(admin, "?status__exact=error")] == ["build-18"]
    assert len(found(admin, f"?created_at__gte={timezone.now():%Y-%m-%d}+00:00:00%2B00:00")) == 3
    assert found(admin, "?created_at__gte=2999-01-01+00:00:00%2B00:00") == []


def found(client: Client, query: str) -> list[Run]:
    return list(client.get(LIST + query).context["cl"].result_list)


def test_list_leaves_out_runs_whose_deletion_is_under_way(admin: Client) -> None:
    run = make_run()
    Run.objects.update(run_id=None)
    assert found(admin, "") == []
    assert admin.get(page_of(run)).status_code == 302  # "doesn't exist", as Django has it


def test_list_takes_few_queries_whatever_is_in_the_database(
    admin: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    make_numbered(MILLION)
    runs = [
        Run(run_id=f"run-{n}", epoch=n, created_at=timezone.now(), owner_id=User.objects.get().pk)
        for n in range(LISTED_RUNS + 50)
    ]
    Run.objects.bulk_create(runs, batch_size=1000)
    with django_assert_num_queries(5) as captured:  # session, user, runs (bounded), a page, owners
        html = text(admin, LIST)
    assert f"LIMIT {LISTED_RUNS}" in captured[2]["sql"]
    assert "streambridge_app_event" not in str(captured.captured_queries)
    assert "metadata_json" not in str(captured.captured_queries)
    assert f"These are the newest {LISTED_RUNS} runs" in html


# The page of a run


def test_page_shows_the_run_and_its_events(admin: Client) -> None:
    get_sync_bridge().create_run("full", metadata={"job": {"name": "<b>"}})
    get_sync_bridge().publish("full", "up<date", {"text": "<script>é", "list": [1]})
    html = text(admin, page_of(Run.objects.get()))
    assert "&quot;name&quot;: &quot;&lt;b&gt;&quot;" in html
    assert "up&lt;date" in html
    assert (
        "{\n  &quot;text&quot;: &quot;&lt;script&gt;é&quot;,\n  &quot;list&quot;: [\n    1" in html
    )
    assert "<script>é" not in html


def test_page_shows_until_when_a_producer_counts_as_alive(admin: Client) -> None:
    run = make_run("run")
    Run.objects.filter(pk=run.pk).update(lease_ms=60_000, lease_expires=1_700_000_000_000)
    assert "until 2023-11-14 " in text(admin, page_of(run))
    get_sync_bridge().publish_end("run")
    assert "until 2023-11-14 " not in text(admin, page_of(run))


def test_page_of_a_million_events_takes_few_queries(
    admin: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    run = make_numbered(MILLION)
    text(admin, page_of(run))  # Django remembers content types
    middle, last = MILLION // 2, MILLION + 1
    for query, expected in {
        "": range(1, PAGE_EVENTS + 1),
        f"?after={middle}": range(middle + 1, middle + PAGE_EVENTS + 1),
        f"?before={middle}": range(middle - PAGE_EVENTS, middle),
        f"?before={last}": range(last - PAGE_EVENTS, last),
        f"?event={middle}": [middle],
    }.items():
        # Session, user, the run (twice: once by us), its metadata and events.
        with django_assert_num_queries(6) as captured:
            html = text(admin, page_of(run, query))
        assert shown(html) == [*expected]
        assert "OFFSET" not in str(captured.captured_queries)
        assert "COUNT" not in str(captured.captured_queries)


def test_pages_lead_to_each_other(admin: Client) -> None:
    run = make_numbered(250)
    assert links(text(admin, page_of(run))) == {"Later →": "?after=100", "Last": "?before=251"}
    middle = text(admin, page_of(run, "?after=100"))
    assert links(middle) == {
        "First": "?",
        "← Earlier": "?before=101",
        "Later →": "?after=200",
        "Last": "?before=251",
    }
    assert re.search(r"101.200\s+of\s+250", middle)
    last = text(admin, page_of(run, "?after=200"))
    assert shown(last) == [*range(201, 251)]
    assert links(last) == {"First": "?", "← Earlier": "?before=201"}
    assert links(text(admin, page_of(run, "?event=100"))) == {
        "← Previous": "?event=99",
        "List from here": "?after=99",
        "Next →": "?event=101",
    }


def test_pages_of_a_trimmed_run_start_at_its_earliest_event(admin: Client) -> None:
    run = make_numbered(250, floor=200)
    html = text(admin, page_of(run))
    assert shown(html) == [*range(201, 251)]
    assert links(html) == {}
    assert "50 of 250; older ones were trimmed" in html
    assert shown(text(admin, page_of(run, "?event=200"))) == []


@pytest.mark.parametrize("query", ["?after=x", "?after=-1", "?before=", "?event=1e3"])
def test_nonsense_in_the_address_is_ignored(admin: Client, query: str) -> None:
    assert shown(text(admin, page_of(make_run("run", 1, 2), query))) == [1, 2]


def test_large_data_is_cut_and_shown_whole_on_demand(admin: Client) -> None:
    run = make_run("run", {"a": "x" * PREVIEW_CHARACTERS, "z": "the end"})
    html = text(admin, page_of(run))
    assert "the end" not in html
    assert f"Show all {len(Event.objects.get().data)} characters" in html
    assert "  &quot;z&quot;: &quot;the end&quot;\n}</pre>" in text(admin, page_of(run, "?event=1"))


def test_data_that_indentation_would_make_enormous_is_shown_as_it_is(admin: Client) -> None:
    run = make_run("run", 0)
    nested = "[" * 999 + "]" * 999
    Event.objects.update(data=nested)
    assert nested in text(admin, page_of(run))


def test_data_that_somebody_has_broken_by_hand_is_shown_as_it_is(admin: Client) -> None:
    run = make_run("run", 0)
    Event.objects.update(data="no json")
    assert "no json" in text(admin, page_of(run))


# Permissions


def test_nothing_can_be_added_or_edited(admin: Client) -> None:
    run = make_run()
    assert admin.get(reverse("admin:streambridge_app_run_add")).status_code == 403
    assert admin.post(page_of(run), {"run_id": "other", "_save": "1"}).status_code == 403
    assert Run.objects.get().run_id == "run"
    form = text(admin, page_of(run)).split('id="run_form"')[1].split("</form>")[0]
    assert {*re.findall("<(?:input|textarea|select)[^>]*>", form)} <= {
        *re.findall('<input type="hidden"[^>]*>', form)
    }


def test_viewing_needs_its_permission(staff: Staff) -> None:
    client = staff()
    assert client.get(LIST).status_code == 403
    assert client.get(page_of(make_run())).status_code == 403


@pytest.mark.parametrize(
    ("codenames", "expected"),
    [
        (["view_run"], set()),
        (["view_run", "change_run"], {"ask_to_cancel", "end"}),
        (["view_run", "delete_run"], {"delete_selected"}),
    ],
)
def test_actions_need_their_permission(
    staff: Staff, codenames: list[str], expected: set[str]
) -> None:
    client = staff(*codenames)
    run = make_run()
    form = client.get(LIST).context["action_form"]
    offered = {value for value, _ in form.fields["action"].choices if value} if form else set()
    assert offered == expected
    html = text(client, page_of(run))
    for name in ("ask_to_cancel", "end"):
        assert (f'name="action" value="{name}"' in html) is (name in expected)
        if name not in expected:
            assert client.post(page_of(run), {"action": name}).status_code == 403
    assert ("deletelink" in html) is ("delete_selected" in expected)
    state = get_sync_bridge().get_run("run")
    assert not state.ended
    assert not state.cancel_requested


# Actions


def act(client: Client, action: str, *runs: Run, **more: str) -> str:
    data = {"action": action, "_selected_action": [run.pk for run in runs], **more}
    response = client.post(LIST, data, follow=True)
    assert response.status_code == 200
    return response.content.decode()


def test_ask_to_cancel(staff: Staff) -> None:
    client = staff("view_run", "change_run")
    runs = make_run("going"), make_run("over", ended="success")
    assert "1 run was asked to cancel." in act(client, "ask_to_cancel", *runs)
    assert get_sync_bridge().get_run("going").cancel_requested
    assert not get_sync_bridge().get_run("over").cancel_requested
    assert "asked to cancel" in text(client, LIST)


def test_end(staff: Staff) -> None:
    client = staff("view_run", "change_run")
    runs = make_run("going"), make_run("over", ended="success")
    assert "1 run was ended." in act(client, "end", *runs)
    assert get_sync_bridge().get_run("going").status == "cancelled"
    assert get_sync_bridge().get_run("over").status == "success"


def test_end_skips_a_run_that_is_deleted_meanwhile(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = make_run("a"), make_run("b")
    bridge = get_sync_bridge()
    publish_end = bridge.publish_end

    def end_and_delete_the_other(run_id: str, **kwargs: Any) -> None:
        publish_end(run_id, **kwargs)
        bridge.cleanup("b" if run_id == "a" else "a")

    monkeypatch.setattr(bridge, "publish_end", end_and_delete_the_other)
    monkeypatch.setattr(module, "get_sync_bridge", lambda: bridge)
    html = act(admin, "end", *runs)
    assert "1 run was ended." in html
    assert (
        "1 run was skipped, because it has been deleted meanwhile or can only be deleted." in html
    )
    assert Run.objects.count() == 1


@pytest.mark.parametrize("action", ["ask_to_cancel", "end"])
def test_buttons_on_the_page_of_a_run(admin: Client, action: str) -> None:
    run = make_run("run", 1)
    response = admin.post(page_of(run, "?after=0"), {"action": action})
    assert response.headers["Location"] == page_of(run, "?after=0")
    state = get_sync_bridge().get_run("run")
    assert (state.cancel_requested, state.ended) == (action == "ask_to_cancel", action == "end")
    assert (f'value="{action}"' in text(admin, page_of(run))) is not state.ended
    history = text(admin, reverse("admin:streambridge_app_run_history", args=[run.pk]))
    assert ("Asked to cancel." in history, "Ended." in history) == (
        state.cancel_requested,
        state.ended,
    )


def test_delete_selected_asks_and_takes_the_events_along(staff: Staff) -> None:
    client = staff("view_run", "delete_run")
    runs = make_numbered(12_000), make_run("small", 1), make_run("kept", 1)
    question = act(client, "delete_selected", *runs[:2])
    assert "numbered (12,000 events)" in question
    assert "Events: 12001" in question
    assert Run.objects.count() == 3
    assert "Successfully deleted 2 runs." in act(client, "delete_selected", *runs[:2], post="yes")
    assert [run.run_id for run in Run.objects.all()] == ["kept"]
    assert Event.objects.count() == 1


def test_delete_one_run(staff: Staff) -> None:
    client = staff("view_run", "delete_run")
    run = make_run("run", 1, 2)
    url = reverse("admin:streambridge_app_run_delete", args=[run.pk])
    assert "run (2 events)" in text(client, url)
    assert client.post(url, {"post": "yes"}).status_code == 302
    assert not Run.objects.exists()
    assert not Event.objects.exists()


def test_a_follower_hears_of_the_end(admin: Client) -> None:
    run = make_run("run", 1)
    events = get_sync_bridge().subscribe("run")
    assert next(events).data == 1
    admin.post(page_of(run), {"action": "end"})
    assert next(events).event == "__end__"


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
def test_a_log_in_another_database_than_the_users(admin: Client, settings: Settings) -> None:
    settings.STREAMBRIDGE = {"DATABASE": "postgres"}
    get_sync_bridge().create_run("elsewhere", metadata={"a": 1})
    for n in range(3):
        get_sync_bridge().publish("elsewhere", "update", {"text": "x" * PREVIEW_CHARACTERS * n})
    (run,) = found(admin, "?q=else")
    assert shown(text(admin, page_of(run, "?after=1"))) == [2, 3]
    assert shown(text(admin, page_of(run, "?before=3"))) == [1, 2]
    assert "Show all" not in text(admin, page_of(run, "?event=3"))
    assert "1 run was asked to cancel." in act(admin, "ask_to_cancel", run)
    url = reverse("admin:streambridge_app_run_delete", args=[run.pk])
    assert admin.post(url, {"post": "yes"}).status_code == 302
    assert not Run.objects.using("postgres").exists()
    assert not Event.objects.using("postgres").exists()


@pytest.mark.parametrize("odd", ["a/..", "dir/"])
def test_a_run_whose_id_is_refused_by_now_can_be_deleted(admin: Client, odd: str) -> None:
    run = make_run("run")
    Run.objects.update(run_id=odd)
    run.refresh_from_db()
    assert "0 runs were asked" in act(admin, "ask_to_cancel", run)
    assert "1 run was skipped" in act(admin, "end", run)
    assert "Successfully deleted 1 run." in act(admin, "delete_selected", run, post="yes")
    assert not Run.objects.exists()
    assert not Event.objects.exists()

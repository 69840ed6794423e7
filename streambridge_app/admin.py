"""
Runs and their events in the admin: to look at, to stop, to delete; never to edit.

A run may have a million events. So no page counts them, skips over them or loads more than a
page of them, and deleting goes through the bridge, in bounded transactions.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.paginator import Paginator
from django.db.models import F, QuerySet
from django.db.models.functions import Length, Substr
from django.forms import Media
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .conf import streambridge_settings
from .contract import CANCELLED
from .exceptions import InvalidRunId, RunEnded, RunNotFound
from .log import retention
from .models import Event, Run
from .ownership import owners_named
from .registry import get_sync_bridge
from .runtime import after_commits

LISTED_RUNS: Final = 10_000
"""Runs that the list leads to, at most: the newest that match. More are not even counted."""

PAGE_EVENTS: Final = 100
"""Events on one page."""

PREVIEW_CHARACTERS: Final = 2_000
"""Characters of an event's data in a list of events; the rest is not even read."""

NAMED_DELETIONS: Final = 100
"""Runs that the question before a deletion lists by name."""

INDENTATION_GROWTH: Final = 10
"""Times the size of its JSON text that indented data may have."""

_ENCODER: Final = json.JSONEncoder(indent=2, ensure_ascii=False)
_PAGE_ACTIONS: Final = {"ask_to_cancel": _("Ask to cancel"), "end": _("End as cancelled")}
_SEQ: Final = re.compile(r"[0-9]{1,18}")  # what databases take for a number
_COLUMNS: Final = ("seq", "event", "created_at", "size", "preview")


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # Django's class takes none
    """Counts no further than :data:`LISTED_RUNS`."""

    @cached_property
    def count(self) -> int:
        runs: Any = self.object_list
        return int(runs[:LISTED_RUNS].count())


class EventRow(NamedTuple):
    """An event as a page shows it."""

    seq: int
    event: str
    created_at: datetime.datetime
    text: str
    """The data, indented; its beginning as it is, when that is all that was read."""
    size: int
    """Characters of the data."""
    whole: bool

    @classmethod
    def read(
        cls, seq: int, event: str, created_at: datetime.datetime, size: int, preview: str
    ) -> EventRow:
        whole = len(preview) == size
        return cls(seq, event, created_at, _indented(preview) if whole else preview, size, whole)


class EventPage(NamedTuple):
    """Some consecutive events of a run, and where to go from there."""

    rows: Sequence[EventRow]
    single: bool
    """Whether this is one event, in full."""
    earliest: int
    head: int

    @property
    def before(self) -> int | None:
        """The number to page back from, or None on the first page."""
        return self.rows[0].seq if self.rows and self.rows[0].seq > self.earliest else None

    @property
    def after(self) -> int | None:
        """The number to page on from, or None on the last page."""
        return self.rows[-1].seq if self.rows and self.rows[-1].seq < self.head else None


@admin.register(Run)
class RunAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # Django's class takes none
    list_display = ("run_id", "status_label", "owner", "event_count", "duration", "age")
    list_filter = ("status", "created_at")
    list_select_related = ()  # of False, Django 6.1 makes a join with the owner
    search_fields = ("run_id",)
    search_help_text = _("Part of a run id, or the name of an owner")
    ordering = ("-created_at",)
    show_facets = admin.ShowFacets.NEVER
    show_full_result_count = False
    paginator = BoundedPaginator
    actions = ("ask_to_cancel", "end")
    fields = (
        ("run_id", "status_label"),
        ("owner", "event_count"),
        ("created_at", "ended_at"),
        ("duration", "cancel_requested_at"),
        ("lease", "generation"),
        ("max_events", "max_bytes"),
        ("keep", "delete_at"),
        "metadata_text",
    )
    readonly_fields = ("status_label", "event_count", "duration", "lease", "metadata_text")

    @property
    def media(self) -> Media:
        return super().media + Media(css={"all": ["streambridge_app/admin.css"]})

    # What may be done

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Run | None = None) -> bool:
        return False

    def has_end_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may stop runs: the right to change them gives no other."""
        return request.user.has_perm("streambridge_app.change_run")

    # The list

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        # Without a run id, its deletion is under way.
        runs = super().get_queryset(request).using(streambridge_settings.DATABASE)
        # No join: users may be in another database.
        runs = runs.prefetch_related("owner")
        return runs.filter(run_id__isnull=False).defer("metadata_json")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Run], search_term: str
    ) -> tuple[QuerySet[Run], bool]:
        found, may_repeat = super().get_search_results(request, queryset, search_term)
        if search_term:
            found |= queryset.filter(owner_id__in=owners_named(search_term))
        return found, may_repeat

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"listed_runs": LISTED_RUNS, **(extra_context or {})}
        return super().changelist_view(request, context)

    @admin.display(description=_("status"), ordering="status")
    def status_label(self, run: Run) -> SafeString:
        label = format_html(
            '<span class="streambridge-status streambridge-{}">{}</span>',
            run.status,
            run.get_status_display(),
        )
        if run.ended_at is None and run.cancel_requested_at is not None:
            return format_html("{} {}", label, _("asked to cancel"))
        return label

    @admin.display(description=_("events"))
    def event_count(self, run: Run) -> str:
        count = f"{run.head - run.floor:,}"
        if run.floor:
            return _("%(count)s of %(head)s; older ones were trimmed") % {
                "count": count,
                "head": f"{run.head:,}",
            }
        return count

    @admin.display(description=_("duration"))
    def duration(self, run: Run) -> str:
        seconds = ((run.ended_at or timezone.now()) - run.created_at).total_seconds()
        if seconds < 60:
            return f"{max(0.0, seconds):.1f} s"
        return str(datetime.timedelta(seconds=round(seconds)))

    @admin.display(description=_("lease"))
    def lease(self, run: Run) -> str:
        """Return until when the run's producer counts as alive."""
        if run.lease_expires is None:
            return self.get_empty_value_display()
        expires = datetime.datetime.fromtimestamp(run.lease_expires / 1000, datetime.UTC)
        return _("until %(time)s") % {"time": f"{timezone.localtime(expires):%Y-%m-%d %H:%M:%S}"}

    @admin.display(description=_("age"), ordering="-created_at")
    def age(self, run: Run) -> SafeString:
        return format_html(
            '<time datetime="{}" title="{}">{}</time>',
            run.created_at.isoformat(),
            timezone.localtime(run.created_at).strftime("%Y-%m-%d %H:%M:%S"),
            timesince(run.created_at, depth=1),
        )

    @admin.display(description=_("metadata"))
    def metadata_text(self, run: Run) -> SafeString | str:
        if not run.metadata:
            return self.get_empty_value_display()
        return format_html('<pre class="streambridge-json">{}</pre>', _indented(run.metadata_json))

    # The page of a run

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        run = self.get_object(request, unquote(object_id))
        if run is None or not self.has_view_permission(request, run):
            return super().change_view(request, object_id, form_url, extra_context)
        actions = self.get_actions(request)
        offered = {name: label for name, label in _PAGE_ACTIONS.items() if name in actions}
        chosen = request.POST.get("action")
        if chosen in offered:
            getattr(self, chosen)(request, self.get_queryset(request).filter(pk=run.pk))
            return HttpResponseRedirect(request.get_full_path())
        context = {
            "events": _event_page(run, request),
            "run_actions": offered.items() if run.ended_at is None else (),
            **(extra_context or {}),
        }
        return super().change_view(request, object_id, form_url, context)

    # Actions

    @admin.action(permissions=["end"], description=_("Ask selected runs to cancel"))
    def ask_to_cancel(self, request: HttpRequest, runs: QuerySet[Run]) -> None:
        asked = 0
        for run in runs:
            with contextlib.suppress(RunEnded, RunNotFound, InvalidRunId):
                get_sync_bridge().request_cancel(str(run.run_id))
                self.log_change(request, run, "Asked to cancel.")
                asked += 1
        self._tell(
            request,
            ngettext("%d run was asked to cancel.", "%d runs were asked to cancel.", asked),
            asked,
        )

    @admin.action(permissions=["end"], description=_("End selected runs as cancelled"))
    def end(self, request: HttpRequest, runs: QuerySet[Run]) -> None:
        ended = gone = 0
        for run in runs.filter(ended_at__isnull=True):
            try:
                get_sync_bridge().get_run(str(run.run_id))
            # Deleted meanwhile: an end would make it again. Or its id is refused by now.
            except (RunNotFound, InvalidRunId):
                gone += 1
                continue
            get_sync_bridge().publish_end(str(run.run_id), status=CANCELLED)
            self.log_change(request, run, "Ended.")
            ended += 1
        self._tell(request, ngettext("%d run was ended.", "%d runs were ended.", ended), ended)
        if gone:
            message = ngettext(
                "%d run was skipped, because it has been deleted meanwhile or can only be deleted.",
                "%d runs were skipped, because they have been deleted meanwhile or can only be "
                "deleted.",
                gone,
            )
            self.message_user(request, message % gone, messages.WARNING)

    def _tell(self, request: HttpRequest, message: str, count: int) -> None:
        level = messages.SUCCESS if count else messages.WARNING
        self.message_user(request, message % count, level)

    # Deletion: Django's pages ask, the bridge deletes

    def get_deleted_objects(
        self, objs: Sequence[Run] | QuerySet[Run], request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        runs = list(objs)
        named: list[str] = [
            format_html("{} ({} events)", run, f"{run.head - run.floor:,}")
            for run in runs[:NAMED_DELETIONS]
        ]
        if len(runs) > NAMED_DELETIONS:
            named.append(format_html("… and {} more", len(runs) - NAMED_DELETIONS))
        counts = {
            str(Run._meta.verbose_name_plural): len(runs),
            str(Event._meta.verbose_name_plural): sum(run.head - run.floor for run in runs),
        }
        refused = set() if self.has_delete_permission(request) else {str(Run._meta.verbose_name)}
        return named, counts, refused, []

    def delete_model(self, request: HttpRequest, obj: Run) -> None:
        self._delete([obj])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Run]) -> None:
        self._delete(queryset)

    def _delete(self, runs: Iterable[Run]) -> None:
        # The bridge deletes on a connection of its own, which on SQLite waits for this one.
        for run in runs:
            after_commits(partial(_clean_up, run))


def _clean_up(run: Run) -> None:
    try:
        get_sync_bridge().cleanup(str(run.run_id))
    except InvalidRunId:  # of a run that an earlier version made: nobody follows it
        retention.delete_all(run.pk, streambridge_settings.DATABASE)


def _event_page(run: Run, request: HttpRequest) -> EventPage:
    """Read what ``?event=``, ``?after=`` or ``?before=`` asks for; without any, the first page."""
    single = _number(request, "event")
    before = _number(request, "before")
    preview = F("data") if single is not None else Substr("data", 1, PREVIEW_CHARACTERS)
    events = (
        Event.objects.using(streambridge_settings.DATABASE)
        .filter(run_id=run.pk, seq__gt=run.floor)
        .annotate(size=Length("data"), preview=preview)
    )
    if single is not None:
        found = list(events.filter(seq=single).values(*_COLUMNS))
    elif before is not None:
        page = events.filter(seq__lt=before).order_by("-seq")
        found = list(page.values(*_COLUMNS)[:PAGE_EVENTS])[::-1]
    else:
        page = events.filter(seq__gt=_number(request, "after") or 0).order_by("seq")
        found = list(page.values(*_COLUMNS)[:PAGE_EVENTS])
    rows = [EventRow.read(**row) for row in found]
    return EventPage(rows, single is not None, earliest=run.floor + 1, head=run.head)


def _number(request: HttpRequest, name: str) -> int | None:
    text = request.GET.get(name, "")
    return int(text) if _SEQ.fullmatch(text) else None


def _indented(text: str) -> str:
    """Return JSON text with indentation, or as it is where nesting would make that enormous."""
    pieces = []
    left = INDENTATION_GROWTH * len(text)
    try:
        for piece in _ENCODER.iterencode(json.loads(text)):
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                return text
    except (ValueError, RecursionError):  # no JSON: somebody has changed the row by hand
        return text
    return "".join(pieces)

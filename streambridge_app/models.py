"""
The schema: one row per run, one row per event, one row per key of an event.

The log writes these tables; besides, ``ownership`` takes deleted users out of them. The row of a
run is the lock under which its events get their numbers.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from .conf import streambridge_settings
from .contract import CANCELLED, ERROR, LOST, RUNNING, SUCCESS
from .ownership import OwnerField

M = TypeVar("M", bound=models.Model)


class LogManager(models.Manager[M]):
    """Looks where the log is, without a router as well; elsewhere after ``using()``."""

    def get_queryset(self) -> models.QuerySet[M]:
        queryset = super().get_queryset()
        return queryset if self._db else queryset.using(streambridge_settings.DATABASE)


class RunManager(LogManager["Run"]):
    """The runs, wherever the log is."""

    def for_owner(self, owner: Any) -> models.QuerySet[Run]:
        """Return the runs of a user (or of the primary key of one), the newest first."""
        owner_id = getattr(owner, "pk", owner)
        mine = self.filter(owner_id=owner_id, run_id__isnull=False)
        return (self.none() if owner_id is None else mine).order_by("-created_at")


class Run(models.Model):
    """A run: the state of one log. A null ``run_id`` marks a run whose deletion is under way."""

    class Status(models.TextChoices):
        RUNNING = RUNNING, _("running")
        SUCCESS = SUCCESS, _("success")
        ERROR = ERROR, _("error")
        CANCELLED = CANCELLED, _("cancelled")
        LOST = LOST, _("lost")

    id = models.BigAutoField(primary_key=True)
    run_id = models.CharField(_("run id"), max_length=200, unique=True, null=True)  # noqa: DJ001 - see above
    epoch = models.BigIntegerField(_("epoch"), help_text=_("Milliseconds since 1970."))
    head = models.BigIntegerField(_("head"), default=0, help_text=_("Number of the newest event."))
    floor = models.BigIntegerField(
        _("floor"), default=0, help_text=_("Number of the newest trimmed event.")
    )
    size = models.BigIntegerField(
        _("size"), default=0, help_text=_("Bytes of data appended so far, as UTF-8.")
    )
    status = models.CharField(
        _("status"), max_length=16, choices=Status.choices, default=Status.RUNNING
    )
    owner = OwnerField(  # looked after in `ownership`
        settings.AUTH_USER_MODEL,
        verbose_name=_("owner"),
        null=True,
        blank=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="+",
    )
    metadata_json = models.TextField(_("metadata"), default="{}")
    created_at = models.DateTimeField(_("created"))
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)
    cancel_requested_at = models.DateTimeField(_("cancel requested"), null=True, blank=True)
    delete_at = models.DateTimeField(
        _("delete at"), null=True, blank=True, help_text=_("Deadline set by cleanup.")
    )
    generation = models.BigIntegerField(
        _("generation"), db_default=0, help_text=_("How often a producer has taken the run over.")
    )
    # In milliseconds as numbers, so that both databases calculate alike.
    lease_ms = models.BigIntegerField(
        _("lease"), null=True, blank=True, help_text=_("Milliseconds that a renewal lasts.")
    )
    lease_expires = models.BigIntegerField(
        _("lease expires"),
        null=True,
        blank=True,
        help_text=_("Milliseconds since 1970; null without a lease, and after the end."),
    )
    cancel_after_ms = models.BigIntegerField(
        _("cancel after"),
        null=True,
        blank=True,
        help_text=_("Milliseconds without a client after which the run is asked to cancel."),
    )
    watched_at = models.BigIntegerField(
        _("watched"),
        null=True,
        blank=True,
        help_text=_("Milliseconds since 1970 when it last was known to have a client."),
    )
    max_events = models.BigIntegerField(
        _("most events"), null=True, blank=True, help_text=_("Older ones are deleted.")
    )
    max_bytes = models.BigIntegerField(
        _("most bytes"),
        null=True,
        blank=True,
        help_text=_("Of data, as UTF-8; older events are deleted."),
    )
    keep = models.DurationField(
        _("keep"),
        null=True,
        blank=True,
        help_text=_("Time from its end to its deletion; null: what the settings say."),
    )

    objects = RunManager()

    class Meta:
        verbose_name = _("run")
        verbose_name_plural = _("runs")
        indexes = (
            models.Index(fields=["status", "created_at"], name="streambridge_run_status"),
            models.Index(fields=["created_at"], name="streambridge_run_created"),
            models.Index(
                fields=["delete_at"],
                name="streambridge_run_delete",
                condition=models.Q(delete_at__isnull=False),
            ),
            models.Index(
                fields=["ended_at"],
                name="streambridge_run_ended",
                condition=models.Q(ended_at__isnull=False),
            ),
            models.Index(
                fields=["lease_expires"],
                name="streambridge_run_lease",
                condition=models.Q(lease_expires__isnull=False),
            ),
            models.Index(
                fields=["watched_at"],
                name="streambridge_run_watched",
                condition=models.Q(status=RUNNING, cancel_after_ms__isnull=False),
            ),
            # Not of the head: PostgreSQL would have to write to the index with every commit.
            models.Index(
                fields=["id"],
                name="streambridge_run_limited",
                condition=models.Q(max_events__isnull=False) | models.Q(max_bytes__isnull=False),
            ),
            models.Index(
                fields=["ended_at"],
                name="streambridge_run_keep",
                condition=models.Q(keep__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return self.run_id or str(_("(being deleted)"))

    @property
    def metadata(self) -> dict[str, Any]:
        """The caller's JSON object."""
        metadata: dict[str, Any] = json.loads(self.metadata_json)
        return metadata


class Event(models.Model):
    """One event of a run. The database has no foreign key: it would cost a check per insert."""

    pk = models.CompositePrimaryKey("run_id", "seq")
    run = models.ForeignKey(
        Run, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="events"
    )
    seq = models.BigIntegerField(_("number"))
    byte_offset = models.BigIntegerField(
        _("offset"), help_text=_("Bytes of the run's data before this event.")
    )
    event = models.CharField(_("name"), max_length=255)
    data = models.TextField(_("data"), help_text=_("One line of JSON text."))
    created_at = models.DateTimeField(_("created"))

    objects = LogManager()

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")

    def __str__(self) -> str:
        return f"{self.seq} {self.event}"


class EventKey(models.Model):
    """The key of an event, kept as long as its run: the same key again is the same event."""

    pk = models.CompositePrimaryKey("run_id", "key")
    run = models.ForeignKey(
        Run, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="keys"
    )
    key = models.CharField(_("key"), max_length=255)
    seq = models.BigIntegerField(_("number"))

    objects = LogManager()

    class Meta:
        verbose_name = _("event key")
        verbose_name_plural = _("event keys")

    def __str__(self) -> str:
        return f"{self.seq} {self.key}"


class EpochFloor(models.Model):
    """The highest epoch of any deleted run: later incarnations get a higher one. One row."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    epoch = models.BigIntegerField(default=0)

    objects = LogManager()

    class Meta:
        verbose_name = _("epoch floor")

    def __str__(self) -> str:
        return str(self.epoch)

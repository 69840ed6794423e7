"""
One pass of the sweeper: what a command, a beat task and every server do.

It yields after each transaction, so that whoever runs it can stop in between, show how far it has
come, and keep nobody waiting.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from django.db.models import QuerySet
from django.utils import timezone

from ..conf import streambridge_settings
from ..models import Run
from . import leases, retention
from .watch import LOOK_INTERVAL, Watch
from .writes import Written

RUNS_AT_ONCE: Final = 10_000
"""Keys of runs read in one query."""

FAILURES: Final = 100
"""Runs that could not be deleted, after which a sweep gives up: then it is the database."""

RECOVERY_MARGIN: Final = 2.0
"""
Seconds, beside ``RETRY_SECONDS``, for which a sweep leaves what is new.

A publisher whose connection broke looks for what it has written before it tries again.
"""

LEASE_PATIENCE: Final = (leases.EXPIRY_PATIENCE + leases.EXPIRY_GRACE) / 1000 + 2 * LOOK_INTERVAL
"""Seconds to watch leases that seem to have expired, before the runs are left to others."""


class Swept(NamedTuple):
    """What one transaction did, or several together."""

    runs: int = 0
    """Runs deleted."""
    events: int = 0
    """Events deleted with them."""
    trimmed: int = 0
    """Events deleted of runs over their limits."""
    lost: int = 0
    """Runs ended as lost."""

    def plus(self, other: Swept) -> Swept:
        return Swept(*map(sum, zip(self, other, strict=True)))


def sweep(using: str, older_than: datetime.timedelta | None = None) -> Iterator[Swept]:
    """
    Trim the runs that are over their limits, and delete those that were kept long enough.

    A run that can't be deleted is passed over, and the first error raised at the end.

    Args:
        using: alias of the database.
        older_than: how long to keep runs after their end, instead of what they and the settings
            say.
    """
    for key in retention.over_limits(using):
        for events in retention.trim_to_limits(key, _settled_before(), using):
            yield Swept(trimmed=events)
    failed: dict[int, Exception] = {}
    for query in past_keep(using, older_than):
        progress = True
        while progress:  # what others are at comes again
            progress = False
            left = query.exclude(id__in=list(failed)) if failed else query
            for key in list(left.values_list("id", flat=True)[:RUNS_AT_ONCE]):
                try:
                    for number, events in enumerate(retention.delete(key, using, query)):
                        progress = True
                        yield Swept(runs=0 if number else 1, events=events)
                except Exception as error:
                    if len(failed) == FAILURES:
                        raise  # it is not the runs
                    failed[key] = error
                    progress = True  # the others must not wait for this one
    if failed:
        raise next(iter(failed.values()))


def sweep_alone(
    using: str,
    announce: Callable[[Sequence[Written]], None],
    older_than: datetime.timedelta | None = None,
) -> Iterator[Swept]:
    """
    Do the same in a process that is no server, and first end the runs whose lease has expired.

    Args:
        using, older_than: as for :func:`sweep`.
        announce: told what was written.
    """
    watch = Watch(using, announce)
    give_up_at = time.monotonic() + LEASE_PATIENCE
    lost = watch.look(())
    while leases.expired_leases(using) and time.monotonic() < give_up_at:
        time.sleep(LOOK_INTERVAL)  # after an outage, the living must have had time to renew
        lost += watch.look(())
    yield Swept(lost=lost)
    yield from sweep(using, older_than)


def past_keep(using: str, older_than: datetime.timedelta | None = None) -> Sequence[QuerySet[Run]]:
    """Return the runs that a sweep would delete, in queries of distinct runs."""
    now = timezone.now()
    if older_than is not None:
        kept = retention.ended_before(using, now, older_than)
    else:
        kept = retention.kept_long_enough(using, _settled_before(), *_keep_times())
    silence = _duration(streambridge_settings.KEEP_SILENT_SECONDS)
    silent = () if silence is None else retention.silent(using, _settled_before(), silence)
    return [retention.due(using, now), *kept, *silent]


def _settled_before() -> datetime.datetime:
    """Return the time before which nobody may still ask what became of it."""
    seconds = streambridge_settings.RETRY_SECONDS + RECOVERY_MARGIN
    return timezone.now() - datetime.timedelta(seconds=seconds)


def _keep_times() -> tuple[datetime.timedelta | None, datetime.timedelta | None]:
    """Return how long runs with and without an owner are kept; None: for ever."""
    owned = streambridge_settings.KEEP_SECONDS
    unowned = streambridge_settings.KEEP_UNOWNED_SECONDS
    return _duration(owned), _duration(owned if unowned is None else unowned)


def _duration(seconds: float | None) -> datetime.timedelta | None:
    try:
        return None if seconds is None else datetime.timedelta(seconds=seconds)
    except OverflowError:  # longer than Python can say
        return None

"""
What is deleted of the log, and when: events over a run's limits, runs that were kept long enough.

Everything is done in transactions of a bounded size, each of which leaves the log whole: a process
may die after any of them, and whoever looks next goes on. Any number of processes may delete at
once: each event and each run is deleted by one of them. Only a project that deletes runs by the ORM
has all events of a run deleted in its own transaction.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from typing import Any, Final

from django.db import OperationalError, connections, transaction
from django.db.models import F, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.signals import pre_delete
from django.utils import timezone

from ..contract import RUNNING
from ..exceptions import run_not_found
from ..models import EpochFloor, Event, EventKey, Run
from .creation import MADE_BY_PUBLISH
from .patience import is_patient, limit_waits

DELETE_BATCH: Final = 5_000
"""Events deleted in one transaction."""

TRIM_BATCH: Final = 1_000
"""The same of a run that goes on: so long do its publishers wait."""

DELETION_CLAIM: Final = datetime.timedelta(seconds=10)
"""How long a deletion that was begun is left to who began it, from each of its transactions on."""

LOCK_PATIENCE: Final = 500
"""Milliseconds for which a sweeper waits for a run that somebody else has locked."""


def trim(run_id: str, keep: int, using: str, deleted: list[int] | None = None) -> int:
    """
    Delete all but the newest ``keep`` events of a run; return how many that were.

    Args:
        run_id: the run.
        keep: events.
        using: alias of the database.
        deleted: takes the number of each transaction, for a caller that tries again.

    Raises:
        RunNotFound: no run has this id.
    """
    found = Run.objects.using(using).filter(run_id=run_id).values_list("id", "head").first()
    if found is None:
        raise run_not_found(run_id)
    key, head = found
    deleted = [] if deleted is None else deleted
    deleted.extend(_trim_to(key, head - keep, using))
    return sum(deleted)


def trim_to_limits(key: int, before: datetime.datetime, using: str) -> Iterator[int]:
    """
    Delete what a run has over its limits, yielding after each transaction how many events.

    Stops at a run that somebody holds locked: the next sweep goes on.

    Args:
        key: primary key of the run.
        before: leave events that are not older.
        using: alias of the database.
    """
    run = Run.objects.using(using).filter(id=key, run_id__isnull=False).first()
    if run is None:
        return
    floor = run.floor
    if run.max_events is not None:
        floor = max(floor, run.head - run.max_events)
    if run.max_bytes is not None:
        offset = run.size - run.max_bytes
        floor = max(floor, _last_with(run, run.head - 1, {"byte_offset__lt": offset}, using))
    floor = _last_with(run, floor, {"created_at__lt": before}, using)
    with contextlib.suppress(OperationalError):  # it stays locked, or the next query says more
        yield from _trim_to(key, floor, using, patient=False)


def _last_with(run: Run, most: int, condition: dict[str, Any], using: str) -> int:
    """
    Return the number of the last event, up to ``most``, of which a condition is true.

    It must be true of all events before such a one. If it is of none, that is the floor.
    """
    events = Event.objects.using(using).filter(run_id=run.id)
    low, high = run.floor, most
    while low < high:
        middle = (low + high + 1) // 2
        if events.filter(seq=middle, **condition).exists():
            low = middle
        else:
            high = middle - 1
    return low


def _trim_to(key: int, floor: int, using: str, *, patient: bool = True) -> Iterator[int]:
    """
    Move the floor of a run up, yielding after each transaction the number of events it took.

    A floor and the events below it go in one transaction, which locks the run first, as everybody
    does. So each event is deleted by one process, and a death leaves nothing to look for.
    """
    runs = Run.objects.using(using).filter(id=key)
    events = Event.objects.using(using).filter(run_id=key)
    while True:
        with transaction.atomic(using=using):
            if patient:
                limit_waits(connections[using])
            else:
                _limit_patience(using)
            now = runs.select_for_update().values_list("floor", flat=True).first()
            if now is None or now >= floor:
                return
            upto = min(floor, now + TRIM_BATCH)
            deleted = events.filter(seq__gt=now, seq__lte=upto)._raw_delete(using)
            runs.update(floor=upto)
        yield deleted


def _limit_patience(using: str) -> None:
    """Wait no longer than :data:`LOCK_PATIENCE` for locks, to the end of the transaction."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {LOCK_PATIENCE}")


def over_limits(using: str) -> list[int]:
    """Return the keys of runs that have more than their limits allow."""
    # Two looks, each at the runs in the index of those with limits; and differences, since the sum
    # of a limit and a number may be none that a database has.
    runs = Run.objects.using(using)
    many = runs.filter(max_events__isnull=False, max_events__lt=F("head") - F("floor"))
    events = Event.objects.using(using)
    oldest = events.filter(run_id=OuterRef("id"), seq=OuterRef("floor") + 1)
    large = runs.filter(
        max_bytes__isnull=False,
        head__gt=F("floor") + 1,
        max_bytes__lt=F("size") - Subquery(oldest.values("byte_offset")),
    )
    return sorted({*many.values_list("id", flat=True), *large.values_list("id", flat=True)})


def schedule_cleanup(run_id: str, deadline: datetime.datetime, using: str) -> int | None:
    """Store when to delete a run, and return its key; None if there is no such run."""
    runs = Run.objects.using(using)
    key = runs.filter(run_id=run_id).values_list("id", flat=True).first()
    if key is not None:  # by key: the id may name another run a moment later
        runs.filter(is_patient(using), id=key, run_id=run_id).update(delete_at=deadline)
    return key


def due(using: str, now: datetime.datetime) -> QuerySet[Run]:
    """Return the runs whose deletion is due, or was begun by a process that went on no more."""
    return Run.objects.using(using).filter(_is_due(now))


def _is_due(now: datetime.datetime) -> Q:
    return Q(delete_at__lte=now) | Q(run_id__isnull=True, delete_at__isnull=True)


def kept_long_enough(
    using: str,
    now: datetime.datetime,
    owned: datetime.timedelta | None,
    unowned: datetime.timedelta | None,
) -> list[QuerySet[Run]]:
    """
    Return the runs that ended longer ago than they are kept and are not due anyway, by three rules.

    Args:
        using: alias of the database.
        now: the time.
        owned, unowned: how long runs with and without an owner are kept that do not say so
            themselves; None: for ever.
    """
    runs = Run.objects.using(using).exclude(_is_due(now))
    queries = [runs.filter(keep__isnull=False, ended_at__lt=Value(now) - F("keep"))]
    for is_unowned, keep in ((False, owned), (True, unowned)):
        if keep is not None and (before := _before(now, keep)):
            queries.append(
                runs.filter(keep__isnull=True, owner__isnull=is_unowned, ended_at__lt=before)
            )
    return queries


def silent(using: str, now: datetime.datetime, keep: datetime.timedelta) -> list[QuerySet[Run]]:
    """
    Return the runs that go on without a word, and of which nobody ever said anything.

    Such a run was made by a publish: to an id that was mistyped, or whose run had been deleted.
    Nobody will end it. A run that somebody has created or holds, and one that has got an owner or a
    lease since, is somebody's, however long it is silent.

    Args:
        using: alias of the database.
        now: the time.
        keep: how long such a run is kept after its last event.
    """
    before = _before(now, keep)
    if before is None:
        return []
    # Of a newest event that is not there nobody knows the age. Its time is read by a subquery of
    # one value: PostgreSQL might answer EXISTS by reading all events. And it must be there to be
    # old: who waits for a run's lock sees the run's new head, but not the event that came with it.
    newest = Event.objects.using(using).filter(run_id=OuterRef("id"), seq=OuterRef("head"))
    runs = Run.objects.using(using).alias(spoke_at=Subquery(newest.values("created_at")))
    return [
        runs.filter(
            spoke_at__lt=before,
            status=RUNNING,
            created_at__lt=before,
            run_id__isnull=False,
            delete_at__isnull=True,
            owner__isnull=True,
            lease_ms__isnull=True,
            generation=0,
            metadata_json=MADE_BY_PUBLISH,
        )
    ]


def ended_before(
    using: str, now: datetime.datetime, older_than: datetime.timedelta
) -> list[QuerySet[Run]]:
    """Return the runs that ended so long ago, whatever they say themselves, and are not due."""
    before = _before(now, older_than)
    runs = Run.objects.using(using).exclude(_is_due(now))
    return [runs.filter(ended_at__lt=before)] if before else []


def _before(now: datetime.datetime, keep: datetime.timedelta) -> datetime.datetime | None:
    try:
        return now - keep
    except OverflowError:  # before the first year there is
        return None


def delete(key: int, using: str, among: QuerySet[Run] | None = None) -> Iterator[int]:
    """
    Delete a run, its events and keys, yielding after each transaction the number of events it took.

    The first transaction takes the run's id away: from then on the run is gone for everybody,
    and the id is free for a new incarnation. Each says until when the deletion is this process's:
    if it dies, whoever sweeps after that goes on. Nothing is yielded if it is another's.

    Args:
        key: primary key of the run.
        using: alias of the database.
        among: delete it only if it still is one of these, and not while somebody else has it
            locked; None: in any case.
    """
    if not _claim_deletion(key, using, among):
        return
    yield 0
    yield from _delete_events(key, using)
    keys = EventKey.objects.using(using).filter(run_id=key)
    some = keys.order_by("key").values("key")[:DELETE_BATCH]
    while keys.exists():
        keys.filter(key__in=some)._raw_delete(using)
        _keep_claim(key, using)
        yield 0
    Run.objects.using(using).filter(id=key)._raw_delete(using)


def delete_all(key: int, using: str) -> int:
    """Delete a run and its events; return how many events that were."""
    return sum(delete(key, using))


def _claim_deletion(key: int, using: str, among: QuerySet[Run] | None) -> bool:
    now = timezone.now()
    runs = Run.objects.using(using)
    try:
        with transaction.atomic(using=using):
            if among is None:
                limit_waits(connections[using])
            else:
                _limit_patience(using)
            wanted = runs.all() if among is None else among
            run = wanted.filter(id=key).select_for_update().first()
            if run is None:
                return False
            if run.run_id is None and run.delete_at is not None and run.delete_at > now:
                return False  # another is at it
            if run.run_id is not None:
                _raise_epoch_floor(run.epoch, using)
            runs.filter(id=key).update(run_id=None, delete_at=now + DELETION_CLAIM)
    except OperationalError:
        if among is None:
            raise
        return False  # it stays locked, or the next query says more
    return True


def _raise_epoch_floor(epoch: int, using: str) -> None:
    floors = EpochFloor.objects.using(using)
    floors.bulk_create([EpochFloor()], ignore_conflicts=True)
    floors.filter(epoch__lt=epoch).update(epoch=epoch)


def install() -> None:
    """See to it that whoever deletes runs by the ORM deletes what they have as well."""
    pre_delete.connect(_empty, sender=Run, dispatch_uid=__name__)


def _empty(instance: Run, using: str, **kwargs: Any) -> None:
    """
    Delete the events and keys of a run that is about to be deleted, in the same transaction.

    No event is loaded, however many there are. The lock comes first: who publishes waits for it,
    and then finds no run.
    """
    key = instance.pk
    locked = Run.objects.using(using).filter(id=key).select_for_update()
    epoch = locked.values_list("epoch", flat=True).first()
    if epoch is not None:
        _raise_epoch_floor(epoch, using)
    Event.objects.using(using).filter(run_id=key)._raw_delete(using)
    EventKey.objects.using(using).filter(run_id=key)._raw_delete(using)


def _keep_claim(key: int, using: str) -> None:
    claimed = Run.objects.using(using).filter(id=key)
    claimed.update(delete_at=timezone.now() + DELETION_CLAIM)


def _delete_events(key: int, using: str) -> Iterator[int]:
    events = Event.objects.using(using).filter(run_id=key)
    upto = 0
    while True:
        # Not from the start: while an old transaction is open, PostgreSQL steps over all that was.
        left = events.filter(seq__gt=upto).order_by("seq").values_list("seq", flat=True)
        oldest = left.first()
        if oldest is None:
            return
        upto = oldest + DELETE_BATCH - 1
        with transaction.atomic(using=using):
            deleted = events.filter(seq__gte=oldest, seq__lte=upto)._raw_delete(using)
            _keep_claim(key, using)
        yield deleted

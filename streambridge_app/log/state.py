"""
The state of runs: whoever asks is answered from their rows, and a wish to cancel is noted there.

All functions are synchronous and work on the caller's connection to the database ``using``.
"""

from __future__ import annotations

from django.db import connections
from django.db.models import Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Coalesce, Length
from django.utils import timezone

from ..contract import MAX_ERROR_DATA, RUNNING, SUCCESS, RunState, error_in
from ..exceptions import nothing_to_cancel, run_not_found
from ..models import Event, Run
from .patience import is_patient
from .sql.vendor import NOW


def state(run_id: str, using: str) -> RunState:
    """
    Return the state of a run.

    Raises:
        RunNotFound: no run has this id.
    """
    clock = RawSQL(NOW[connections[using].vendor], ())  # noqa: S611 - one of two texts
    found = Run.objects.using(using).annotate(clock=clock).filter(run_id=run_id)
    run = found.first()
    if run is None:
        raise run_not_found(run_id)
    return RunState(
        run_id=run_id,
        epoch=run.epoch,
        status=run.status,
        head=run.head,
        earliest=run.floor + 1 if run.head > run.floor else None,
        created_at=run.created_at,
        ended_at=run.ended_at,
        owner_id=run.owner_id,
        metadata=run.metadata,
        cancel_requested=run.cancel_requested_at is not None,
        generation=run.generation,
        error=_error_of(run, using),
        silent_seconds=_silence_of(run, run.clock),
    )


def _silence_of(run: Run, now: int) -> float | None:
    """
    Return for how long nobody has renewed the lease of a run; ``now`` in milliseconds.

    None while nobody has to: before its first producer, and between one that has released it and
    the next.
    """
    if run.lease_ms is None or run.lease_expires is None or not (run.head or run.generation):
        return None
    left = run.lease_expires - now
    if left > run.lease_ms:
        return None
    return min(run.lease_ms - left, run.lease_ms) / 1000


def _error_of(run: Run, using: str) -> dict[str, str] | None:
    """Return why a run failed, if its last event says so."""
    if run.status in (RUNNING, SUCCESS):
        return None
    last = Event.objects.using(using).filter(run_id=run.id, seq=run.head, event="error")
    short = last.alias(length=Length("data")).filter(length__lte=MAX_ERROR_DATA)
    found = short.values_list("event", "data").first()
    return None if found is None else error_in(*found)


def request_cancel(run_id: str, using: str) -> None:
    """
    Note that the run's producer is asked to stop; the first request's time is kept.

    Raises:
        RunNotFound: no run has this id.
        RunEnded: it has ended.
    """
    asked = (
        Run.objects.using(using)
        .filter(is_patient(using), run_id=run_id, status=RUNNING)
        .update(cancel_requested_at=Coalesce("cancel_requested_at", Value(timezone.now())))
    )
    if not asked:
        if exists(run_id, using):
            raise nothing_to_cancel(run_id)
        raise run_not_found(run_id)


def exists(run_id: str, using: str) -> bool:
    """Return whether there is a run with this id."""
    return Run.objects.using(using).filter(run_id=run_id).exists()

"""
Reading on where the log of a run lacks something: events that somebody deleted, or wrote badly.

We write no such log; hands and other tools do. What is missing is said once in the process's own
log, and nothing that is there is ever shown under another number.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

from django.db.models import Max
from django.db.models.functions import Length

from ..contract import Batch
from ..models import Event, Run

PAGE_SIZE: Final = 262_144
"""Characters after which a page takes no further row."""

REMEMBERED_HOLES: Final = 1_000

logger = logging.getLogger("streambridge")

_told: dict[tuple[str, int, int, int], object] = {}
"""The holes that have been named: database, run, first and last number."""

Row = tuple[int, str, str]


def read_past(key: int, epoch: int, seq: int, limit: int, using: str) -> Batch | None:
    """
    Return the next events after ``seq`` that are there and whole, up to the next hole.

    None if there are none at all. What is missing before them is named in a warning, unless it was
    trimmed, or has been named.

    Args:
        key: primary key of the run.
        epoch: its epoch.
        seq: number of the event to start after.
        limit: events, at most.
        using: alias of the database.
    """
    # The head before the events, and the floor after them: what comes or is trimmed meanwhile
    # must not look like a hole.
    head = Run.objects.using(using).filter(id=key).values_list("head", flat=True).first() or 0
    batch = _next(key, epoch, seq, limit, using)
    last = head if batch is None else batch.first - 1
    if last > seq:
        _tell(key, seq, last, using)
    return batch


def _next(key: int, epoch: int, seq: int, limit: int, using: str) -> Batch | None:
    while rows := _rows(key, seq, limit, using):
        if whole := _first_piece(rows):
            numbers, names, data = zip(*whole, strict=True)
            return Batch(epoch, numbers[0], names, data)
        seq = rows[-1][0]
    return None


def _rows(key: int, seq: int, limit: int, using: str) -> Sequence[Row]:
    """Return the next rows by their numbers only: an offset may be as wrong as the rest."""
    events = Event.objects.using(using).filter(run_id=key, seq__gt=seq).order_by("seq")
    size, last = 0, seq
    for last, length in events.values_list("seq", Length("data"))[:limit]:  # noqa: B007
        size += length
        if size > PAGE_SIZE:
            break
    return list(events.filter(seq__lte=last).values_list("seq", "event", "data"))


def _first_piece(rows: Iterable[Row]) -> list[Row]:
    """Return the first rows without a hole between them; an unreadable one is as good as none."""
    piece: list[Row] = []
    for number, name, text in rows:
        line = None if _breaks(name) else _one_line(text)
        if piece and (line is None or number != piece[-1][0] + 1):
            break
        if line is not None:
            piece.append((number, name, line))
    return piece


def _one_line(text: str) -> str | None:
    """Return JSON text on one line, and None for what is no JSON: no client could read that."""
    if not _breaks(text):
        return text
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return text.replace("\r", " ").replace("\n", " ")  # in strings, JSON has neither


def _breaks(text: str) -> bool:
    return "\n" in text or "\r" in text


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _tell(key: int, seq: int, last: int, using: str) -> None:
    run = Run.objects.using(using).filter(id=key, run_id__isnull=False)
    found = run.values_list("run_id", "floor").first()
    if found is None:
        return  # it is being deleted
    run_id, floor = found
    # Readers may begin within a hole: it is the same one.
    before = Event.objects.using(using).filter(run_id=key, seq__lte=seq).aggregate(Max("seq"))
    first = max(floor, before["seq__max"] or 0) + 1
    if first > last:
        return
    token = object()
    if _told.setdefault((using, key, first, last), token) is not token:
        return
    if len(_told) > REMEMBERED_HOLES:
        _told.pop(next(iter(_told)), None)
    logger.warning(
        "The log of the run %r has a hole: %s not there, or can't be read. Clients get a gap. Rows "
        "of the log are deleted by trim() and cleanup(), and written by publish(), only.",
        run_id,
        f"event {first} is" if first == last else f"the events {first} to {last} are",
    )

"""A worker process that sends each event by itself, as there is no call for many."""

from __future__ import annotations

import sys

import django

from benchmarks.load import Work, wait_for_go


def main() -> None:
    work = Work.load(sys.argv[1])
    django.setup()
    from django_eventstream import send_event

    wait_for_go()
    for run, data in work.events_when_due():
        send_event(run, "message", data)


if __name__ == "__main__":
    main()

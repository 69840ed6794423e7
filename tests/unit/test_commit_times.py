"""Times that are near the clock, and that no two appends of a process share."""

import datetime
import threading

from streambridge_app.log import commit_times
from streambridge_app.log.commit_times import commit_time


def test_times_are_now_and_increase_by_microseconds():
    before = datetime.datetime.now(datetime.UTC)
    times = [commit_time() for _ in range(10_000)]
    assert before - times[0] < datetime.timedelta(seconds=1)
    assert times == sorted(set(times))


def test_times_increase_while_the_clock_goes_back(monkeypatch):
    before = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    monkeypatch.setattr(commit_times, "_last", before)
    assert [commit_time() - before for _ in range(2)] == [
        datetime.timedelta(microseconds=1),
        datetime.timedelta(microseconds=2),
    ]


def test_threads_never_share_a_time():
    times = []
    threads = [
        threading.Thread(target=lambda: times.extend(commit_time() for _ in range(2000)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(times)) == 16_000


def test_a_signal_may_ask_for_a_time_in_the_middle_of_asking():
    with commit_times._lock:
        commit_time()


def test_without_time_zones_it_is_local_time(settings):
    settings.USE_TZ = False
    assert commit_time().tzinfo is None
    assert abs(commit_time() - datetime.datetime.now()) < datetime.timedelta(seconds=1)

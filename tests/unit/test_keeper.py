import threading
from concurrent.futures import ThreadPoolExecutor, wait

from streambridge_app.publish.keeper import Keeper


class Pipeline:
    key = 1


def test_a_keeper_may_be_closed_while_another_thread_starts_it(monkeypatch):
    keeper = Keeper("default", 60)
    starting, go = threading.Event(), threading.Event()
    start = threading.Thread.start

    def start_slowly(thread):
        if thread.name == "streambridge-keep":
            starting.set()
            go.wait(20)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_slowly)
    with ThreadPoolExecutor(2) as threads:
        holding = threads.submit(keeper.hold, Pipeline())
        assert starting.wait(20)
        closing = threads.submit(keeper.close)
        wait([closing], timeout=0.1)
        go.set()
        holding.result(20)
        closing.result(20)
    assert not keeper._thread.is_alive()

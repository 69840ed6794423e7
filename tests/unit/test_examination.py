"""Checks are made in order and in time, whatever becomes of one of them."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from streambridge_app.doctor.check import Check, Visit, blocking, in_thread
from streambridge_app.doctor.examination import examine
from streambridge_app.doctor.findings import Failed, Found, Outcome, Problem
from streambridge_app.doctor.partner import Partner
from tests.services import TIMEOUT_SCALE

FINE = Found("fine")


async def fine(visit: Visit) -> Found:
    return FINE


async def broken(visit: Visit) -> Found:
    raise LookupError("it is\n  not there")


async def hanging(visit: Visit) -> Found:
    await asyncio.Event().wait()
    return FINE


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What a thread waits for, until the test is over."""
    event = threading.Event()
    yield event
    event.set()


async def outcomes(
    *functions: Callable[[Visit], Awaitable[Found]], timeout: float = 60
) -> list[Outcome]:
    """Make checks that are named by their numbers."""
    checks = [Check(str(n), function, "do it") for n, function in enumerate(functions)]
    visit = Visit(timeout, Partner([]))
    return [outcome async for outcome in examine(checks, visit)]


async def test_each_check_has_its_outcome() -> None:
    async def warns(visit: Visit) -> Found:
        return Found("so so", (Problem("warning", "slow", "hurry"),))

    first, second = await outcomes(fine, warns)
    assert (first.check, first.status, first.text) == ("0", "ok", "fine")
    assert (second.status, second.text) == ("warning", "so so")
    assert second.problems == (Problem("warning", "slow", "hurry"),)


async def test_a_check_that_breaks_does_not_stop_the_others() -> None:
    first, second = await outcomes(broken, fine)
    assert first.status == "fail"
    assert first.problems == (Problem("fail", "LookupError: it is not there", "do it"),)
    assert second.status == "ok"


async def test_what_needs_a_failed_check_is_skipped_and_what_needs_that() -> None:
    checks = [
        Check("a", broken, ""),
        Check("b", fine, ""),
        Check("c", fine, "", needs=("b", "a")),
        Check("d", fine, "", needs=("c",)),
    ]
    found = [outcome async for outcome in examine(checks, Visit(60, Partner([])))]
    assert [outcome.status for outcome in found] == ["fail", "ok", "skipped", "skipped"]
    assert [outcome.text for outcome in found[2:]] == ["needs a", "needs c"]


async def test_a_check_may_know_better_what_to_do() -> None:
    async def fails(visit: Visit) -> Found:
        raise Failed("no", "do that")

    (outcome,) = await outcomes(fails)
    assert outcome.problems == (Problem("fail", "no", "do that"),)


async def test_a_check_that_hangs_ends_at_its_deadline() -> None:
    first, second = await outcomes(hanging, fine, timeout=0.05)
    assert first.problems == (Problem("fail", "no answer within 0.05 s", "do it"),)
    assert second.status == "ok"


async def test_what_a_check_was_stuck_at_is_told() -> None:
    async def retries(visit: Visit) -> Found:
        while True:
            try:
                raise ConnectionError("refused")
            except ConnectionError:
                await asyncio.sleep(3600)

    (outcome,) = await outcomes(retries, timeout=0.05)
    assert outcome.problems[0].text == "no answer within 0.05 s (ConnectionError: refused)"


async def test_a_shorter_deadline_within_a_check() -> None:
    async def gives_up(visit: Visit) -> Found:
        async with asyncio.timeout(0.01):
            return await hanging(visit)

    (outcome,) = await outcomes(gives_up)
    assert outcome.problems == (Problem("fail", "no answer in time", "do it"),)


async def test_a_thread_that_hangs_is_left_behind(stuck: threading.Event) -> None:
    def hangs() -> Found:
        stuck.wait()
        return FINE

    first, second = await outcomes(blocking(hangs), fine, timeout=0.05)
    assert first.problems[0].text == "no answer within 0.05 s"
    assert second.status == "ok"


async def test_a_check_that_resists_its_end_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streambridge_app.doctor.examination.GRACE", 0.05)
    released = asyncio.Event()

    async def resists(visit: Visit) -> Found:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return FINE

    started = time.monotonic()
    first, second = await outcomes(resists, fine, timeout=0.05)
    released.set()
    assert time.monotonic() - started < 20 * TIMEOUT_SCALE
    assert first.problems[0].text == "no answer within 0.05 s"
    assert second.status == "ok"


async def test_the_examination_is_interrupted() -> None:
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def cleans_up(visit: Visit) -> Found:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()
        return FINE

    task = asyncio.create_task(outcomes(cleans_up))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_check_may_take_longer_than_the_others() -> None:
    async def slow(visit: Visit) -> Found:
        await asyncio.sleep(0.1)
        return FINE

    check = Check("slow", slow, "", least=60)
    (outcome,) = [one async for one in examine([check], Visit(0.001, Partner([])))]
    assert outcome.status == "ok"


async def test_nothing_of_a_text_controls_the_terminal() -> None:
    async def controls(visit: Visit) -> Found:
        raise RuntimeError("\x1b[2J" + "x" * 10_000)

    (outcome,) = await outcomes(controls)
    text = outcome.problems[0].text
    assert text.isprintable()
    assert len(text) == 600


async def test_a_call_in_a_thread_hands_its_error_over() -> None:
    def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await in_thread(fails)
    assert await in_thread(max, 1, 2) == 2

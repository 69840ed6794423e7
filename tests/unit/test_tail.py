import gc
import random
import tracemalloc

import pytest

from streambridge_app.contract.batch import Batch
from streambridge_app.contract.cursor import Verdict
from streambridge_app.follow.tail import JOINED, SMALL, Tail
from tests.unit.test_batch import batch, socket_frames, spans, sse


@pytest.fixture
def tail():
    return Tail(0, max_events=100, max_size=100_000)


def test_an_empty_tail_has_nothing_and_knows_nothing_before_its_head(tail):
    assert tail.after(0) == []
    tail.restart(5)
    assert tail.after(5) == []
    assert tail.after(4) is None


def test_a_tail_takes_what_continues_it(tail):
    assert tail.append(batch(1, 3)) is Verdict.DELIVER
    assert tail.append(batch(4, 4)) is Verdict.DELIVER
    assert tail.head == 4
    assert spans(tail.after(0)) == [(1, 3), (4, 4)]


def test_a_tail_takes_only_what_is_new_of_an_overlap(tail):
    tail.append(batch(1, 3))
    assert tail.append(batch(2, 5)) is Verdict.DELIVER
    assert spans(tail.after(0)) == [(1, 3), (4, 5)]


def test_a_tail_refuses_repetitions_and_holes(tail):
    tail.append(batch(1, 3))
    assert tail.append(batch(1, 3)) is Verdict.DUPLICATE
    assert tail.append(batch(5, 6)) is Verdict.GAP
    assert tail.head == 3


def test_a_tail_finds_any_position(tail):
    tail.extend([batch(1, 3), batch(4, 4), batch(5, 9)])
    assert spans(tail.after(1)) == [(2, 3), (4, 4), (5, 9)]
    assert spans(tail.after(3)) == [(4, 4), (5, 9)]
    assert spans(tail.after(4)) == [(5, 9)]
    assert spans(tail.after(7)) == [(8, 9)]
    assert tail.after(9) == tail.after(12) == []


def test_a_tail_forgets_the_oldest_batches_beyond_its_number_of_events():
    tail = Tail(0, max_events=5, max_size=100_000)
    tail.extend([batch(1, 3), batch(4, 6), batch(7, 8)])
    assert tail.after(2) is None
    assert spans(tail.after(3)) == [(4, 6), (7, 8)]


def test_a_tail_forgets_the_oldest_batches_beyond_its_size():
    tail = Tail(0, max_events=100, max_size=2000)
    tail.extend([batch(1, 1, size=900), batch(2, 2, size=900)])
    assert tail.after(0) is None
    assert spans(tail.after(1)) == [(2, 2)]


def test_the_newest_batch_is_kept_whatever_its_size():
    tail = Tail(0, max_events=1, max_size=1)
    tail.append(batch(1, 50, size=100))
    assert spans(tail.after(0)) == [(1, 50)]


def test_a_restart_forgets_everything(tail):
    tail.append(batch(1, 3))
    tail.restart(10)
    assert (tail.head, tail.after(10), tail.after(0)) == (10, [], None)
    assert tail.append(batch(11, 12)) is Verdict.DELIVER
    assert spans(tail.after(10)) == [(11, 12)]


def test_older_small_batches_are_joined_and_newer_ones_are_shared():
    tail = Tail(0, max_events=1000, max_size=100_000)
    small = [batch(seq, seq) for seq in range(1, 4 * JOINED + 1)]
    tail.extend(small)
    found = tail.after(0)
    older = [(1 + JOINED * n, JOINED * (n + 1)) for n in range(3)]
    assert spans(found) == older + [(one.first, one.last) for one in small[3 * JOINED :]]
    assert all(one is another for one, another in zip(found[3:], small[3 * JOINED :], strict=True))


@pytest.mark.parametrize("limit", [{"max_events": 15}, {"max_size": 15 * 640}])
def test_a_tail_that_holds_fewer_batches_than_are_joined_loses_one_for_each(limit):
    tail = Tail(0, **{"max_events": 1000, "max_size": 100_000, **limit})
    for seq in range(1, 100):
        tail.append(Batch(500, seq, ["e"], ["1" * 99]))
        assert tail.after(max(0, seq - 15)) is not None


def test_a_batch_that_is_not_small_stays_as_it_came():
    tail = Tail(0, max_events=1000, max_size=100_000)
    tail.extend(batch(seq, seq) for seq in range(1, 2 * JOINED))
    large = batch(2 * JOINED, 2 * JOINED + SMALL - 1)
    tail.append(large)
    tail.extend(batch(seq, seq) for seq in range(large.last + 1, large.last + 2 * JOINED))
    assert len(tail.after(0)) == 4 * JOINED - 1
    tail.append(batch(tail.head + 1, tail.head + 1))
    found = tail.after(0)
    assert large in found
    assert spans(found)[2 * JOINED] == (large.last + 1, large.last + JOINED)


def test_a_tail_of_small_batches_has_few_objects():
    tail = Tail(0, max_events=1000, max_size=100_000)
    tail.extend(batch(seq, seq) for seq in range(1, 3000))
    found = tail.after(2500)
    assert [seq for one in found for seq in range(one.first, one.last + 1)] == [*range(2501, 3000)]
    assert len(found) < 500 / JOINED + 2 * JOINED


@pytest.mark.parametrize("most", [1, 5, 20, 100])
def test_whatever_arrives_in_whatever_order_the_tail_has_no_hole(most):
    chance = random.Random(4)  # noqa: S311 - the same each time
    for _ in range(100):
        tail = Tail(0, max_events=most, max_size=100_000)
        for _ in range(60):
            first = chance.randrange(max(1, tail.head - 3), tail.head + 3)
            tail.append(batch(first, first + chance.choice([0, 0, 1, 2, 5, SMALL])))
            after = chance.randrange(0, tail.head + 1)
            found = tail.after(after)
            if found is not None:
                seqs = [seq for one in found for seq in range(one.first, one.last + 1)]
                assert seqs == list(range(after + 1, tail.head + 1))
                assert all(one.names[0] == f"e{one.first}" for one in found)


# Memory

BOUND = 131_072
FORMS = {
    "nothing": (),
    "SSE": (sse,),
    "WebSocket": (socket_frames,),
    "both": (sse, socket_frames),
}


@pytest.fixture
def memory():
    """Return how many bytes are held that were not at the start of the test."""
    tracemalloc.start()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]

    def held():
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    yield held
    tracemalloc.stop()


def came(first, count, text):
    """Return a batch as the layer brings it: every text is an object of its own."""
    return Batch.unpack(500, first, "\n".join([f'token\n"{text}{seq}"' for seq in range(count)]))


def filled(form, text, count, *, late=False):
    """Return a tail that has seen three times what it may hold, and the frames of all of it."""
    tail = Tail(0, max_events=10**9, max_size=BOUND)
    while tail.head * len(text.encode()) < 3 * BOUND:
        tail.append(came(tail.head + 1, count, text))
        for make in () if late else FORMS[form]:
            for one in tail.after(tail.head - 1):
                make(one)
    for make in FORMS[form]:
        for one in tail.after(tail.first - 1):
            make(one)
    return tail


@pytest.mark.parametrize("late", [False, True], ids=["frames at once", "frames late"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("text", "count"),
    [
        *[("x" * 100, 1), ("x" * 100, 40), ("ü" * 1000, 3)],
        *[("🎉" * 100, 1), ("x" * 999 + "🎉", 1)],
    ],
    ids=lambda value: value if isinstance(value, int) else f"{len(value)} {value[-1]!a}",
)
def test_a_tail_takes_the_memory_that_it_may(memory, text, count, form, late):
    tail = filled(form, text, count, late=late)
    assert 0.5 * BOUND < memory() < 1.5 * BOUND
    assert tail.after(tail.first - 1)[-1].last == tail.head


def test_what_is_counted_goes_with_what_is_held():
    chance = random.Random(5)  # noqa: S311 - the same each time
    tail = Tail(0, max_events=200, max_size=100_000)
    for _ in range(3000):
        tail.append(came(tail.head + 1, chance.choice([1, 1, 1, 3, SMALL]), "x" * 50))
        for one in tail.after(chance.randrange(tail.first - 1, tail.head)):
            chance.choice([*FORMS["both"], len])(one)
        batches = list(tail._batches)
        counted = sum(batch._own for batch in batches)
        counted += sum(made_of(batch) for batch in batches[:-1])
        assert tail._held == counted
    tail.restart(tail.head)
    assert tail._held == 0


def made_of(batch):
    return batch._made + (made_of(batch._rest) if batch._rest is not None else 0)


def test_a_client_that_still_has_what_was_forgotten_is_no_burden():
    tail = Tail(0, max_events=10**9, max_size=10_000)
    tail.extend([came(1, 40, "x" * 100), came(41, 40, "x" * 100)])
    (old,) = tail.after(40)
    tail.extend([came(81, 40, "x" * 100), came(121, 40, "x" * 100)])
    held = tail._held
    assert tail.first > 80
    sse(old)
    socket_frames(old.after(60))
    assert tail._held == held


def test_a_tail_that_nobody_has_is_gone_with_its_batches(memory):
    tail = filled("both", "x" * 100, 40)
    gc.disable()
    try:
        del tail
        assert tracemalloc.get_traced_memory()[0] < BOUND / 4
    finally:
        gc.enable()

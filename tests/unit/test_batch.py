import pytest

from streambridge_app.contract.batch import Batch
from streambridge_app.contract.events import StreamEvent
from streambridge_app.contract.unreadable import Unreadable
from streambridge_app.serve import socket_frames as socket
from streambridge_app.serve import sse as event_stream


def batch(first, last, size=1):
    seqs = range(first, last + 1)
    return Batch(500, first, [f"e{seq}" for seq in seqs], ["1" * size for seq in seqs])


def sse(batch):
    return batch.encoded(event_stream.encode_events, "a run")


def socket_frames(batch):
    return batch.encoded(socket.encode_events, "a run")


def spans(batches):
    return [(one.first, one.last) for one in batches]


def test_a_batch_knows_its_span():
    assert (len(batch(3, 7)), batch(3, 7).last) == (5, 7)
    assert (len(batch(3, 2)), batch(3, 2).last) == (0, 2)
    assert repr(batch(3, 7)) == "<Batch 500-3…7>"


def test_after_is_the_batch_itself_when_nothing_is_skipped():
    whole = batch(3, 7)
    assert whole.after(2) is whole
    assert whole.after(0) is whole


def test_after_skips():
    rest = batch(3, 7).after(5)
    assert (rest.first, rest.last, rest.names) == (6, 7, ["e6", "e7"])
    assert len(batch(3, 7).after(7)) == 0


def test_clients_at_the_same_position_share_what_follows():
    whole = batch(3, 7)
    assert whole.after(5) is whole.after(5)
    assert (whole.after(4).first, whole.after(5).first) == (5, 6)


def test_events_have_data_of_their_own():
    one = Batch(500, 1, ["a"], ["[1]"])
    (first,), (second,) = one.events(), one.events()
    assert first == StreamEvent("500-1", "a", [1])
    first.data.append(2)
    assert second.data == [1]


@pytest.mark.parametrize("text", ["", "no json", "[1", "NaN", "[-Infinity]"])
def test_events_stop_before_data_that_is_no_json(text):
    one = Batch(500, 3, ["a"] * 6, ["3", text, text, "6", "7", text])
    events = one.events()
    assert next(events).data == 3
    with pytest.raises(Unreadable) as caught:
        next(events)
    assert (caught.value.first, caught.value.last) == (4, 5)
    events = one.events(5)
    assert [next(events).id, next(events).id] == ["500-6", "500-7"]
    with pytest.raises(Unreadable) as caught:
        next(events)
    assert (caught.value.first, caught.value.last) == (8, 8)
    assert list(one.events(8)) == []


def test_frames_are_encoded_once():
    one = batch(1, 3)
    assert sse(one) is sse(one)
    assert sse(one).count(b"\n\n") == 3
    assert socket_frames(one) is socket_frames(one)
    assert len(socket_frames(one)) == 3


@pytest.mark.parametrize("count", [1, 2, 100])
def test_packing_and_unpacking(count):
    names = [f"\u2028\x0b\x85 {n}" for n in range(count)]
    data = [f'"\\n\u2029\x85 {n}"' for n in range(count)]
    unpacked = Batch.unpack(500, 7, Batch(500, 7, names, data).pack())
    assert (unpacked.epoch, unpacked.first) == (500, 7)
    assert (list(unpacked.names), list(unpacked.data)) == (names, data)


def test_joining():
    joined = Batch.join([batch(3, 4), batch(5, 5)])
    assert (joined.epoch, spans([joined])) == (500, [(3, 5)])
    assert (joined.names, joined.data) == (["e3", "e4", "e5"], ["1", "1", "1"])


def test_size_of_a_batch_is_that_of_its_utf8():
    assert Batch(1, 1, ["name", "Grüße"], ["1", '"☃"']).size == 4 + 7 + 1 + 5
    assert Batch(1, 1, ["name"], ["1"]).size == 5

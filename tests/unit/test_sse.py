"""Each frame, read back with the parser of the specification (section 9.2.6)."""

import json

import pytest

from streambridge_app.contract.batch import Batch
from streambridge_app.serve import sse


def encoded(epoch, first, names, data):
    return sse.encode_events(Batch(epoch, first, names, data), "a run")


def parsed(stream):
    """Return what an EventSource dispatches: (event, data, last event id), and its retry time."""
    return read(stream)[:2]


def read(stream):
    """Return the same, and the id with which it would come back."""
    text = stream.decode().removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    dispatched, retry = [], None
    event, data, last_id = "", [], ""
    for line in lines[:-1]:
        if line == "":
            if data:
                dispatched.append((event or "message", "\n".join(data), last_id))
            event, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event = value
        elif field == "data":
            data.append(value)
        elif field == "id" and "\0" not in value:
            last_id = value
        elif field == "retry" and value.isdigit():
            retry = int(value)
    return dispatched, retry, last_id


def test_an_event_is_three_lines_in_this_order():
    assert encoded(500, 7, ["updates"], ['{"a":1}']) == (
        b'event: updates\ndata: {"a":1}\nid: 500-7\n\n'
    )


def test_consecutive_events_are_numbered():
    frames = encoded(500, 7, ["a", "b", "c"], ["1", "2", "3"])
    assert parsed(frames)[0] == [("a", "1", "500-7"), ("b", "2", "500-8"), ("c", "3", "500-9")]


@pytest.mark.parametrize("name", [" leading", "with: colon", "ü🎉", "\u2028", ":", "data", "\x0b"])
def test_any_name_survives(name):
    assert parsed(encoded(1, 1, [name], ["null"]))[0] == [(name, "null", "1-1")]


def test_names_and_data_of_different_number_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        encoded(1, 1, ["a"], [])


def test_a_gap_has_no_id_of_its_own():
    frame = sse.encode_gap({"requested": "1-2", "earliest": None, "latest": "ü"})
    assert frame.endswith(b"\n\n")
    ((event, data, last_id),) = parsed(frame)[0]
    assert (event, last_id) == ("gap", "")
    assert json.loads(data) == {"requested": "1-2", "earliest": None, "latest": "ü"}


def test_the_position_after_a_gap_is_told_without_an_event():
    frame = sse.encode_gap({"requested": "1-2"}, "500-4")
    assert read(frame) == ([("gap", '{"requested":"1-2"}', "")], None, "500-4")


def test_the_end_has_the_position_as_its_id():
    frame = sse.encode_end("success", None, "500-9")
    assert frame == b'event: end\ndata: {"status":"success","error":null}\nid: 500-9\n\n'


def test_the_end_of_a_run_that_failed_says_why_in_one_line():
    error = {"error": "ValueError", "message": "a\nb\u2028c\x85d"}
    ((event, data, last_id),) = parsed(sse.encode_end("error", error, "500-9"))[0]
    assert (event, json.loads(data), last_id) == (
        "end",
        {"status": "error", "error": error},
        "500-9",
    )
    assert len(data.splitlines()) == 1


@pytest.mark.parametrize("name", ["end", "gap", "open", "error"])
@pytest.mark.parametrize("others", [[], ["step", "end", "ends", "message"]])
def test_an_event_of_the_run_is_never_taken_for_one_of_the_stream(name, others):
    names = [name, *others]
    frames = encoded(1, 1, names, ["null"] * len(names))
    sent = [event for event, *_ in parsed(frames)[0]]
    assert sent == [{"end": "__end"}.get(one, one) if one != name else f"__{one}" for one in names]


def test_the_name_of_an_event_stays_what_it_was():
    names = ["end", "step"]
    encoded(1, 1, names, ["1", "2"])
    assert names == ["end", "step"]


def test_the_first_frame_tells_the_position_and_dispatches_nothing():
    assert sse.encode_retry(7, 7, "500-4") == b"retry: 7\nid: 500-4\n\n"
    assert read(sse.encode_retry(7, 7, "500-4")) == ([], 7, "500-4")
    assert sse.encode_retry(7, 7) == b"retry: 7\n\n"


def test_a_heartbeat_is_a_comment_that_dispatches_nothing():
    assert sse.HEARTBEAT == b": heartbeat\n\n"
    assert parsed(sse.HEARTBEAT) == ([], None)


def test_retry_lies_between_its_bounds():
    seen = {parsed(sse.encode_retry(500, 502))[1] for _ in range(200)}
    assert seen == {500, 501, 502}
    assert parsed(sse.encode_retry(0, 0)) == ([], 0)

import pytest

from streambridge_app.contract.cursor import (
    NOW,
    PARAMETERS,
    START,
    After,
    Position,
    Start,
    Unreadable,
    Verdict,
    accept,
    end_of,
    is_end,
    parameter,
    parse,
    parse_header,
    resolve,
    start,
)
from streambridge_app.contract.runs import ERROR, RUNNING, SUCCESS, RunHead
from streambridge_app.exceptions import InvalidCursor

RUN = RunHead(key=1, epoch=500, head=10, floor=4, status=RUNNING)
UNTRIMMED = RUN._replace(floor=0)
ENDED = RUN._replace(status=SUCCESS)
EMPTY = RUN._replace(head=0, floor=0)


@pytest.mark.parametrize("text", [None, "", "-1"])
def test_parse_start(text):
    assert parse(text) is START


def test_parse_now():
    assert parse("now") is NOW


@pytest.mark.parametrize(
    ("text", "cursor"),
    [("1-2", After(1, 2)), ("0-0", After(0, 0)), ("007-08", After(7, 8)), ("9" * 19 + "-1", None)],
)
def test_parse_event_id(text, cursor):
    assert parse(text) == (cursor or After(int("9" * 19), 1))


def test_a_cursor_prints_as_the_id_it_means():
    assert str(parse("500-10")) == "500-10"


@pytest.mark.parametrize(
    "text",
    [
        *("0", "1-", "-2", "1-2-3", "1--2", "a-1", " 1-2", "1-2\n", "+1-2", "1.0-2", "NOW"),
        *("1" * 20 + "-1", "1-" + "1" * 20, "x" * 1000, "\u0661-\u0662", 5, b"1-2", ["now"]),
    ],
)
def test_parse_refuses_anything_else_and_shows_it(text):
    with pytest.raises(InvalidCursor, match="is not a cursor") as caught:
        parse(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("cursor", [START, NOW, After(1, 2), Unreadable("x")])
def test_parse_takes_what_was_read_already(cursor):
    assert parse(cursor) is cursor


@pytest.mark.parametrize(
    ("header", "cursor"),
    [(None, None), ("", None), ("-1", START), ("now", NOW), ("5-7", After(5, 7))],
)
def test_parse_header_reads_a_cursor(header, cursor):
    assert parse_header(header) == cursor


@pytest.mark.parametrize("header", ["17", "undefined", '"5-7"', "5-7,5-7", "5-7, 5-8", "5-7 ", " "])
def test_parse_header_takes_what_only_a_machine_can_have_written(header):
    assert parse_header(header) == Unreadable(header)


def test_parse_header_keeps_little_of_what_it_cannot_read():
    assert len(str(parse_header("x" * 8000))) == 60


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_has_the_names_that_clients_send(name):
    assert parameter({name: "5-7"}.get) == "5-7"


def test_parameter_prefers_what_a_client_appends_to_what_a_developer_wrote():
    assert parameter({"last_event_id": "now", "lastEventId": "5-7"}.get) == "5-7"
    assert parameter({"last_event_id": "now", "lastEventId": ""}.get) == "now"
    assert parameter({"other": "5-7"}.get) is None


@pytest.mark.parametrize(
    ("cursor", "run", "position"),
    [
        (START, UNTRIMMED, Position(0, gap=False)),
        (START, RUN, Position(4, gap=True)),
        (START, RUN._replace(head=0, floor=0), Position(0, gap=False)),
        (NOW, RUN, Position(10, gap=False)),
        (After(500, 0), UNTRIMMED, Position(0, gap=False)),
        (After(500, 3), RUN, Position(4, gap=True)),
        (After(500, 4), RUN, Position(4, gap=False)),
        (After(500, 7), RUN, Position(7, gap=False)),
        (After(500, 10), RUN, Position(10, gap=False)),
        (After(500, 11), RUN, Position(4, gap=True)),
        (After(499, 7), RUN, Position(4, gap=True)),
        (After(501, 7), RUN, Position(4, gap=True)),
        (After(499, 0), UNTRIMMED, Position(0, gap=True)),
        (After(500, 10), ENDED, Position(10, gap=False)),
        (After(500, 11), ENDED, Position(10, gap=False)),
        (After(500, 12), ENDED, Position(4, gap=True)),
        (After(499, 11), ENDED, Position(4, gap=True)),
        (Unreadable("17"), UNTRIMMED, Position(0, gap=True)),
        (Unreadable("17"), RUN, Position(4, gap=True)),
    ],
)
def test_resolve(cursor, run, position):
    assert resolve(cursor, run) == position


@pytest.mark.parametrize("status", [SUCCESS, ERROR])
def test_the_end_has_the_cursor_after_the_last_event(status):
    run = RUN._replace(status=status)
    assert is_end(end_of(500, 10), run)
    assert is_end(parse("500-11"), run)
    for other in (After(500, 10), After(500, 12), After(499, 11), START, NOW, Unreadable("500-11")):
        assert not is_end(other, run)
    assert not is_end(parse("500-11"), RUN)


@pytest.mark.parametrize(
    ("cursor", "run", "expected"),
    [
        (START, UNTRIMMED, Start(START, "500-0")),
        (START, RUN, Start(START, None)),
        (START, EMPTY, Start(START, "500-0")),
        (START, None, Start(START, "-1")),
        (NOW, RUN, Start(After(500, 10), "500-10")),
        (NOW, ENDED, Start(After(500, 10), "500-10")),
        (NOW, EMPTY, Start(After(500, 0), "500-0")),
        (NOW, None, Start(START, "-1")),
        (After(500, 7), RUN, Start(After(500, 7), "500-7")),
        (After(500, 3), RUN, Start(After(500, 3), None)),
        (After(499, 7), RUN, Start(After(499, 7), None)),
        (Unreadable("17"), RUN, Start(Unreadable("17"), None)),
        (Unreadable("17"), None, Start(Unreadable("17"), None)),
    ],
)
def test_start(cursor, run, expected):
    assert start(cursor, run) == expected


@pytest.mark.parametrize(
    ("have", "first", "last", "verdict"),
    [
        (0, 1, 1, Verdict.DELIVER),
        (3, 4, 9, Verdict.DELIVER),
        (3, 2, 4, Verdict.DELIVER),
        (3, 3, 3, Verdict.DUPLICATE),
        (3, 1, 2, Verdict.DUPLICATE),
        (3, 4, 3, Verdict.DUPLICATE),  # empty
        (3, 5, 9, Verdict.GAP),
    ],
)
def test_accept(have, first, last, verdict):
    assert accept(have, first, last) is verdict
